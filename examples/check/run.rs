//! The `check` example's work, apart from the process, so that the tests can run it too.

// The path is given because the tests include this file from elsewhere, where it is no module of the same name.
#[path = "backend.rs"]
mod backend;

use backend::{Backend, Choice, Chosen};
use clap::Parser;
use logit_perturb_cases::{Case, Report, Results, compare, evaluate_cpu, write};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(Parser)]
#[command(name = "check", about = "Checks case files against logit-perturb", version)]
struct Options {
    /// What computes.
    #[arg(long, value_enum, default_value_t = Choice::Cpu)]
    backend: Choice,
    /// Stores the reference's results of one file that has no expectations as its expectations, in OUT.
    #[arg(long, value_name = "OUT")]
    write: Option<PathBuf>,
    /// Case files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// How many cases ended in which way.
#[derive(Default)]
struct Counts {
    passed: usize,
    failed: usize,
    not_covered: usize,
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
    let mut say = |line: String| writeln!(out, "{line}").map_err(|error| format!("standard output: {error}"));
    if let Some(to) = &options.write {
        if options.backend != Choice::Cpu {
            return Err("--write stores what the reference computes, so --backend must be cpu".to_owned());
        }
        say(write_results(&options.files, to)?)?;
        return Ok(0);
    }
    let Chosen { backends, missing } = backend::open(options.backend)?;
    // Every file goes through the reference before the first line is printed: one that cannot be read, or whose batch makes no sense, is no
    // matter of passing or failing.
    let cases = options.files.iter().map(|file| Ok((file, read(file)?))).collect::<Result<Vec<_>, String>>()?;
    missing.into_iter().try_for_each(|reason| say(format!("not at hand: {reason}")))?;
    let mut counts = Counts::default();
    for mut backend in backends {
        let prefix = if options.backend == Choice::All { format!("{:<9}", backend.name()) } else { String::new() };
        for (file, (case, reference)) in &cases {
            for line in check(file, case, reference, &mut *backend, &mut counts) {
                say(format!("{prefix}{line}"))?;
            }
        }
    }
    say(format!("{} not covered", counts.not_covered))?;
    say(format!("{} passed, {} failed", counts.passed, counts.failed))?;
    Ok(u8::from(counts.failed > 0))
}

/// A case, and what the reference makes of it.
fn read(file: &Path) -> Result<(Case, Results), String> {
    let case = Case::read(file).and_then(|case| evaluate_cpu(&case).map(|results| (case, results)));
    case.map_err(|error| format!("{}: {error}", file.display()))
}

fn write_results(files: &[PathBuf], to: &Path) -> Result<String, String> {
    let [file] = files else {
        return Err(format!("--write takes one file, not {}", files.len()));
    };
    let (_, results) = read(file)?;
    write(file, to, &results).map_err(|error| format!("{} to {}: {error}", file.display(), to.display()))?;
    Ok(format!("wrote {} tensors to {}", results.tensors.len(), to.display()))
}

/// Computes and compares one case; the lines about it.
fn check(file: &Path, case: &Case, reference: &Results, backend: &mut dyn Backend, counts: &mut Counts) -> Vec<String> {
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    if let Some(reason) = backend.uncovered(case) {
        counts.not_covered += 1;
        return vec![format!("not covered: {name} ({reason})")];
    }
    let (passed, lines) = match backend.evaluate(case, reference) {
        Ok(results) => {
            let report = compare(case, &results, backend.precision());
            (report.passed(), describe(&name, &report))
        }
        Err(error) => (false, vec![format!("FAILED {name}: {}", error.trim_end())]),
    };
    *if passed { &mut counts.passed } else { &mut counts.failed } += 1;
    lines
}

/// A line for the case, and one for each tensor that failed.
fn describe(name: &str, report: &Report) -> Vec<String> {
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
