//! Corner cases of SPEC 5.

use crate::case::{Case, Format, TINY, dense};
use logit_perturb::kernel::binary::{AllowedTargets, TargetErrors};
use logit_perturb::kernel::{DType, Limits};
use logit_perturb::{BinaryCrossEntropy, Focusing, Reduction};
use logit_perturb_emulator::{BinaryOutcome, Emulator, Gradient, Options, Rows};

const INF: f32 = f32::INFINITY;

#[test]
fn batches_of_no_row_have_loss_0() {
    for format in Format::ALL {
        for reduction in
            [Reduction::Mean, Reduction::BatchMean, Reduction::Sum, Reduction::None, Reduction::Divisor(3.0)]
        {
            let mut case = Case::random(DType::F16, format, 40, 0, 1);
            case.problem = BinaryCrossEntropy::builder().reduction(reduction).build().unwrap();
            case.statistics = true;
            let outcome = case.run(1);
            assert_eq!(outcome.loss.to_bits(), 0, "{format:?}, {reduction:?}");
            let statistics = outcome.statistics.unwrap();
            assert_eq!((statistics.count, statistics.loss), (vec![0; 40], vec![0.0; 40]));
        }
    }
}

#[test]
fn batches_without_a_known_entry_have_loss_0() {
    for format in Format::ALL {
        for reduction in [Reduction::Mean, Reduction::Divisor(3.0), Reduction::None] {
            let mut case = Case::random(DType::F32, format, 40, 5, 1);
            case.mask = Some(vec![false; 200]);
            case.logits.fill(f32::NAN);
            case.problem = BinaryCrossEntropy::builder().reduction(reduction).build().unwrap();
            // An infinite upstream gradient reaches no gradient of 0, and a divisor of 0 no loss of 0.
            (case.upstream, case.device_upstream, case.statistics) = (vec![INF], true, true);
            case.device_divisor = matches!(reduction, Reduction::Divisor(_)).then_some(0.0);
            let outcome = case.run(1);
            assert_eq!(outcome.loss.to_bits(), 0, "{format:?}");
            assert!(outcome.gradient.iter().chain(&outcome.loss_rows).all(|x| x.to_bits() == 0), "{format:?}");
        }
    }
}

/// What lies under a mask, an unknown target or a weight has no effect: NaN in logits, weights and targets, and infinite losses.
#[test]
fn masked_entries_have_no_effect() {
    for dtype in DType::ALL {
        for format in Format::ALL {
            for focusing in [None, Some(Focusing { gamma_pos: 1.0, gamma_neg: 2.0, clip: 0.05 })] {
                let mut case = Case::random(dtype, format, 45, 6, 3).masked(3).weighted(true, 3);
                let mut builder = BinaryCrossEntropy::builder();
                if let Some(focusing) = focusing {
                    builder = builder.focusing(focusing);
                }
                (case.problem, case.statistics) = (builder.build().unwrap(), true);
                let clean = case.check(1);
                for index in 0..case.logits.len() {
                    if case.is_known(index) {
                        continue;
                    }
                    case.logits[index] = [f32::NAN, INF, -INF][index % 3];
                    case.weights.as_mut().unwrap()[index] = f32::NAN;
                    if format.is_soft() && !case.mask.as_ref().unwrap()[index] {
                        case.targets[index] = f32::NAN;
                    }
                }
                let dirty = case.run(1);
                assert_eq!(crate::bits(&clean), crate::bits(&dirty), "{}", case.describe());
                assert_eq!(dirty.errors, TargetErrors::default(), "{}", case.describe());
            }
        }
    }
}

