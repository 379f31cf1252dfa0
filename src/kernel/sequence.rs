//! What is launched for a batch: a pure function of the problem, the plan, the addresses and the shape, so that the GPU and the emulator are
//! handed the same.

use super::args::{
    self, ClassStatisticsArgs, CrossEntropyArgs, DeltaRow, DevicePointer, LabelType, Operand, TallyArgs, Weights,
};
use super::learn::check_learner;
use super::plan::{Geometry, Plan, count_of};
use crate::error::Result;
use crate::loss::{CrossEntropy, LogitScale, Reduction};
use crate::perturbation::Perturbation;

/// Device addresses of a batch and of the workspace, 0 for what is not there.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "as in kernels/softmax.cuh")]
pub struct Addresses {
    pub logits: DevicePointer,
    pub gradient: DevicePointer,
    pub labels: DevicePointer,
    /// Soft targets in place of labels.
    pub targets: Operand,
    /// A shared perturbation, a class matrix or one a sample.
    pub delta: Operand,
    pub margins: DevicePointer,
    pub scales: DevicePointer,
    pub weights: Weights,
    pub upstreams: DevicePointer,
    pub divisor_at: DevicePointer,
    pub from_saved: DevicePointer,
    pub saved: DevicePointer,
    pub loss_rows: DevicePointer,
    pub lse: DevicePointer,
    pub predictions: DevicePointer,
    pub statistics: StatisticsAddresses,
    pub loss: DevicePointer,
    /// f64, [`WorkspaceSizes::partials`].
    pub partials: DevicePointer,
    /// [`args::Tally`], [`WorkspaceSizes::chunks`].
    pub tallies: DevicePointer,
    /// An [`args::Totals`].
    pub totals: DevicePointer,
    /// Three u32, 0 before the first launch.
    pub tickets: DevicePointer,
    /// An [`args::ErrorWord`], 0 before the first launch.
    pub error: DevicePointer,
}

/// Where class statistics are gathered and left.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "as in kernels/class_statistics.cu")]
pub struct StatisticsAddresses {
    /// [`args::ClassSums`] `[C]`, 0 before the first launch.
    pub sums: DevicePointer,
    pub count: DevicePointer,
    pub correct: DevicePointer,
    pub loss: DevicePointer,
    pub confidence: DevicePointer,
    pub rows: DevicePointer,
    /// Two u64, 0 before the first launch.
    pub gathered: DevicePointer,
}

impl StatisticsAddresses {
    /// The parameters of the kernel that turns sums into numbers.
    pub(super) fn args(self, classes: usize, ticket: DevicePointer) -> ClassStatisticsArgs {
        let Self { sums, count, correct, loss, confidence, rows, gathered } = self;
        ClassStatisticsArgs { sums, count, correct, loss, confidence, rows, gathered, ticket, classes: classes as i64 }
    }
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

/// Numbers of a batch that the host gives.
#[derive(Clone, Copy, Debug)]
pub struct Values {
    /// The upstream gradient, where it is not on the device.
    pub upstream: f64,
    /// Whether the upstream gradient on the device has one number a row.
    pub upstream_by_row: bool,
    /// The divisor in place of the problem's.
    pub divisor: Option<f64>,
}

impl Default for Values {
    fn default() -> Self {
        Self { upstream: 1.0, upstream_by_row: false, divisor: None }
    }
}

/// The launches of a batch, in order.
#[derive(Clone, Copy, Debug)]
pub struct Sequence {
    /// The label pre-pass, where there is one.
    pub tally: Option<(Geometry, TallyArgs)>,
    /// The kernel of the plan's variant.
    pub main: (Geometry, CrossEntropyArgs),
    /// The class statistics, where they are asked for.
    pub statistics: Option<(Geometry, ClassStatisticsArgs)>,
}

/// How much workspace a batch needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkspaceSizes {
    /// Sums of chunks.
    pub partials: usize,
    /// Tallies of label chunks.
    pub chunks: usize,
}

impl WorkspaceSizes {
    /// What batches of up to `rows` rows need under any of the plans.
    pub fn of<'a>(plans: impl IntoIterator<Item = &'a Plan>, rows: usize) -> Self {
        let (mut partials, mut chunks) = (1, 1);
        let rows = count_of(rows);
        for plan in plans {
            partials = partials.max(plan.most_chunks(rows) as usize);
            chunks = chunks.max(plan.tally(rows).map_or(1, |tally| tally.chunks(rows) as usize));
        }
        Self { partials, chunks }
    }
}

