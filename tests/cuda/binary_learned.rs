//! The multi-label learner on the device, against the f64 reference.

use crate::binary::{Number, expect_bad, gather, operation, run_through};
use crate::case::{Case, Format, Numbers, dense};
use crate::device::Device;
use crate::learned_run::{
    compare_shard, compare_sign, explicit, hard, is_open, learner, learning, occurrences, raw, reference,
    shards as shards_of, with_learned,
};
use libtest_mimic::Failed;
use logit_perturb::cuda::{BinaryCrossEntropyOp, BinarySetup, LearnedSignViews};
use logit_perturb::cudarc::driver::CudaStream;
use logit_perturb::half::{bf16, f16};
use logit_perturb::kernel::DType;
use logit_perturb::{
    BinaryCrossEntropy, BinaryLearner, BinaryPerturbation, BinaryStep, Bound, Error, Focusing, GradientSemantics,
    Reduction, Split,
};
use logit_perturb_emulator::{Gradient, LearnedBinarySign, Rows};
use std::sync::Arc;

fn sign(stream: &Arc<CudaStream>, views: LearnedSignViews<'_>) -> Result<LearnedBinarySign, Failed> {
    Ok(LearnedBinarySign {
        delta: stream.clone_dtoh(&views.delta)?,
        directions: stream.clone_dtoh(&views.direction)?,
        steps: stream.clone_dtoh(&views.steps)?,
        confidences: stream.clone_dtoh(&views.confidence)?,
        tau: stream.clone_dtoh(&views.tau)?[0],
    })
}

fn learned<T: Number>(device: &Device, op: &BinaryCrossEntropyOp<T>) -> Result<[LearnedBinarySign; 2], Failed> {
    let views = op.learned().ok_or("what was learned was asked for and is not there")?;
    Ok([sign(&device.stream, views.positive)?, sign(&device.stream, views.negative)?])
}

fn run_as<T: Number>(case: &Case) -> Result<(Numbers, [LearnedBinarySign; 2]), Failed> {
    let device = Device::get();
    let mut op = operation::<T>(device, case)?;
    let numbers = run_through(device, &mut op, case)?;
    op.check()?;
    Ok((numbers, learned(device, &op)?))
}

fn run(case: &Case) -> Result<(Numbers, [LearnedBinarySign; 2]), Failed> {
    match case.dtype {
        DType::F32 => run_as::<f32>(case),
        DType::F16 => run_as::<f16>(case),
        DType::BF16 => run_as::<bf16>(case),
    }
}

/// `false` where rounding decides how many steps there are.
fn check(case: &Case) -> Result<bool, Failed> {
    let output = reference(case);
    if is_open(case, &output) {
        return Ok(false);
    }
    let (numbers, [positive, negative]) = run(case)?;
    let expected = output.learned.as_ref().ok_or("the reference learned nothing")?;
    compare_sign("positive", learner(case), &positive, &expected.positive);
    compare_sign("negative", learner(case), &negative, &expected.negative);
    with_learned(case, &output).compare_numbers(&numbers);
    Ok(true)
}

/// Every format, step and split, on a fixed perturbation and under weights.
pub fn batches() -> Result<(), Failed> {
    for (i, c) in [1, 5, 80, 300].into_iter().enumerate() {
        for (f, format) in Format::ALL.into_iter().enumerate() {
            for (s, step) in [BinaryStep::Raw, BinaryStep::Sign, BinaryStep::Exact].into_iter().enumerate() {
                for split in [Split::MeanConfidence, Split::Confidence { tau: 0.6 }, explicit(c)] {
                    let vector = |f: f64| (0..c).map(|k| f64::from((k as f64 * f).sin() as f32)).collect::<Vec<_>>();
                    let learner = BinaryLearner::new(step, 0.25, split, Bound::Fixed { eps: 3.1 })?;
                    let mut case = hard(DType::ALL[(i + f) % 3], format, c, 40, (i + s) as u64).masked(3);
                    let fixed = BinaryPerturbation::none().offset(vector(0.3)).positive(vector(0.7));
                    let mut builder = BinaryCrossEntropy::builder().perturbation(fixed).learner(learner);
                    if f % 2 == 0 {
                        builder = builder.focusing(Focusing { gamma_pos: 1.0, gamma_neg: 3.0, clip: 0.05 });
                    }
                    (case.problem, case.statistics) = (builder.build()?, true);
                    case.rows_at = [dense(c), Rows { stride: c + 3, offset: 2 }][s % 2];
                    case.gradient = [Gradient::InPlace, Gradient::Into(dense(c))][f % 2];
                    if !check(&case)? {
                        return Err("no bound here follows a confidence".into());
                    }
                }
            }
        }
    }
    Ok(())
}

