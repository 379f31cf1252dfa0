//! The `check` example's work, apart from the process, so that the tests can run it too.

use clap::{Parser, ValueEnum};
use logit_perturb_cases::{Case, Precision, Report, compare, evaluate_cpu, write};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(Parser)]
#[command(name = "check", about = "Checks case files against logit-perturb", version)]
struct Options {
    /// What computes.
    #[arg(long, value_enum, default_value_t = Backend::Cpu)]
    backend: Backend,
    /// Stores the results of one file that has no expectations as its expectations, in OUT.
    #[arg(long, value_name = "OUT")]
    write: Option<PathBuf>,
    /// Case files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Backend {
    /// The f64 reference.
    Cpu,
    /// A CUDA device.
    Cuda,
}

/// Runs the command line; the exit status is 0 when all passed, 1 when some failed, 2 where a file or the request makes no sense.
pub fn run(arguments: impl IntoIterator<Item = OsString>, out: &mut impl Write, err: &mut impl Write) -> u8 {
    let status = match Options::try_parse_from(arguments) {
        Ok(options) => execute(&options, out),
        // Help and version are no errors, and go to the standard output.
        Err(usage) if !usage.use_stderr() => write!(out, "{usage}").map(|()| 0).map_err(|error| error.to_string()),
        Err(usage) => Err(usage.to_string()),
    };
    status.unwrap_or_else(|message| {
        // There is nowhere left to complain to.
        let _ = writeln!(err, "error: {}", message.trim_start_matches("error: ").trim_end());
        2
    })
}

fn execute(options: &Options, out: &mut impl Write) -> Result<u8, String> {
    if let Backend::Cuda = options.backend {
        return Err(cuda_refusal());
    }
    let mut say = |line: String| writeln!(out, "{line}").map_err(|error| format!("standard output: {error}"));
    if let Some(to) = &options.write {
        let [file] = options.files.as_slice() else {
            return Err(format!("--write takes one file, not {}", options.files.len()));
        };
        let case = read(file)?;
        let results = evaluate_cpu(&case).map_err(|error| format!("{}: {error}", file.display()))?;
        write(file, to, &results).map_err(|error| format!("{} to {}: {error}", file.display(), to.display()))?;
        say(format!("wrote {} tensors to {}", results.tensors.len(), to.display()))?;
        return Ok(0);
    }
    // Every file is read before the first is computed: one that cannot be read is no matter of passing or failing.
    let cases = options.files.iter().map(|file| Ok((file, read(file)?))).collect::<Result<Vec<_>, String>>()?;
    let (mut passed, mut failed) = (0, 0);
    for (file, case) in cases {
        let results = evaluate_cpu(&case).map_err(|error| format!("{}: {error}", file.display()))?;
        let report = compare(&case, &results, Precision::F64);
        describe(file, &report).into_iter().try_for_each(&mut say)?;
        *if report.passed() { &mut passed } else { &mut failed } += 1;
    }
    say(format!("{passed} passed, {failed} failed"))?;
    Ok(u8::from(failed > 0))
}

fn read(file: &Path) -> Result<Case, String> {
    Case::read(file).map_err(|error| format!("{}: {error}", file.display()))
}

/// A line for the case, and one for each tensor that failed.
fn describe(file: &Path, report: &Report) -> Vec<String> {
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let verdict = if report.passed() { "ok    " } else { "FAILED" };
    let worst: Vec<String> = report.comparisons.iter().map(|c| format!("{} {:.1e}", c.name, c.worst)).collect();
    let mut lines = vec![match worst.len() {
        0 => format!("{verdict} {name}: 0 tensors compared: the file has no expectations"),
        n => format!("{verdict} {name}: {n} tensors compared; worst error: {}", worst.join(", ")),
    }];
    for comparison in &report.comparisons {
        lines.extend(comparison.failure.iter().map(|failure| format!("       expect.{} {failure}", comparison.name)));
    }
    lines
}

#[cfg(feature = "cuda")]
fn cuda_refusal() -> String {
    match logit_perturb::cuda::devices() {
        Err(error) => error.to_string(),
        Ok(_) => "this version has no CUDA kernels yet; use --backend cpu".to_owned(),
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda_refusal() -> String {
    "built without the feature `cuda`".to_owned()
}
