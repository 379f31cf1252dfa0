//! What is launched for a batch: a pure function of the problem, the plan, the addresses and the shape, so that the GPU and the emulator are
//! handed the same.

use super::args::{self, CrossEntropyArgs, DevicePointer, LabelType, TallyArgs};
use super::plan::{Geometry, Plan};
use crate::error::{Error, Result};
use crate::loss::{CrossEntropy, LogitScale, Reduction};
use crate::perturbation::Perturbation;

/// Device addresses of a batch and of the workspace, 0 for what is not there.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "as in kernels/cross_entropy.cu")]
pub struct Addresses {
    pub logits: DevicePointer,
    pub gradient: DevicePointer,
    pub labels: DevicePointer,
    pub delta: DevicePointer,
    pub loss_rows: DevicePointer,
    pub lse: DevicePointer,
    pub loss: DevicePointer,
    /// f64, [`WorkspaceSizes::partials`].
    pub partials: DevicePointer,
    /// u64, three times [`WorkspaceSizes::chunks`].
    pub tallies: DevicePointer,
    /// u64.
    pub valid_rows: DevicePointer,
    /// Two u32, 0 before the first launch.
    pub tickets: DevicePointer,
    /// An [`args::ErrorWord`], 0 before the first launch.
    pub error: DevicePointer,
}

/// The shape of a batch.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Shape {
    pub rows: usize,
    pub classes: usize,
    pub logits_stride: usize,
    pub gradient_stride: usize,
    pub label_type: LabelType,
}

/// The launches of a batch, in order.
#[derive(Clone, Copy, Debug)]
pub struct Sequence {
    /// The label pre-pass, where there is one.
    pub tally: Option<(Geometry, TallyArgs)>,
    /// The kernel of the plan's variant.
    pub main: (Geometry, CrossEntropyArgs),
}

/// How much workspace a batch needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkspaceSizes {
    /// Sums of tiles.
    pub partials: usize,
    /// Tallies of label chunks.
    pub chunks: usize,
}

impl WorkspaceSizes {
    /// What batches of up to `rows` rows need under any of the plans.
    pub fn of<'a>(plans: impl IntoIterator<Item = &'a Plan>, rows: usize) -> Self {
        let (mut partials, mut chunks) = (1, 1);
        for plan in plans {
            partials = partials.max(plan.tiles(rows as i64) as usize);
            chunks = chunks.max(plan.tally(rows as i64).map_or(1, |tally| tally.chunks(rows as i64) as usize));
        }
        Self { partials, chunks }
    }
}

/// Names the first option of a problem that the kernels do not have.
///
/// # Errors
/// [`Error::Unsupported`].
pub fn check_supported(problem: &CrossEntropy) -> Result<()> {
    let perturbation = problem.perturbation();
    let options = [
        ("a learned perturbation", problem.learner().is_some()),
        ("this form of perturbation", !matches!(perturbation, Perturbation::None | Perturbation::Shared(_))),
        ("a scale per class", matches!(problem.scale(), LogitScale::PerClass(_))),
        ("label smoothing", problem.label_smoothing() != 0.0),
        ("z-loss", problem.z_loss() != 0.0),
        ("class weights", problem.class_weights().is_some()),
    ];
    match options.into_iter().find(|(_, asked_for)| *asked_for) {
        None => Ok(()),
        Some((what, _)) => Err(Error::Unsupported { what: what.to_owned(), backend: "CUDA" }),
    }
}

impl Sequence {
    /// The launches for one batch of a supported problem.
    pub fn new(problem: &CrossEntropy, plan: &Plan, at: &Addresses, shape: Shape, upstream: f64) -> Self {
        let rows = shape.rows as i64;
        let labels = args::Labels {
            data: at.labels,
            ignore_index: problem.ignore_index(),
            label_type: shape.label_type as i32,
            classes: shape.classes as i32,
        };
        let tally = plan.tally(rows).map(|tally| {
            let args = TallyArgs {
                labels,
                rows,
                chunk: tally.chunk,
                partials: at.tallies,
                valid_rows: at.valid_rows,
                ticket: at.tickets + size_of::<u32>() as u64,
                error: at.error,
            };
            (tally.geometry, args)
        });
        let args = CrossEntropyArgs {
            logits: at.logits,
            gradient: at.gradient,
            perturbation: args::Perturbation { delta: at.delta, scale: problem.scale().at(0) as f32, padding: 0 },
            labels,
            loss_rows: at.loss_rows,
            lse: at.lse,
            loss: at.loss,
            partials: at.partials,
            valid_rows: if tally.is_some() { at.valid_rows } else { 0 },
            ticket: at.tickets,
            error: at.error,
            rows,
            logits_stride: shape.logits_stride as i64,
            gradient_stride: shape.gradient_stride as i64,
            tile_rows: plan.tile_rows as i32,
            mean: i32::from(problem.reduction() == Reduction::Mean),
            divisor: match problem.reduction() {
                Reduction::Divisor(divisor) => divisor as f32,
                _ => 1.0,
            },
            upstream: upstream as f32,
        };
        Self { tally, main: (plan.geometry(rows), args) }
    }
}