/// Infinite logits give the limits; NaN spoils its own gradient entry and its row's loss, under a weight of 0 too.
#[test]
fn values_that_are_not_finite_stay_where_they_are() {
    let forms = [
        None,
        Some(Focusing { gamma_pos: 0.0, gamma_neg: 0.0, clip: 0.0 }),
        Some(Focusing { gamma_pos: 2.0, gamma_neg: 2.0, clip: 0.0 }),
        Some(Focusing { gamma_pos: 2.0, gamma_neg: 0.0, clip: 0.1 }),
    ];
    for form in forms {
        for format in [Format::F32, Format::Bits] {
            for weighted in [false, true] {
                for value in [f32::NAN, INF, -INF, 1e4, -1e4, 1e37, -1e37] {
                    let mut case = Case::random(DType::F32, format, 37, 5, 7);
                    let mut builder = BinaryCrossEntropy::builder();
                    if let Some(focusing) = form {
                        builder = builder.focusing(focusing);
                    }
                    let pos_weight: Vec<f64> = (0..37).map(|c| if c % 5 == 0 { 0.0 } else { 1.5 }).collect();
                    case.problem = builder.pos_weight(pos_weight).reduction(Reduction::BatchMean).build().unwrap();
                    if weighted {
                        case = case.weighted(true, 5);
                    }
                    // In rows 1 and 3, at targets of every kind.
                    for column in (0..37).step_by(4) {
                        case.logits[37 + column] = value;
                        case.logits[3 * 37 + 36 - column] = value;
                        case.targets[37 + column] = [0.0, 1.0, 1.0][column / 4 % 3];
                        case.targets[3 * 37 + 36 - column] = if format.is_soft() { 0.25 } else { 1.0 };
                    }
                    // Statistics hold sums below 2^35.
                    case.statistics = value.abs() != 1e37;
                    case.check(3);
                }
            }
        }
    }
}

/// An upstream gradient that is not finite reaches every gradient but those of 0.
#[test]
fn infinite_upstream_gradients_leave_0_alone() {
    for upstream in [INF, -INF, f32::NAN] {
        let mut case = Case::random(DType::F32, Format::F32, 40, 5, 7).masked(7).weighted(true, 7);
        (case.upstream, case.device_upstream) = (vec![upstream], true);
        case.compare(&case.run(1));
    }
}

fn errors(bad: u64, row: u64, column: i64, value: f64, end: i64) -> TargetErrors {
    TargetErrors { bad, row, column, value, end }
}

/// A bad target counts as masked; how many there are, and the first of the first launch that found any, is kept.
#[test]
fn bad_targets_are_recorded_and_count_as_masked() {
    for dtype in DType::ALL {
        for format in [Format::F32, Format::Same, Format::I8, Format::U8] {
            for c in [3, 45, 1100] {
                let rows = 9;
                let mut case = Case::random(dtype, format, c, rows, 3);
                let values = match format {
                    Format::I8 => [2.0, -2.0, 127.0],
                    Format::U8 => [2.0, 255.0, 128.0],
                    _ => [1.5, -0.5, INF],
                };
                let good = case.targets.clone();
                case.mask = Some(good.iter().map(|&t| t != -1.0).collect());
                for (at, value) in [8 * c + 1, 2 * c + c - 1, 5 * c].into_iter().zip(values) {
                    case.targets[at] = value;
                    case.mask.as_mut().unwrap()[at] = true;
                }
                // One under the mask is not looked at.
                (case.targets[c], case.mask.as_mut().unwrap()[c]) = (2.0, false);
                let mut emulator = Emulator::new(Options { seed: 4, ..Options::default() });
                let operation = case.operation(&mut emulator, None);
                for launch in 1..=3 {
                    let outcome = operation.run(&mut emulator).unwrap();
                    case.compare(&outcome);
                    let first = errors(3 * launch, 2, c as i64 - 1, values[1].into(), 0);
                    assert_eq!(outcome.errors, first, "{}", case.describe());
                }
            }
        }
    }
    let mut case = Case::random(DType::F32, Format::F32, 10, 3, 3);
    case.targets[25] = f32::NAN;
    let outcome = case.run(1);
    case.compare(&outcome);
    assert!(outcome.errors.value.is_nan() && (outcome.errors.row, outcome.errors.column) == (2, 5));
    let problem = outcome.errors.problem(10, AllowedTargets { unknown: true, hard: false }).unwrap();
    assert_eq!(problem, "class 5 is NaN, must be in [0, 1] or -1 (unknown); 1 such target(s) in all");
}