/// More rows than a block keeps of a strip.
pub fn streamed() -> Result<(), Failed> {
    for dtype in DType::ALL {
        for split in [Split::MeanConfidence, explicit(19)] {
            let mut case = hard(dtype, Format::U8, 19, 9000, 5);
            case.targets.iter_mut().for_each(|t| *t = t.max(0.0));
            case.problem = learning(raw(0.25, 3.0, split));
            check(&case)?;
        }
    }
    Ok(())
}

/// The same bits every run.
pub fn repeated() -> Result<(), Failed> {
    for split in [Split::MeanConfidence, explicit(300)] {
        let mut case = hard(DType::F32, Format::I8, 300, 200, 6);
        case.problem = learning(raw(0.25, 3.0, split));
        let bits = || -> Result<Vec<u32>, Failed> {
            let (numbers, signs) = run(&case)?;
            let delta = signs.iter().flat_map(|sign| sign.delta.clone());
            Ok(numbers.gradient.into_iter().chain(delta).chain([numbers.loss]).map(f32::to_bits).collect())
        };
        let expected = bits()?;
        for _ in 0..10 {
            if bits()? != expected {
                return Err("another run gave other bits".into());
            }
        }
    }
    Ok(())
}

/// Two operations with a part of a batch each, that add up what they gather between the phases.
pub fn shards() -> Result<(), Failed> {
    let device = Device::get();
    let stream = &device.stream;
    for format in [Format::U8, Format::Csr] {
        for step in [BinaryStep::Raw, BinaryStep::Sign, BinaryStep::Exact] {
            let (whole, parts) = shards_of(format, 11, step, Split::MeanConfidence, Reduction::Mean);
            let mut ops = [operation::<f32>(device, &parts[0])?, operation::<f32>(device, &parts[1])?];
            if run_through(device, &mut ops[0], &parts[0]).is_ok() {
                return Err("a batch without confidences is refused".into());
            }
            let groups = 2 * whole.classes;
            let (mut counts, mut sums) = (vec![0u64; groups], vec![0.0f64; groups]);
            for (op, part) in ops.iter_mut().zip(&parts) {
                gather(device, op, part)?;
                let views = op.class_confidences_mut()?;
                let found = stream.clone_dtoh(&views.count)?;
                if found != occurrences(part) {
                    return Err(format!("{found:?} of {}", part.describe()).into());
                }
                found.iter().zip(&mut counts).for_each(|(x, sum)| *sum += x);
                stream.clone_dtoh(&views.sum)?.iter().zip(&mut sums).for_each(|(x, sum)| *sum += x);
            }
            for (op, part) in ops.iter_mut().zip(&parts) {
                let mut views = op.class_confidences_mut()?;
                stream.memcpy_htod(&counts, &mut views.count)?;
                stream.memcpy_htod(&sums, &mut views.sum)?;
                let numbers = run_through(device, op, part)?;
                op.check()?;
                let [positive, negative] = learned(device, op)?;
                compare_shard(&whole, part, [&positive, &negative], &numbers);
            }
        }
    }
    Ok(())
}

/// A target between 0 and 1 counts as masked, and is kept until it is asked for.
pub fn soft_targets() -> Result<(), Failed> {
    let device = Device::get();
    let mut case = hard(DType::F32, Format::F32, 20, 30, 7);
    case.problem = learning(raw(0.25, 3.0, explicit(20)));
    case.targets[2 * 20 + 3] = 0.25;
    let mut op = operation::<f32>(device, &case)?;
    let numbers = run_through(device, &mut op, &case)?;
    expect_bad(&mut op, Some((2, "class 3 is 0.25, must be 0 or 1 or -1 (unknown) with a learner")))?;
    expect_bad(&mut op, None)?;
    case.targets[2 * 20 + 3] = -1.0;
    with_learned(&case, &reference(&case)).compare_numbers(&numbers);
    Ok(())
}

/// What the kernels lack is a typed error when the operation is made.
pub fn errors() -> Result<(), Failed> {
    let Device { kernels, stream } = Device::get();
    let new = |learner: Option<BinaryLearner>, setup| {
        let problem = learner.map_or_else(BinaryCrossEntropy::default, learning);
        BinaryCrossEntropyOp::<f32>::new(kernels, stream, &problem, setup)
    };
    let setup = BinarySetup::new(6, 9);
    let through = raw(0.25, 3.0, explicit(6)).gradient(GradientSemantics::Through);
    match (
        new(Some(through), setup),
        new(Some(raw(0.25, 31.0, explicit(6))), setup),
        new(None, setup.learned()),
        new(None, setup.data_parallel()),
        new(Some(raw(0.25, 3.0, explicit(6))), setup.learned()),
    ) {
        (
            Err(Error::Unsupported { .. }),
            Err(Error::Value { .. }),
            Err(Error::Conflict { .. }),
            Err(Error::Conflict { .. }),
            Ok(_),
        ) => Ok(()),
        found => Err(format!("{found:?}").into()),
    }
}
