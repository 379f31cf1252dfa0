//! What is launched for a batch with a learned perturbation: a pure function of the problem, the plan, the addresses and the shape.

use super::args::{GroupArgs, LearnArgs};
use super::plan::LearnPlan;
use super::rule::Rule;
use crate::kernel::args::{ClassStatisticsArgs, CrossEntropyArgs, DevicePointer, TallyArgs, Weights};
use crate::kernel::plan::Geometry;
use crate::kernel::sequence::{Addresses, Sequence, Shape, StatisticsAddresses, Values, WorkspaceSizes};
use crate::loss::CrossEntropy;
use crate::perturbation::{Learner, Step};

/// Device addresses of the learner's workspace and outputs, 0 for what is not there. Sizes are those of [`LearnWorkspaceSizes`].
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "as in kernels/group_rows.cu and kernels/learn_tile.cuh")]
pub struct LearnAddresses {
    /// u32 `[N]`.
    pub order: DevicePointer,
    /// u64 `[C + 1]`, 0 before the first launch.
    pub found: DevicePointer,
    /// [`super::Group`].
    pub groups: DevicePointer,
    /// One [`super::GroupList`].
    pub list: DevicePointer,
    /// u32, one a group.
    pub by_team: DevicePointer,
    /// `ClassSums` `[C]`, 0 before the first launch; where [`Rule::mean`], and where the batch is spread over devices.
    pub sums: DevicePointer,
    /// u64 and f64 `[C]`: where the batch is spread over devices.
    pub counts: DevicePointer,
    pub confidence_sums: DevicePointer,
    /// f32.
    pub scratch: DevicePointer,
    /// f32 `[gang_rows, C]` and f64 `[gang_rows]`.
    pub gang_sums: DevicePointer,
    pub gang_numbers: DevicePointer,
    /// i32 and f64 `[C]`, as the rule has them.
    pub directions: DevicePointer,
    pub bounds: DevicePointer,
    /// f32 `[1]`, and `[1]` or `[C]`: in place of what the learner says.
    pub alpha_at: DevicePointer,
    pub eps_at: DevicePointer,
    /// u64, 0 before the first launch.
    pub bad_bound: DevicePointer,
    /// f64 `[C]`, NaN for a class never seen.
    pub running: DevicePointer,
    /// Outputs, by group.
    pub classes: DevicePointer,
    pub present: DevicePointer,
    pub tau: DevicePointer,
    pub delta: DevicePointer,
    pub directions_taken: DevicePointer,
    pub steps_taken: DevicePointer,
    pub confidences: DevicePointer,
}

/// How much workspace a learner needs beside `[N]` and `[C]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnWorkspaceSizes {
    /// That of cross-entropy; the partial sums serve both.
    pub plain: WorkspaceSizes,
    /// Groups at most.
    pub groups: usize,
    /// Rows of what gangs of blocks tell each other.
    pub gang_rows: usize,
    /// f32 of all blocks' tiles.
    pub scratch: usize,
}

impl LearnWorkspaceSizes {
    /// What batches of up to `rows` rows need under any of the plans.
    pub fn of<'a>(plans: impl IntoIterator<Item = &'a LearnPlan>, rows: usize) -> Self {
        let mut all = Self { plain: WorkspaceSizes { partials: 1, chunks: 1 }, groups: 1, gang_rows: 0, scratch: 0 };
        for plan in plans {
            let plain = WorkspaceSizes::of([&plan.plain], rows);
            let n = rows as i64;
            all.groups = all.groups.max(plan.most_groups(rows));
            all.gang_rows = all.gang_rows.max(plan.most_gang_rows(rows));
            all.plain.partials = all.plain.partials.max(plain.partials).max(all.groups);
            all.plain.chunks = all.plain.chunks.max(plain.chunks);
            all.scratch = all.scratch.max(plan.scratch_floats(n) * plan.geometry(n).grid as usize);
        }
        all
    }
}

/// Numbers of the learner that one batch brings.
#[derive(Clone, Copy, Debug, Default)]
pub struct LearnValues {
    /// Of the running confidences.
    pub momentum: f64,
    /// In place of the learner's step size.
    pub alpha: Option<f64>,
    /// In place of the bound that all classes share.
    pub eps: Option<f64>,
    /// Whether `eps_at` has one a class.
    pub eps_by_class: bool,
}

/// The launches that gather what a class's confidence is the mean of: for batches that are spread over devices.
#[derive(Clone, Copy, Debug)]
pub struct ConfidenceSequence {
    /// Cross-entropy without the learner.
    pub confidences: (Geometry, CrossEntropyArgs),
    /// What it gathered, as numbers.
    pub statistics: (Geometry, ClassStatisticsArgs),
}