/// What was recorded first stays until it is read, and good batches leave it alone.
#[test]
fn the_first_record_stays() {
    let mut case = Case::random(DType::F32, Format::U8, 20, 5, 3);
    case.targets.iter_mut().for_each(|t| *t = t.max(0.0));
    let good = case.clone();
    case.targets[70] = 5.0;
    let mut emulator = Emulator::new(Options::default());
    let operation = case.operation(&mut emulator, None);
    for (bad, count) in [(Some(70), 1), (Some(30), 2), (None, 2), (Some(99), 3)] {
        case.targets.clone_from(&good.targets);
        if let Some(bad) = bad {
            case.targets[bad] = 5.0;
        }
        let bytes: Vec<u8> = case.targets.iter().map(|&t| t as u8).collect();
        operation.set_targets(&mut emulator, &bytes);
        let outcome = operation.run(&mut emulator).unwrap();
        case.compare(&outcome);
        assert_eq!(outcome.errors, errors(count, 3, 10, 5.0, 0));
    }
    let mut case = Case::random(DType::F32, Format::Csr, 20, 2, 3);
    case.targets.fill(0.0);
    let mut emulator = Emulator::new(Options::default());
    let operation = case.operation(&mut emulator, Some((vec![0, 1, 2], vec![3, 20])));
    for (indices, count) in [([3, 20], 1), ([-4, 3], 2)] {
        operation.set_targets(&mut emulator, &indices);
        assert_eq!(operation.run(&mut emulator).unwrap().errors, errors(count, 1, -1, 20.0, 2));
    }
}

/// The first is the least by row and column, wherever it is found.
#[test]
fn the_first_bad_target_is_found_anywhere() {
    for c in [1, 5, 40, 300] {
        for first in [0, 1, c, 7 * c + c / 2, 30 * c - 1] {
            let mut case = Case::random(DType::F32, Format::U8, c, 30, 3);
            case.targets.iter_mut().for_each(|t| *t = t.max(0.0));
            case.targets[first.min(30 * c - 1)..].iter_mut().step_by(3).for_each(|t| *t = 9.0);
            let first = first.min(30 * c - 1);
            let outcome = case.run(first as u64);
            let count = (30 * c - first).div_ceil(3) as u64;
            assert_eq!(outcome.errors, errors(count, (first / c) as u64, (first % c) as i64, 9.0, 0), "{c}");
            case.compare(&outcome);
        }
    }
}

fn run_lists(case: &Case, offsets: Vec<i32>, indices: Vec<i32>) -> BinaryOutcome {
    let mut emulator = Emulator::new(Options { seed: 6, ..Options::default() });
    let operation = case.operation(&mut emulator, Some((offsets, indices)));
    let first = operation.run(&mut emulator).unwrap();
    let second = operation.run(&mut emulator).unwrap();
    assert_eq!(crate::bits(&first), crate::bits(&second));
    assert_eq!(second.errors.bad, 2 * first.errors.bad);
    first
}

