//! What is launched for a batch with a learned perturbation: a pure function of the problem, the plan, the addresses and the shape.

use super::args::{GroupArgs, LearnArgs};
use super::plan::LearnPlan;
use super::rule::Rule;
use crate::kernel::args::{ClassStatisticsArgs, CrossEntropyArgs, DevicePointer, TallyArgs, Weights};
use crate::kernel::plan::Geometry;
use crate::kernel::sequence::{Addresses, Sequence, Shape, Values, WorkspaceSizes};
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
    /// `ClassSums` `[C]`, 0 before the first launch; where [`Rule::mean`].
    pub sums: DevicePointer,
    /// f32.
    pub scratch: DevicePointer,
    /// i32 and u32 `[C]`, as the rule has them.
    pub directions: DevicePointer,
    pub steps: DevicePointer,
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
    /// f32 of all blocks' tiles.
    pub scratch: usize,
}

impl LearnWorkspaceSizes {
    /// What batches of up to `rows` rows need under any of the plans.
    pub fn of<'a>(plans: impl IntoIterator<Item = &'a LearnPlan>, rows: usize) -> Self {
        let mut all = Self { plain: WorkspaceSizes { partials: 1, chunks: 1 }, groups: 1, scratch: 0 };
        for plan in plans {
            let plain = WorkspaceSizes::of([&plan.plain], rows);
            let n = rows as i64;
            all.groups = all.groups.max(plan.most_groups(rows));
            all.plain.partials = all.plain.partials.max(plain.partials).max(all.groups);
            all.plain.chunks = all.plain.chunks.max(plain.chunks);
            all.scratch = all.scratch.max(plan.scratch_floats(n) * plan.geometry(n).grid as usize);
        }
        all
    }
}

/// The launches of a batch with a learner, in order.
#[derive(Clone, Copy, Debug)]
pub struct LearnSequence {
    /// The label pre-pass, where there is one.
    pub tally: Option<(Geometry, TallyArgs)>,
    /// Cross-entropy without the learner, for the classes' confidences; where their mean decides.
    pub confidences: Option<(Geometry, CrossEntropyArgs)>,
    /// The rows by class.
    pub groups: (Geometry, GroupArgs),
    /// The steps, loss and gradient.
    pub main: (Geometry, LearnArgs),
    /// The class statistics, where they are asked for.
    pub statistics: Option<(Geometry, ClassStatisticsArgs)>,
}

impl LearnSequence {
    /// The launches for one batch. `momentum` is that of the running confidences.
    #[allow(clippy::too_many_arguments, reason = "each is a struct of its own")]
    pub fn new(
        problem: &CrossEntropy,
        (learner, rule): (&Learner, &Rule),
        plan: &LearnPlan,
        at: &Addresses,
        own: &LearnAddresses,
        momentum: f64,
        shape: Shape,
        values: Values,
    ) -> Self {
        let Sequence { tally, main: (_, outer), statistics } = Sequence::new(problem, &plan.plain, at, shape, values);
        let rows = shape.rows as i64;
        let (eps, delta_eps) = rule.by_confidence.unwrap_or_default();
        // Confidences know nothing of weights, smoothing and z.
        let confidences = rule.mean.then(|| {
            let args = CrossEntropyArgs {
                gradient: 0,
                weights: Weights::default(),
                loss_rows: 0,
                lse: 0,
                predictions: 0,
                loss: 0,
                statistics: own.sums,
                totals: 0,
                error: 0,
                mean: 0,
                divisor: 1.0,
                divisor_at: 0,
                label_smoothing: 0.0,
                z_loss: 0.0,
                ..outer
            };
            (plan.plain.geometry(rows), args)
        });
        let groups = GroupArgs {
            labels: outer.labels,
            rows,
            order: own.order,
            found: own.found,
            groups: own.groups,
            list: own.list,
            sums: if rule.mean { own.sums } else { 0 },
            running: own.running,
            classes: own.classes,
            present: own.present,
            tau_out: own.tau,
            ticket: outer.ticket,
            momentum,
            tau: rule.tau,
        };
        let main = LearnArgs {
            outer,
            order: own.order,
            groups: own.groups,
            list: own.list,
            scratch: own.scratch,
            directions: own.directions,
            steps: own.steps,
            running: own.running,
            delta: own.delta,
            directions_taken: own.directions_taken,
            steps_taken: own.steps_taken,
            confidences: own.confidences,
            momentum,
            alpha: learner.alpha(),
            eps,
            delta_eps,
            same_steps: rule.same_steps,
            bound_by_confidence: rule.by_confidence.is_some().into(),
            unit_l2: (learner.step() == Step::UnitL2).into(),
            confidences_known: rule.mean.into(),
            tile_rows: plan.tile_rows(rows) as i32,
            padding: 0,
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
