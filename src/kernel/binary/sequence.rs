//! What is launched for a multi-label batch: a pure function of the problem, the plan, the addresses and the shape, so that the GPU and the
//! emulator are handed the same.

use super::super::args::{DevicePointer, Operand};
use super::super::plan::{Geometry, count_of};
use super::args::{BinaryClassStatisticsArgs, BinaryCrossEntropyArgs, BinaryTerms, DecodeArgs, TargetFormat, Targets};
use super::learn::{
    BinaryLearnAddresses, BinaryLearnPlan, BinaryLearnSequence, BinaryRule, Seen, check_binary_learner,
};
use super::plan::BinaryPlan;
use crate::error::Result;
use crate::loss::{BinaryCrossEntropy, Reduction};

/// Device addresses of a batch and of the workspace, 0 for what is not there.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "as in kernels/binary_cross_entropy.cu")]
pub struct BinaryAddresses {
    pub logits: DevicePointer,
    pub gradient: DevicePointer,
    /// Targets, or the offsets of lists.
    pub targets: DevicePointer,
    /// The indices of lists.
    pub indices: DevicePointer,
    pub mask: DevicePointer,
    /// Entry weights.
    pub weights: Operand,
    pub offset: DevicePointer,
    pub positive: DevicePointer,
    pub negative: DevicePointer,
    pub pos_weight: DevicePointer,
    pub upstream: DevicePointer,
    pub divisor: DevicePointer,
    pub loss_rows: DevicePointer,
    pub loss: DevicePointer,
    /// Class statistics, `[C]` each: u64, f64, f64. All or none.
    pub class_count: DevicePointer,
    pub class_positives: DevicePointer,
    pub class_loss: DevicePointer,
    /// What statistics are added up in, 0 before the first launch: u64 `[C]`, u64 `[4 C]`, u32 `[C]`.
    pub class_counting: DevicePointer,
    pub class_sums: DevicePointer,
    pub class_met: DevicePointer,
    /// f64, [`BinaryWorkspaceSizes::partials`].
    pub partials: DevicePointer,
    /// u32, twice [`BinaryWorkspaceSizes::words`]: decoded targets, and their mask.
    pub decoded: DevicePointer,
    /// u64 `[2]`: the known entries, and their count so far, which is 0 before the first launch.
    pub known: DevicePointer,
    /// Three u32, 0 before the first launch.
    pub tickets: DevicePointer,
    /// A [`BadTargets`](super::BadTargets), none before the first launch.
    pub found: DevicePointer,
    /// A [`TargetErrors`](super::TargetErrors), 0 before the first launch.
    pub errors: DevicePointer,
}

/// What targets come as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetSource {
    /// A number or a bit an entry, `stride` elements or words from row to row.
    Dense {
        /// How they are stored.
        format: TargetFormat,
        /// Elements, or words, from row to row.
        stride: usize,
    },
    /// Lists of classes with so many indices in all.
    Lists {
        /// Length of the indices.
        indices: usize,
    },
}

/// The shape of a batch.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub struct BinaryShape {
    pub rows: usize,
    pub classes: usize,
    pub logits_stride: usize,
    pub gradient_stride: usize,
    pub targets: TargetSource,
    pub mask_stride: usize,
    /// Whether the upstream gradient on the device is one number a row.
    pub upstream_rows: bool,
}

/// Numbers that the host gives with a batch.
#[derive(Clone, Copy, Debug)]
pub struct BinaryValues {
    /// The gradient of the loss, where it is not on the device.
    pub upstream: f64,
    /// In place of the problem's divisor.
    pub divisor: Option<f64>,
}

/// A problem's learner, prepared.
#[derive(Clone, Copy, Debug)]
pub struct BinaryLearning<'a> {
    /// What the host decides.
    pub rule: &'a BinaryRule,
    /// Its plan.
    pub plan: &'a BinaryLearnPlan,
    /// Its memory.
    pub at: &'a BinaryLearnAddresses,
}

