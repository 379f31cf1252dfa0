//! The multi-label learner's part of an operation on the emulated device.

use crate::memory::{Buffer, Memory};
use crate::report::Traffic;
use logit_perturb::BinaryLearner;
use logit_perturb::kernel::binary::{
    BinaryLearnAddresses, BinaryLearnPlan, BinaryLearnWorkspaceSizes, BinaryRule, SignAddresses, SignGroup, SignOutputs,
};
use logit_perturb::kernel::{DType, Limits};

/// What was learned for one sign, `[C]` each.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "as in kernels/binary_learner.cuh")]
pub struct LearnedBinarySign {
    pub delta: Vec<f32>,
    pub directions: Vec<i32>,
    pub steps: Vec<u32>,
    pub confidences: Vec<f64>,
    pub tau: f64,
}

/// What was learned.
#[derive(Clone, Debug)]
pub struct LearnedBinary {
    /// On entries with target 1.
    pub positive: LearnedBinarySign,
    /// On entries with target 0.
    pub negative: LearnedBinarySign,
    /// The learner's plan.
    pub plan: BinaryLearnPlan,
    /// Accesses to the logits, by launch.
    pub logits_traffic: Vec<Traffic>,
}

#[derive(Clone, Copy)]
struct Sign {
    delta: Buffer<f32>,
    directions: Buffer<i32>,
    steps: Buffer<u32>,
    confidences: Buffer<f64>,
    tau: Buffer<f64>,
}

/// The learner's memory, with what decides its launches.
pub(crate) struct LearnedBuffers {
    pub(crate) rule: BinaryRule,
    pub(crate) plan: BinaryLearnPlan,
    pub(crate) at: BinaryLearnAddresses,
    signs: [Sign; 2],
    counting: Buffer<u64>,
    sums: Buffer<u64>,
    met: Buffer<u32>,
    ticket: Buffer<u32>,
    /// Where the batch is spread over devices: counts and sums of confidences, `[2, C]`.
    pub(crate) gathered: Option<(Buffer<u64>, Buffer<f64>)>,
}

impl LearnedBuffers {
    /// `fixed`: addresses of the fixed perturbations of positives and negatives.
    pub(crate) fn new(
        memory: &mut Memory,
        learner: &BinaryLearner,
        (classes, dtype, limits): (usize, DType, Limits),
        fixed: [u64; 2],
        data_parallel: bool,
    ) -> Self {
        let rule = BinaryRule::new(learner);
        let groups = BinaryLearnWorkspaceSizes::of(&rule, classes, data_parallel).groups;
        let signs = [0, 1].map(|_| Sign {
            delta: memory.poisoned(classes),
            directions: memory.poisoned(classes),
            steps: memory.poisoned(classes),
            confidences: memory.poisoned(classes),
            tau: memory.poisoned(1),
        });
        let at = [0, 1].map(|which: usize| SignAddresses {
            directions: rule.signs[which].directions.as_ref().map_or(0, |numbers| memory.upload(numbers).address()),
            bounds: rule.signs[which].bounds.as_ref().map_or(0, |numbers| memory.upload(numbers).address()),
            outputs: SignOutputs {
                fixed: fixed[which],
                perturbation: memory.poisoned::<f32>(classes).address(),
                delta: signs[which].delta.address(),
                directions: signs[which].directions.address(),
                steps: signs[which].steps.address(),
                confidences: signs[which].confidences.address(),
                tau: signs[which].tau.address(),
            },
        });
        // What a rule does not need has an element that must stay as it is.
        let size = groups.max(1);
        let counting = memory.upload(&vec![0u64; size]);
        let sums = memory.upload(&vec![0u64; 2 * size]);
        let (met, ticket) = (memory.upload(&vec![0u32; size]), memory.upload(&[0u32]));
        let gathered = data_parallel.then(|| (memory.poisoned(groups), memory.poisoned(groups)));
        let at = BinaryLearnAddresses {
            signs: at,
            counting: counting.address(),
            sums: sums.address(),
            met: met.address(),
            groups: memory.poisoned::<SignGroup>(size).address(),
            taus: memory.poisoned::<f64>(2).address(),
            counts: gathered.map_or(0, |(counts, _): (Buffer<u64>, _)| counts.address()),
            confidence_sums: gathered.map_or(0, |(_, sums): (_, Buffer<f64>)| sums.address()),
            ticket: ticket.address(),
        };
        let plan = BinaryLearnPlan::new(classes, dtype, limits);
        Self { rule, plan, at, signs, counting, sums, met, ticket, gathered }
    }

    /// Whether everything that is to be 0 between launches is.
    pub(crate) fn is_idle(&self, memory: &Memory) -> bool {
        let wide = [self.counting, self.sums].iter().all(|&buffer| memory.download(buffer).iter().all(|&x| x == 0));
        wide && [self.met, self.ticket].iter().all(|&buffer| memory.download(buffer).iter().all(|&x| x == 0))
    }

    pub(crate) fn download(&self, memory: &Memory, logits_traffic: Vec<Traffic>) -> LearnedBinary {
        let [positive, negative] = self.signs.map(|sign| LearnedBinarySign {
            delta: memory.download(sign.delta),
            directions: memory.download(sign.directions),
            steps: memory.download(sign.steps),
            confidences: memory.download(sign.confidences),
            tau: memory.download(sign.tau)[0],
        });
        LearnedBinary { positive, negative, plan: self.plan, logits_traffic }
    }
}
