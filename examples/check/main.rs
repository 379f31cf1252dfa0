//! Numeric checks of batches dumped from any framework: `cargo run --release --example check -- FILE.safetensors...`
//!
//! A case file (SPEC 7) holds a problem, a batch and expected numbers. Each is computed here and compared at the tolerance that SPEC 6 and 7
//! give it, by the f64 reference, by a CUDA device or by the CUDA kernels on an emulated one (`--backend`). A case that a backend does not
//! support is listed with the reason and is no failure. The last lines are `K not covered` and `N passed, M failed`. Exit status: 0 none
//! failed, 1 some failed, 2 a file or a request that makes no sense.

mod run;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(run::run(std::env::args_os(), &mut std::io::stdout().lock(), &mut std::io::stderr().lock()))
}