#[test]
fn lists_have_their_corner_cases() {
    for reduction in [Reduction::Mean, Reduction::Sum] {
        for c in [1, 31, 32, 33, 64, 100, 1100] {
            let rows = 7;
            let mut case = Case::random(DType::F32, Format::Csr, c, rows, 3);
            case.targets.fill(0.0);
            case.gradient = Gradient::Into(dense(c));
            case.problem = BinaryCrossEntropy::builder().reduction(reduction).build().unwrap();
            // All empty, with no index at all.
            let outcome = run_lists(&case, vec![0; 8], vec![]);
            case.compare(&outcome);
            // A row with every class, one with the last class many times, out of order; the first offset need not be 0.
            let all: Vec<i32> = (0..c as i32).rev().collect();
            let last = vec![c as i32 - 1; 20];
            let indices = [vec![-9, -9], all, last].concat();
            let (a, b) = (2 + c as i32, 22 + c as i32);
            let offsets = vec![2, 2, a, a, b, b, b, b];
            case.targets[c..2 * c].fill(1.0);
            case.targets[4 * c - 1] = 1.0;
            let outcome = run_lists(&case, offsets.clone(), indices.clone());
            case.compare(&outcome);
            assert_eq!(outcome.errors, TargetErrors::default());
            // Indices out of range are left out, the others of their list stay.
            let mut wrong = indices.clone();
            wrong.extend([c as i32, 0, -1, i32::MAX, i32::MIN]);
            let mut offsets = offsets;
            offsets[6] = b + 5;
            offsets[7] = b + 5;
            let mut seen = case.clone();
            seen.targets[5 * c] = 1.0;
            let outcome = run_lists(&seen, offsets.clone(), wrong.clone());
            seen.compare(&outcome);
            assert_eq!(outcome.errors, errors(4, 5, -1, c as f64, (b + 5).into()), "{c}");
            assert!(
                outcome
                    .errors
                    .problem(c, AllowedTargets { unknown: false, hard: false })
                    .unwrap()
                    .starts_with(&format!("class index {c}, must be in 0..{c}; 4 such"))
            );
            // Offsets that fall, start below 0 or end behind the indices mask their rows; a mask of the batch's own stays.
            let mut falling = offsets.clone();
            (falling[3], falling[7]) = (a - 1, b + 6);
            let laid_out = seen.masked(2);
            let mut seen = laid_out.clone();
            seen.targets[2 * c..3 * c].fill(-1.0);
            seen.targets[6 * c..7 * c].fill(-1.0);
            // Row 3 now starts one index earlier: at the last of row 1's, class 0.
            seen.targets[3 * c] = 1.0;
            let outcome = run_lists(&laid_out, falling, wrong);
            seen.compare(&outcome);
            assert_eq!(outcome.errors, errors(6, 2, -2, a.into(), (a - 1).into()), "{c}");
            let negative = vec![-1, 0, 0, 0, 0, 0, 0, 0];
            let mut laid_out = case.clone();
            laid_out.targets.fill(0.0);
            let mut seen = laid_out.clone();
            seen.targets[..c].fill(-1.0);
            let outcome = run_lists(&laid_out, negative, vec![0]);
            seen.compare(&outcome);
            assert_eq!(outcome.errors, errors(1, 0, -2, -1.0, 0));
        }
    }
}

/// Rows far apart: offsets need 64 bits.
#[test]
fn rows_beyond_two_to_the_31_elements_are_found() {
    let far = Rows { stride: 1 << 31, offset: 0 };
    for c in [10, 100, 1100] {
        for (format, gradient) in
            [(Format::F32, Gradient::InPlace), (Format::U8, Gradient::Into(far)), (Format::I8, Gradient::None)]
        {
            let mut case = Case { rows_at: far, gradient, ..Case::random(DType::BF16, format, c, 3, 4) };
            (case.targets_at, case.statistics) = (far, true);
            case.check(5);
        }
    }
}

/// So small a device that blocks and warps meet many tiles, tiles many rows, and the last block more sums than it has threads.
#[test]
fn loops_take_many_turns() {
    for (block_threads, chunks) in [(32, 1), (64, 1), (32, 20), (128, 2)] {
        for (c, rows) in [(3, 400), (40, 170), (300, 70), (1100, 40)] {
            for format in [Format::I8, Format::Csr] {
                let limits =
                    Limits { block_threads, resident_threads: block_threads, multiprocessors: 1, chunks, ..TINY };
                let mut case = Case { limits, ..Case::random(DType::F32, format, c, rows, 21) };
                (case.statistics, case.gradient) = (true, Gradient::InPlace);
                case.check(7);
            }
        }
    }
}

/// A launch leaves what the next one needs, whatever the targets were.
#[test]
fn batches_follow_each_other() {
    for c in [5, 100, 1100] {
        let mut case = Case::random(DType::F32, Format::I8, c, 8, 5);
        case.statistics = true;
        let mut emulator = Emulator::new(Options::default());
        let operation = case.operation(&mut emulator, None);
        for seed in 6..10 {
            case.compare(&operation.run(&mut emulator).unwrap());
            case.targets = Case::random(DType::F32, Format::I8, c, 8, seed).targets;
            let bytes: Vec<i8> = case.targets.iter().map(|&t| t as i8).collect();
            operation.set_targets(&mut emulator, &bytes);
        }
    }
}