/// The launches of a batch, in order.
#[derive(Clone, Copy, Debug)]
pub struct BinarySequence {
    /// The pre-pass over targets, where there is one.
    pub decode: Option<(Geometry, DecodeArgs)>,
    /// The learner's, where there is one.
    pub learn: Option<BinaryLearnSequence>,
    /// Class statistics, where asked for.
    pub statistics: Option<(Geometry, BinaryClassStatisticsArgs)>,
    /// The main kernel.
    pub main: (Geometry, BinaryCrossEntropyArgs),
}

/// How much workspace batches of up to some number of rows need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BinaryWorkspaceSizes {
    /// Sums of tiles.
    pub partials: usize,
    /// Words of packed bits; needed, twice, for lists only.
    pub words: usize,
}

impl BinaryWorkspaceSizes {
    /// What batches of up to `rows` rows need.
    pub fn of(plan: &BinaryPlan, rows: usize) -> Self {
        let words = rows.max(1).saturating_mul(plan.classes.div_ceil(32));
        Self { partials: plan.most_partials(count_of(rows)), words }
    }
}

/// Names the first option of a problem that the kernels do not have.
///
/// # Errors
/// [`Error::Unsupported`](crate::Error::Unsupported); [`Error::Value`](crate::Error::Value) for a bound out of the kernels' range.
pub fn check_binary_supported(problem: &BinaryCrossEntropy) -> Result<()> {
    check_binary_learner(problem)
}

fn terms(problem: &BinaryCrossEntropy, at: &BinaryAddresses) -> BinaryTerms {
    let focusing = problem.focusing().unwrap_or_default();
    let edge = if focusing.clip == 0.0 { 0.0 } else { (focusing.clip / (1.0 - focusing.clip)).ln() };
    BinaryTerms {
        offset: at.offset,
        positive: at.positive,
        negative: at.negative,
        pos_weight: at.pos_weight,
        weights: at.weights,
        negative_scale: problem.negative_scale() as f32,
        inverse_scale: (1.0 / problem.negative_scale()) as f32,
        gamma_pos: focusing.gamma_pos as f32,
        gamma_neg: focusing.gamma_neg as f32,
        clip: focusing.clip as f32,
        one_minus_clip: (1.0 - focusing.clip) as f32,
        edge: edge as f32,
        edge_rest: (edge - f64::from(edge as f32)) as f32,
    }
}

