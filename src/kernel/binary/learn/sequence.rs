//! What is launched for a multi-label batch before its loss, where a perturbation is learned: a pure function of the rule, the plan, the
//! addresses and the shape.

use super::super::args::Targets;
use super::args::{BinaryConfidencesArgs, BinaryLearnerArgs, LearnBinaryArgs, SignOutputs, SignRule};
use super::plan::BinaryLearnPlan;
use super::rule::{BinaryRule, HostRule};
use crate::kernel::args::DevicePointer;
use crate::kernel::plan::Geometry;
use crate::perturbation::BinaryStep;

/// Device addresses of a sign's part, 0 for what is not there.
#[derive(Clone, Copy, Debug, Default)]
pub struct SignAddresses {
    /// i32 `[C]`, where [`HostRule::directions`] are.
    pub directions: DevicePointer,
    /// f64 `[C]`, where [`HostRule::bounds`] are.
    pub bounds: DevicePointer,
    /// What is learned. `fixed` is the fixed perturbation of the sign; `perturbation` is always there.
    pub outputs: SignOutputs,
}

/// Device addresses of the learner's workspace and outputs, 0 for what is not there. Sizes are those of [`BinaryLearnWorkspaceSizes`].
#[derive(Clone, Copy, Debug, Default)]
pub struct BinaryLearnAddresses {
    /// Positives first.
    pub signs: [SignAddresses; 2],
    /// Where [`BinaryRule::needs_confidences`]: u64 `[2 C]`, 0 before the first launch.
    pub counting: DevicePointer,
    /// u64 `[4 C]`, as above.
    pub sums: DevicePointer,
    /// u32 `[2 C]`, as above.
    pub met: DevicePointer,
    /// [`super::SignGroup`] `[2 C]`.
    pub groups: DevicePointer,
    /// f64 `[2]`.
    pub taus: DevicePointer,
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
    /// What a rule needs for `classes` classes.
    pub fn of(rule: &BinaryRule, classes: usize) -> Self {
        Self { groups: if rule.needs_confidences() { classes.saturating_mul(2) } else { 0 } }
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
    /// The confidences, where they are wanted before the steps or instead of them.
    pub confidences: Option<(Geometry, BinaryConfidencesArgs)>,
    /// The raw steps.
    pub steps: Option<(Geometry, LearnBinaryArgs)>,
}

impl SignRule {
    fn new(host: &HostRule, at: &SignAddresses) -> Self {
        Self {
            directions: at.directions,
            bounds: at.bounds,
            tau: host.tau,
            eps: host.eps,
            delta_eps: host.delta_eps,
            mean: host.mean.into(),
            off: host.off.into(),
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
        let [positive, negative] = &rule.signs;
        let learner = BinaryLearnerArgs {
            rules: [SignRule::new(positive, &at.signs[0]), SignRule::new(negative, &at.signs[1])],
            outputs: at.signs.map(|sign| sign.outputs),
            offset,
            alpha: rule.alpha,
            step: rule.step_number(),
            padding: 0,
        };
        let needs_confidences = rule.needs_confidences();
        let confidences = needs_confidences.then(|| {
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
                ticket: at.ticket,
                rows,
                logits_stride,
                chunk: plan.chunk,
                columns: plan.columns,
            };
            (plan.geometry, args)
        });
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
        Self { confidences, steps }
    }
}
