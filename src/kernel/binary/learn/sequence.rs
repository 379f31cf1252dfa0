//! What is launched for a multi-label batch before its loss, where a perturbation is learned: a pure function of the rule, the plan, the
//! addresses and the shape.

use super::super::args::Targets;
use super::args::{BinaryConfidencesArgs, BinaryLearnerArgs, LearnBinaryArgs, SignOutputs, SignRule};
use super::plan::BinaryLearnPlan;
use super::rule::BinaryRule;
use crate::kernel::args::DevicePointer;
use crate::kernel::learn::Rule;
use crate::kernel::plan::Geometry;
use crate::perturbation::BinaryStep;

/// Device addresses of a sign's part, 0 for what is not there.
#[derive(Clone, Copy, Debug, Default)]
pub struct SignAddresses {
    /// i32 `[C]`, where [`Rule::directions`] are.
    pub directions: DevicePointer,
    /// f64 `[C]`, where [`Rule::bounds`] are.
    pub bounds: DevicePointer,
    /// What is learned. `fixed` is the fixed perturbation of the sign; `perturbation` is always there.
    pub outputs: SignOutputs,
}

/// Device addresses of the learner's workspace and outputs, 0 for what is not there. Sizes are those of [`BinaryLearnWorkspaceSizes`].
#[derive(Clone, Copy, Debug, Default)]
pub struct BinaryLearnAddresses {
    /// Positives first.
    pub signs: [SignAddresses; 2],
    /// Where [`BinaryRule::needs_confidences`] or a batch is spread over devices: u64 `[2 C]`, 0 before the first launch.
    pub counting: DevicePointer,
    /// u64 `[4 C]`, as above.
    pub sums: DevicePointer,
    /// u32 `[2 C]`, as above.
    pub met: DevicePointer,
    /// [`super::SignGroup`] `[2 C]`.
    pub groups: DevicePointer,
    /// f64 `[2]`.
    pub taus: DevicePointer,
    /// Where a batch is spread over devices, u64 and f64 `[2 C]`: how often each class and sign occurs and the sums of its confidences, this
    /// device's first and then those of all.
    pub counts: DevicePointer,
    /// As above.
    pub confidence_sums: DevicePointer,
    /// u32, 0 before the first launch.
    pub ticket: DevicePointer,
}

/// How much workspace a learner needs; nothing of it grows with N.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BinaryLearnWorkspaceSizes {
    /// Classes and signs of which confidences are added up.
    pub groups: usize,
}

impl BinaryLearnWorkspaceSizes {
    /// What a rule needs for `classes` classes; `data_parallel` where batches are spread over devices.
    pub fn of(rule: &BinaryRule, classes: usize, data_parallel: bool) -> Self {
        Self { groups: if rule.needs_confidences() || data_parallel { classes.saturating_mul(2) } else { 0 } }
    }
}

/// A batch as the learner sees it.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Seen {
    pub(in super::super) logits: DevicePointer,
    pub(in super::super) logits_stride: i64,
    pub(in super::super) targets: Targets,
    pub(in super::super) offset: DevicePointer,
    pub(in super::super) rows: i64,
}

/// The learner's launches, in order; they come after the pre-pass over targets and before everything else.
#[derive(Clone, Copy, Debug)]
pub struct BinaryLearnSequence {
    /// What gathers the confidences of this device's rows, where the batch is spread over devices; a phase of its own.
    pub gather: Option<(Geometry, BinaryConfidencesArgs)>,
    /// The confidences, where they are wanted before the steps or instead of them.
    pub confidences: Option<(Geometry, BinaryConfidencesArgs)>,
    /// The raw steps.
    pub steps: Option<(Geometry, LearnBinaryArgs)>,
}

impl SignRule {
    fn new(rule: &Rule, moves: bool, at: &SignAddresses) -> Self {
        Self {
            directions: at.directions,
            bounds: at.bounds,
            tau: rule.tau,
            eps: rule.eps,
            delta_eps: rule.delta_eps,
            mean: rule.mean.into(),
            off: (!moves).into(),
        }
    }
}

impl BinaryLearnSequence {
    pub(in super::super) fn new(
        rule: &BinaryRule,
        plan: &BinaryLearnPlan,
        at: &BinaryLearnAddresses,
        Seen { logits, logits_stride, targets, offset, rows }: Seen,
    ) -> Self {
        let learner = BinaryLearnerArgs {
            rules: [0, 1].map(|sign| SignRule::new(&rule.signs[sign], rule.moves[sign], &at.signs[sign])),
            outputs: at.signs.map(|sign| sign.outputs),
            offset,
            alpha: rule.alpha,
            step: rule.step_number(),
            padding: 0,
        };
        let spread = at.counts != 0;
        let needs_confidences = rule.needs_confidences() || spread;
        let confidences_of = |rows: i64, gathers: bool| {
            let plan = plan.confidences(rows);
            let args = BinaryConfidencesArgs {
                logits,
                targets,
                learner,
                counting: at.counting,
                sums: at.sums,
                met: at.met,
                groups: at.groups,
                taus: at.taus,
                counts: at.counts,
                confidence_sums: at.confidence_sums,
                ticket: at.ticket,
                rows,
                logits_stride,
                chunk: plan.chunk,
                columns: plan.columns,
                gathers: gathers.into(),
                padding: 0,
            };
            (plan.geometry, args)
        };
        let gather = spread.then(|| confidences_of(rows, true));
        // What was gathered needs no row.
        let confidences = needs_confidences.then(|| confidences_of(if spread { 0 } else { rows }, false));
        let steps = (rule.step == BinaryStep::Raw).then(|| {
            let args = LearnBinaryArgs {
                logits,
                targets,
                learner,
                groups: if needs_confidences { at.groups } else { 0 },
                taus: if needs_confidences { at.taus } else { 0 },
                rows,
                logits_stride,
                kept: plan.kept(rows) as i32,
                columns: plan.columns as i32,
            };
            (plan.steps(rows), args)
        });
        Self { gather, confidences, steps }
    }
}
