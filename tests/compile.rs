//! Every variant through NVRTC for every architecture: it compiles, it spills no register, and what it takes is as tabulated. Needs the NVRTC
//! library and no GPU; without it the tests are shown as ignored, and fail where `LOGIT_PERTURB_REQUIRE` lists `nvrtc`.
//!
//! With `LOGIT_PERTURB_WRITE_TABLE` set, the table is written anew.

use libtest_mimic::{Arguments, Failed, Trial};
use logit_perturb::cuda::{Compilation, compiler_version};
use logit_perturb::kernel::{LearnPlan, Limits, Variant};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const ARCHITECTURES: [i32; 7] = [75, 80, 86, 89, 90, 100, 120];
/// Threads of the largest block that a plan asks for, and registers of a block.
const MOST_THREADS: u64 = 512;
const BLOCK_REGISTERS: u64 = 65_536;
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/registers.csv");
const HEADER: &str = "nvrtc,architecture,variant,registers,spill_bytes,stack_bytes,shared_bytes";

/// Rows of the table, by architecture and variant.
type Rows = Arc<Mutex<BTreeMap<(i32, String), String>>>;

fn main() {
    let mut arguments = Arguments::from_args();
    let version = compiler_version();
    let required = std::env::var("LOGIT_PERTURB_REQUIRE").is_ok_and(|list| list.split(',').any(|name| name == "nvrtc"));
    let write = std::env::var_os("LOGIT_PERTURB_WRITE_TABLE").is_some();
    if required {
        arguments.ignored = false;
    }
    let rows = Rows::default();
    let mut trials = Vec::new();
    for architecture in ARCHITECTURES {
        for variant in Variant::all().into_iter().filter(|variant| variant.oldest_architecture() <= architecture) {
            let (version, rows) = (version.clone(), rows.clone());
            let run = move || {
                let version = version.map_err(|error| error.to_string())?;
                compile(variant, architecture, version, write, &rows)
            };
            let trial = Trial::test(format!("sm_{architecture}::{}", variant.name()), run);
            trials.push(trial.with_ignored_flag(compiler_version().is_err() && !required));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if write {
        let rows = rows.lock().expect("no trial panicked");
        let lines: Vec<&str> = std::iter::once(HEADER).chain(rows.values().map(String::as_str)).collect();
        std::fs::write(TABLE, lines.join("\n") + "\n").expect("the table can be written");
    }
    conclusion.exit();
}

fn compile(variant: Variant, architecture: i32, version: (i32, i32), write: bool, rows: &Rows) -> Result<(), Failed> {
    let code = Compilation::new(variant, architecture).compile()?;
    if !code.cubin.starts_with(b"\x7fELF") {
        return Err("the device code is no cubin".into());
    }
    let number = |before: &str, after: &str| numbers(&code.log, before, after);
    let registers = number("Used ", " registers").ok_or("the log does not tell the registers")?;
    let spills = number("", " bytes spill stores").zip(number("", " bytes spill loads"));
    let (stores, loads) = spills.ok_or("the log does not tell the spills")?;
    let stack = number("", " bytes stack frame").unwrap_or(0);
    let shared = number("", " bytes smem").unwrap_or(0);
    if stores + loads > 0 {
        return Err(format!("{stores} bytes of spill stores, {loads} of spill loads").into());
    }
    let threads = match variant {
        Variant::LearnCrossEntropy { values, .. } => LearnPlan::most_threads(values).into(),
        _ => MOST_THREADS,
    };
    if registers * threads > BLOCK_REGISTERS {
        return Err(format!("{registers} registers a thread are more than a block of {threads} threads has").into());
    }
    if shared > u64::from(Limits::STATIC_SHARED) {
        return Err(format!("{shared} bytes of shared memory, of which the plans do not know").into());
    }
    if stack > 0 {
        return Err(format!("{stack} bytes of arrays that are not in registers").into());
    }
    let row = format!(
        "{}.{},{architecture},{},{registers},{},{stack},{shared}",
        version.0,
        version.1,
        variant.name(),
        stores + loads
    );
    let key = (architecture, variant.name());
    rows.lock().expect("no trial panicked").insert(key, row.clone());
    let table = std::fs::read_to_string(TABLE).unwrap_or_default();
    // Another version of the compiler may take other registers.
    let comparable =
        !write && table.lines().nth(1).is_none_or(|line| line.starts_with(&format!("{}.{},", version.0, version.1)));
    if comparable && !table.lines().any(|line| line == row) {
        return Err(
            format!("the table {TABLE} has no line `{row}`; set LOGIT_PERTURB_WRITE_TABLE to write it anew").into()
        );
    }
    Ok(())
}

/// The number that stands between two texts in a log.
fn numbers(log: &str, before: &str, after: &str) -> Option<u64> {
    let end = log.find(after)?;
    let start = log[..end].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
    log[..start].ends_with(before).then(|| log[start..end].parse().ok())?
}