/// Names the first option of a problem that the kernels do not have.
///
/// # Errors
/// [`Error::Unsupported`](crate::Error::Unsupported), and [`Error::Value`](crate::Error::Value) for a learner's bound over 30.
pub fn check_supported(problem: &CrossEntropy) -> Result<()> {
    check_learner(problem)
}

/// Whether a problem needs the kernels that spread targets over classes or scale classes apart.
pub fn is_general(problem: &CrossEntropy, soft_targets: bool) -> bool {
    soft_targets || problem.label_smoothing() != 0.0 || matches!(problem.scale(), LogitScale::PerClass(_))
}

/// Which row of `delta` a sample takes.
fn delta_row(perturbation: &Perturbation) -> DeltaRow {
    match perturbation {
        Perturbation::ClassMatrix(_) => DeltaRow::OfLabel,
        Perturbation::PerSample => DeltaRow::OfRow,
        _ => DeltaRow::Shared,
    }
}

impl Sequence {
    /// The launches for one batch of a supported problem.
    pub fn new(problem: &CrossEntropy, plan: &Plan, at: &Addresses, shape: Shape, values: Values) -> Self {
        let rows = shape.rows as i64;
        let labels = args::Labels {
            data: at.labels,
            ignore_index: problem.ignore_index(),
            label_type: shape.label_type as i32,
            classes: shape.classes as i32,
        };
        let mean = problem.reduction() == Reduction::Mean;
        // A gradient from what was saved finds the labels checked.
        let error = if at.from_saved == 0 { at.error } else { 0 };
        let ticket = |index: u64| at.tickets + index * size_of::<u32>() as u64;
        // Soft targets have nothing to check.
        let needs_tally = mean || at.labels != 0 && error != 0;
        let tally = plan.tally(rows).filter(|_| needs_tally).map(|tally| {
            let args = TallyArgs {
                labels,
                weights: at.weights,
                rows,
                chunk: tally.chunk,
                partials: at.tallies,
                totals: at.totals,
                ticket: ticket(1),
                error,
            };
            (tally.geometry, args)
        });
        let divisor = match (values.divisor, problem.reduction()) {
            (Some(divisor), _) | (None, Reduction::Divisor(divisor)) => divisor,
            _ => 1.0,
        };
        let args = CrossEntropyArgs {
            logits: at.logits,
            gradient: at.gradient,
            perturbation: args::Perturbation {
                delta: at.delta,
                margins: at.margins,
                scales: at.scales,
                delta_row: delta_row(problem.perturbation()) as i32,
                scale: match problem.scale() {
                    LogitScale::Uniform(scale) => *scale as f32,
                    LogitScale::PerClass(_) => 1.0,
                },
            },
            labels,
            targets: at.targets,
            weights: at.weights,
            upstreams: at.upstreams,
            divisor_at: at.divisor_at,
            from_saved: at.from_saved,
            saved: at.saved,
            loss_rows: at.loss_rows,
            lse: at.lse,
            predictions: at.predictions,
            statistics: at.statistics.sums,
            loss: at.loss,
            partials: at.partials,
            totals: if tally.is_some() { at.totals } else { 0 },
            ticket: ticket(0),
            error,
            rows,
            logits_stride: shape.logits_stride as i64,
            gradient_stride: shape.gradient_stride as i64,
            tiles: plan.tiles(rows),
            chunks: plan.chunks(rows),
            chunk_tiles: plan.chunk_tiles(rows),
            tile_rows: plan.tile_rows as i32,
            mean: i32::from(mean),
            divisor: divisor as f32,
            upstream: values.upstream as f32,
            upstream_by_row: i32::from(values.upstream_by_row),
            label_smoothing: problem.label_smoothing() as f32,
            z_loss: problem.z_loss() as f32,
            padding: 0,
        };
        let statistics = (at.statistics.sums != 0)
            .then(|| (plan.statistics_geometry(shape.classes), at.statistics.args(shape.classes, ticket(2))));
        Self { tally, main: (plan.geometry(rows), args), statistics }
    }
}
