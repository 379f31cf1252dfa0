//! What computes a case for the `check` example, and which cases it can.

// The path is given because the tests include this file from elsewhere, where it is no module of the same name.
#[path = "backend_cpu.rs"]
mod cpu;
#[cfg(feature = "cuda")]
#[path = "backend_cuda.rs"]
mod cuda;
#[path = "backend_emulated.rs"]
mod emulated;
#[path = "kernel_batch.rs"]
mod kernel_batch;
#[path = "learned.rs"]
mod learned;
#[path = "sigmoid.rs"]
mod sigmoid;
#[cfg(feature = "cuda")]
#[path = "sigmoid_cuda.rs"]
mod sigmoid_cuda;
#[path = "softmax.rs"]
mod softmax;
#[cfg(feature = "cuda")]
#[path = "softmax_cuda.rs"]
mod softmax_cuda;

use clap::ValueEnum;
use logit_perturb_cases::{Case, Precision, Results};

/// What the user asks for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// The f64 reference.
    Cpu,
    /// A CUDA device.
    Cuda,
    /// The CUDA kernels on an emulated device.
    Emulated,
    /// Every backend that is at hand.
    All,
}

/// Computes cases.
pub trait Backend {
    /// The name by which it is asked for.
    fn name(&self) -> &'static str;

    /// What it computes in.
    fn precision(&self) -> Precision;

    /// Why it does not compute a case.
    fn uncovered(&self, case: &Case) -> Option<String>;

    /// Computes a case that it covers. `reference` is what the f64 reference computed.
    fn evaluate(&mut self, case: &Case, reference: &Results) -> Result<Results, String>;
}

/// The backends of a choice.
pub struct Chosen {
    pub backends: Vec<Box<dyn Backend>>,
    /// Why one of `all` is not among them.
    pub missing: Option<String>,
}

/// Opens what was chosen. Of `all`, what is not at hand is left out.
pub fn open(choice: Choice) -> Result<Chosen, String> {
    let mut chosen = Chosen { backends: Vec::new(), missing: None };
    if matches!(choice, Choice::Cpu | Choice::All) {
        chosen.backends.push(Box::new(cpu::Cpu));
    }
    if matches!(choice, Choice::Emulated | Choice::All) {
        chosen.backends.push(Box::new(emulated::Emulated));
    }
    match choice {
        Choice::Cpu | Choice::Emulated => {}
        Choice::Cuda => chosen.backends.push(open_cuda()?),
        Choice::All => match open_cuda() {
            Ok(backend) => chosen.backends.push(backend),
            Err(reason) => chosen.missing = Some(format!("cuda: {reason}")),
        },
    }
    Ok(chosen)
}

#[cfg(feature = "cuda")]
fn open_cuda() -> Result<Box<dyn Backend>, String> {
    Ok(Box::new(cuda::Cuda::open().map_err(|error| error.to_string())?))
}

#[cfg(not(feature = "cuda"))]
fn open_cuda() -> Result<Box<dyn Backend>, String> {
    Err("built without the feature `cuda`".to_owned())
}
