//! What computes a case for the `check` example, and which cases it can.

// The path is given because the tests include this file from elsewhere, where it is no module of the same name.
#[path = "backend_cpu.rs"]
mod cpu;
#[cfg(feature = "cuda")]
#[path = "backend_cuda.rs"]
mod cuda;
#[path = "backend_emulated.rs"]
mod emulated;

use clap::ValueEnum;
use logit_perturb::kernel::check_supported;
use logit_perturb::{CrossEntropy, DType, Error, Reduction};
use logit_perturb_cases::{Case, Precision, Problem, Results, Tensor};
use std::collections::BTreeMap;

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

/// A batch that the kernels take, in their types.
struct KernelBatch<'a> {
    problem: &'a CrossEntropy,
    logits: Vec<f32>,
    labels: &'a [i64],
}

/// What the kernels gave for it.
struct KernelOutput {
    loss: f32,
    loss_rows: Vec<f32>,
    gradient: Vec<f32>,
}

/// The batch of a case as the kernels take it, or what about it they do not have.
fn kernel_batch(case: &Case) -> Result<KernelBatch<'_>, String> {
    let Problem::Softmax(problem) = &case.problem else {
        return Err("binary cross-entropy".to_owned());
    };
    check_supported(problem).map_err(|error| match error {
        Error::Unsupported { what, .. } => what,
        other => other.to_string(),
    })?;
    let labels = case.labels().ok_or("soft targets")?;
    if case.has_sample_weights() {
        return Err("sample weights".to_owned());
    }
    match case.logits() {
        (DType::F32, logits) => Ok(KernelBatch { problem, logits: logits.iter().map(|&x| x as f32).collect(), labels }),
        (dtype, _) => Err(format!("{dtype:?} logits").to_lowercase()),
    }
}

/// The output under the names of the expectations.
fn kernel_results(case: &Case, reference: &Results, batch: &KernelBatch<'_>, output: KernelOutput) -> Results {
    let wide = |data: Vec<f32>| data.into_iter().map(f64::from).collect();
    let mut tensors = BTreeMap::from([
        ("loss_rows", Tensor::float([case.rows], wide(output.loss_rows))),
        ("grad", Tensor::float([case.rows, case.classes], wide(output.gradient))),
    ]);
    if batch.problem.reduction() != Reduction::None {
        tensors.insert("loss", Tensor::float([1], wide(vec![output.loss])));
    }
    reference.with_tensors(tensors)
}
