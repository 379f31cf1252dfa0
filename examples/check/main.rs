//! Numeric checks of batches dumped from any framework: `cargo run --release --example check -- FILE.safetensors...`
//!
//! A case file (SPEC 7) holds a problem, a batch and expected numbers. Each is computed here and compared at the tolerance that SPEC 6 and 7
//! give it. The last line is `N passed, M failed`. Exit status: 0 all passed, 1 some failed, 2 a file or a request that makes no sense.

mod run;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(run::run(std::env::args_os(), &mut std::io::stdout().lock(), &mut std::io::stderr().lock()))
}