impl BinarySequence {
    /// The launches for one batch of a supported problem. `learning` is there where the problem has a learner.
    pub fn new(
        problem: &BinaryCrossEntropy,
        plan: &BinaryPlan,
        learning: Option<BinaryLearning<'_>>,
        at: &BinaryAddresses,
        shape: BinaryShape,
        values: BinaryValues,
    ) -> Self {
        let (rows, classes) = (shape.rows as i64, shape.classes as i32);
        let words = shape.classes.div_ceil(32) as i64;
        let is_list = matches!(shape.targets, TargetSource::Lists { .. });
        let given = match shape.targets {
            TargetSource::Dense { format, stride } => Targets {
                data: at.targets,
                mask: at.mask,
                stride: stride as i64,
                mask_stride: shape.mask_stride as i64,
                format: if learning.is_some() { format.hard() } else { format } as i32,
                classes,
            },
            TargetSource::Lists { .. } => Targets {
                data: at.targets,
                mask: at.mask,
                stride: 0,
                mask_stride: shape.mask_stride as i64,
                format: TargetFormat::Bits as i32,
                classes,
            },
        };
        let decoded_mask = at.decoded + 4 * (rows * words) as u64;
        let targets = if is_list {
            Targets { data: at.decoded, mask: decoded_mask, stride: words, mask_stride: words, ..given }
        } else {
            given
        };
        let is_bits = targets.format == TargetFormat::Bits as i32;
        let mean = problem.reduction() == Reduction::Mean;
        // Without a mask, packed bits are all known.
        let counted = mean && !(is_bits && targets.mask == 0);
        let decode = (is_list || counted).then(|| {
            let plan = plan.decode(rows);
            let args = DecodeArgs {
                targets: given,
                indices: at.indices,
                index_count: if let TargetSource::Lists { indices } = shape.targets { indices as i64 } else { 0 },
                bits: at.decoded,
                mask: decoded_mask,
                rows,
                counting: at.known + size_of::<u64>() as u64,
                known: at.known,
                found: at.found,
                ticket: at.tickets + size_of::<u32>() as u64,
                errors: at.errors,
                chunk: plan.chunk,
                lists: is_list.into(),
            };
            (plan.geometry, args)
        });
        let learn = learning.map(|BinaryLearning { rule, plan, at: own }| {
            let (logits_stride, offset) = (shape.logits_stride as i64, at.offset);
            BinaryLearnSequence::new(rule, plan, own, Seen { logits: at.logits, logits_stride, targets, offset, rows })
        });
        // What is learned lies on top of the fixed perturbation.
        let learned = learning.map(|learning| learning.at.signs.map(|sign| sign.outputs.perturbation));
        let [positive, negative] = learned.unwrap_or([at.positive, at.negative]);
        let at = &BinaryAddresses { positive, negative, ..*at };
        let terms = terms(problem, at);
        let statistics = (at.class_count != 0).then(|| {
            let statistics = plan.statistics(rows);
            let args = BinaryClassStatisticsArgs {
                logits: at.logits,
                targets,
                terms,
                counting: at.class_counting,
                positives_sum: at.class_sums,
                loss_sum: at.class_sums + (2 * size_of::<u64>() * shape.classes) as u64,
                met: at.class_met,
                count: at.class_count,
                positives: at.class_positives,
                loss: at.class_loss,
                ticket: at.tickets + 2 * size_of::<u32>() as u64,
                rows,
                logits_stride: shape.logits_stride as i64,
                chunk: statistics.chunk,
                columns: statistics.columns,
                focusing: i32::from(plan.focusing),
                padding: 0,
            };
            (statistics.geometry, args)
        });
        let is_hard =
            !matches!(shape.targets, TargetSource::Dense { format: TargetFormat::F32 | TargetFormat::Element, .. });
        let options = [at.offset, at.positive, at.negative, at.pos_weight, at.weights.data];
        let plain = is_hard && options == [0; 5] && problem.negative_scale() == 1.0 && !plan.focusing;
        let main = BinaryCrossEntropyArgs {
            logits: at.logits,
            gradient: at.gradient,
            targets,
            terms,
            loss_rows: at.loss_rows,
            loss: at.loss,
            partials: at.partials,
            known: if counted { at.known } else { 0 },
            device_divisor: if matches!(problem.reduction(), Reduction::Divisor(_)) { at.divisor } else { 0 },
            device_upstream: at.upstream,
            ticket: at.tickets,
            found: if is_bits { 0 } else { at.found },
            errors: at.errors,
            rows,
            logits_stride: shape.logits_stride as i64,
            gradient_stride: shape.gradient_stride as i64,
            tile_rows: plan.tile_rows(rows) as i32,
            team: plan.team as i32,
            upstream_stride: i32::from(shape.upstream_rows),
            plain: i32::from(plain),
            divisor: match problem.reduction() {
                Reduction::Mean => (rows as f64 * shape.classes as f64).max(1.0) as f32,
                Reduction::BatchMean => rows.max(1) as f32,
                Reduction::Divisor(divisor) => values.divisor.unwrap_or(divisor) as f32,
                Reduction::Sum | Reduction::None => 1.0,
            },
            upstream: values.upstream as f32,
        };
        Self { decode, learn, statistics, main: (plan.geometry(rows), main) }
    }
}