/// Cross-entropy of the same logits for the confidences alone, which know nothing of weights, smoothing and z.
fn confidence_args(outer: CrossEntropyArgs, sums: DevicePointer) -> CrossEntropyArgs {
    CrossEntropyArgs {
        gradient: 0,
        weights: Weights::default(),
        loss_rows: 0,
        lse: 0,
        predictions: 0,
        loss: 0,
        statistics: sums,
        totals: 0,
        error: 0,
        mean: 0,
        divisor: 1.0,
        divisor_at: 0,
        label_smoothing: 0.0,
        z_loss: 0.0,
        ..outer
    }
}

impl ConfidenceSequence {
    /// The launches for the rows that one device has. `statistics`: where the numbers go; their `sums` are the learner's.
    pub fn new(
        problem: &CrossEntropy,
        plan: &LearnPlan,
        at: &Addresses,
        statistics: StatisticsAddresses,
        shape: Shape,
        values: Values,
    ) -> Self {
        let Sequence { main: (_, outer), .. } = Sequence::new(problem, &plan.plain, at, shape, values);
        let geometry = plan.plain.geometry(shape.rows as i64);
        let statistics = statistics.args(shape.classes, outer.ticket);
        Self {
            confidences: (geometry, confidence_args(outer, statistics.sums)),
            statistics: (plan.plain.statistics_geometry(shape.classes), statistics),
        }
    }
}

/// The launches of a batch with a learner, in order.
#[derive(Clone, Copy, Debug)]
pub struct LearnSequence {
    /// The label pre-pass, where there is one.
    pub tally: Option<(Geometry, TallyArgs)>,
    /// Cross-entropy without the learner, for the classes' confidences; where their mean decides and none came from other devices.
    pub confidences: Option<(Geometry, CrossEntropyArgs)>,
    /// The rows by class.
    pub groups: (Geometry, GroupArgs),
    /// The steps, loss and gradient.
    pub main: (Geometry, LearnArgs),
    /// The class statistics, where they are asked for.
    pub statistics: Option<(Geometry, ClassStatisticsArgs)>,
}

impl LearnSequence {
    /// The launches for one batch.
    #[allow(clippy::too_many_arguments, reason = "each is a struct of its own")]
    pub fn new(
        problem: &CrossEntropy,
        (learner, rule): (&Learner, &Rule),
        plan: &LearnPlan,
        at: &Addresses,
        own: &LearnAddresses,
        learn_values: LearnValues,
        shape: Shape,
        values: Values,
    ) -> Self {
        let Sequence { tally, main: (_, outer), statistics } = Sequence::new(problem, &plan.plain, at, shape, values);
        let rows = shape.rows as i64;
        let LearnValues { momentum, alpha, eps, eps_by_class } = learn_values;
        let gathered = own.counts != 0;
        let confidences =
            (rule.mean && !gathered).then(|| (plan.plain.geometry(rows), confidence_args(outer, own.sums)));
        let groups = GroupArgs {
            labels: outer.labels,
            rows,
            order: own.order,
            found: own.found,
            groups: own.groups,
            list: own.list,
            by_team: own.by_team,
            sums: if confidences.is_some() { own.sums } else { 0 },
            counts: own.counts,
            confidence_sums: own.confidence_sums,
            running: own.running,
            classes: own.classes,
            present: own.present,
            tau_out: own.tau,
            ticket: outer.ticket,
            momentum,
            tau: rule.tau,
            mean: rule.mean.into(),
            // Those of the whole batch, as the kernel of the steps has them.
            tile_rows: plan.tile_rows(rows) as i32,
            warp_rows: plan.warp_rows(rows) as i32,
            padding: 0,
        };
        let main = LearnArgs {
            outer,
            order: own.order,
            groups: own.groups,
            list: own.list,
            by_team: own.by_team,
            scratch: own.scratch,
            gang_sums: own.gang_sums,
            gang_numbers: own.gang_numbers,
            directions: own.directions,
            // A bound that all classes share takes the place of one a class, and the other way round.
            bounds: if eps.is_some() { 0 } else { own.bounds },
            alpha_at: own.alpha_at,
            eps_at: own.eps_at,
            bad_bound: own.bad_bound,
            running: own.running,
            delta: own.delta,
            directions_taken: own.directions_taken,
            steps_taken: own.steps_taken,
            confidences: own.confidences,
            momentum,
            alpha: alpha.unwrap_or_else(|| learner.alpha()),
            eps: eps.unwrap_or(rule.eps),
            delta_eps: rule.delta_eps,
            eps_by_class: eps_by_class.into(),
            unit_l2: (learner.step() == Step::UnitL2).into(),
            confidences_known: (rule.mean || gathered).into(),
            tile_rows: plan.tile_rows(rows) as i32,
            warp_rows: plan.warp_rows(rows) as i32,
            column_rows: plan.column_rows() as i32,
        };
        Self {
            tally,
            confidences,
            groups: (plan.group_geometry(rows), groups),
            main: (plan.geometry(rows), main),
            statistics,
        }
    }
}
