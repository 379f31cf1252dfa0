//! Who takes a class: a warp, a block, or a gang of blocks; and batches that are spread over devices.

use crate::common::softmax::Case;
use crate::common::uniform;
use crate::run::{Device, check, compare, lay_out, run, tiles_of, tiles_of_blocks};
use logit_perturb::kernel::Limits;
use logit_perturb::{Bound, Learner, Reduction, Split, Step};
use logit_perturb_emulator::{Emulator, LearnOutcome, Options};

fn learner(split: Split, bound: Bound) -> Learner {
    Learner::new(Step::UnitL2, 0.25, split, bound).unwrap()
}

/// Classes of so many rows, mixed.
fn case(c: usize, counts: &[usize], learner: Learner) -> Case {
    let mut labels: Vec<i64> = Vec::new();
    let most = counts.iter().max().copied().unwrap_or_default();
    for round in 0..most {
        labels.extend(counts.iter().enumerate().filter(|(_, count)| round < **count).map(|(class, _)| class as i64));
    }
    let logits = uniform(21, labels.len() * c, -4.0..4.0).into_iter().map(|x| f64::from(x as f32)).collect();
    let mut case = Case::new(c, logits, labels);
    case.learner = Some(learner);
    case
}

/// One warp after the other with a class of its own, a block, blocks that hold a tile each, and blocks whose tiles take turns; also two gangs
/// side by side, and more than fit side by side.
#[test]
fn every_team_agrees_with_the_reference() {
    for (c, block_threads) in [(9, 128), (70, 64)] {
        for split in [Split::MeanConfidence, Split::Confidence { tau: 0.3 }, Split::Explicit(vec![-1; c])] {
            for bound in [Bound::Fixed { eps: 1.0 }, Bound::Explicit((0..c).map(|k| 0.25 * k as f64).collect())] {
                let mut case = case(c, &[1, 3, 5, 11, 2, 9, 30, 1], learner(split.clone(), bound.clone()));
                case.smoothing = 0.125;
                for multiprocessors in [1, 2, 5, 9] {
                    let limits = Limits { multiprocessors, ..tiles_of_blocks(6, c, block_threads) };
                    let device = Device { statistics: false, ..Device::new(c, limits) };
                    let outcome = run(&case, &device);
                    assert!(compare(&case, &device, &outcome), "{multiprocessors} blocks");
                    let plan = outcome.plan;
                    assert!((1..5).contains(&plan.warp_rows) && plan.tile_rows == 6, "{plan:?}");
                    assert!(plan.geometry(62).cooperative && plan.geometry(62).grid == multiprocessors);
                    assert!(!plan.geometry(6).cooperative, "no class has more rows than a tile");
                }
            }
        }
    }
}

/// More classes than all warps and blocks take at a time. `EMULATOR_RECORDS` names a folder that the launches are written to, for
/// `scripts/sanitize.sh`.
#[test]
fn work_is_taken_until_there_is_none() {
    let c = 40;
    let counts: Vec<usize> = (0..c).map(|k| [1, 4, 0, 2, 7][k % 5]).collect();
    for gangs in [false, true] {
        let counts: Vec<usize> = counts.iter().map(|&count| if gangs && count == 7 { 8 } else { count }).collect();
        let split = if gangs { Split::MeanConfidence } else { Split::Confidence { tau: 0.2 } };
        let mut case = case(c, &counts, learner(split, Bound::Fixed { eps: 0.5 }));
        case.smoothing = if gangs { 0.125 } else { 0.0 };
        let limits = tiles_of(7, c);
        for seed in 0..4 {
            let record = std::env::var_os("EMULATOR_RECORDS").map(Into::into);
            let options = Options { seed, resident_blocks: 1 + seed as u32 % 2, record, ..Options::default() };
            assert!(check(&case, &Device { options, ..Device::new(c, limits) }));
        }
    }
}

fn learned(outcome: &LearnOutcome) -> (Vec<i32>, Vec<u32>, Vec<u32>) {
    let delta = outcome.delta.iter().map(|x| x.to_bits()).collect();
    (outcome.directions.clone(), outcome.steps.clone(), delta)
}

/// Step size and bound from the device are what they would be from the host.
#[test]
fn numbers_on_the_device_take_the_learners_place() {
    for c in [9, 70] {
        let of = |alpha: f64, bound: Bound| {
            let learner = Learner::new(Step::UnitL2, alpha, Split::Confidence { tau: 0.3 }, bound).unwrap();
            case(c, &[1, 3, 12], learner)
        };
        let device = |alpha, eps| Device { alpha, eps, ..Device::new(c, tiles_of(6, c)) };
        // 0.3 / 0.1 is three steps, in f32 as in f64.
        let expected = run(&of(0.1f32.into(), Bound::Fixed { eps: 0.3f32.into() }), &device(None, None));
        let found = run(&of(5.0, Bound::Fixed { eps: 9.0 }), &device(Some(0.1), Some(vec![0.3])));
        assert_eq!(learned(&found), learned(&expected));
        assert!(found.steps.iter().zip(&found.directions).all(|(&k, &d)| k == if d == 0 { 0 } else { 3 }));
        let by_class: Vec<f32> = (0..c).map(|k| 0.25 * k as f32).collect();
        let bounds = Bound::Explicit(by_class.iter().map(|&eps| eps.into()).collect());
        let expected = run(&of(0.25, bounds.clone()), &device(None, None));
        for bound in [Bound::Fixed { eps: 9.0 }, Bound::Explicit(vec![1.0; c])] {
            let found = run(&of(0.25, bound), &device(None, Some(by_class.clone())));
            assert_eq!(learned(&found), learned(&expected));
            assert_eq!(found.outcome.bad_bound, None);
        }
        let expected = run(&of(0.25, Bound::Confidence { eps: 0.5, delta_eps: 2.0 }), &device(None, None));
        let found = run(&of(0.25, Bound::Confidence { eps: 4.0, delta_eps: 2.0 }), &device(None, Some(vec![0.5])));
        assert_eq!(learned(&found), learned(&expected));
    }
}

/// A number on the device that is out of its range switches learning off where it counts, and is recorded until it is read.
#[test]
fn numbers_out_of_range_on_the_device_switch_learning_off() {
    let c = 9;
    let split = Split::Explicit(vec![1; c]);
    let case = case(c, &[2, 1, 12, 3], learner(split, Bound::Fixed { eps: 1.0 }));
    let device = |alpha, eps| Device { alpha, eps, ..Device::new(c, tiles_of(6, c)) };
    for bad in [30.5, -0.5, f32::NAN, f32::INFINITY] {
        for class in 0..4 {
            let mut eps = vec![1.0; c];
            eps[class] = bad;
            // Of a class that is not there, nothing is looked at.
            eps[7] = bad;
            let found = run(&case, &device(None, Some(eps)));
            for k in 0..4 {
                let expected = if k == class { (0, 0) } else { (1, 4) };
                assert_eq!((found.directions[k], found.steps[k]), expected, "class {k}, {bad} for {class}");
                assert_eq!(found.delta[k * c..][..c].iter().all(|&x| x == 0.0), k == class);
            }
            let (first, eps) = found.outcome.bad_bound.unwrap();
            assert!(first == class && (eps == bad || eps.is_nan() && bad.is_nan()), "{first}: {eps}");
            assert!(found.outcome.loss.is_finite());
        }
    }
    for alpha in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let found = run(&case, &device(Some(alpha), None));
        assert_eq!((found.steps, found.outcome.bad_bound), (vec![0; 4], Some((0, 1.0))));
    }
}

/// Two devices with half of a batch each, that add up what their rows have: confidences, tau and all that follows from them are those of the
/// whole batch; the loss of all rows is that of the shards.
#[test]
fn shards_of_a_batch_share_their_confidences() {
    let c = 9;
    for split in [Split::MeanConfidence, Split::Confidence { tau: 0.3 }] {
        for running in [None, Some((0.75, (0..c).map(|k| if k % 2 == 0 { f64::NAN } else { 0.2 }).collect::<Vec<_>>()))]
        {
            // Class 8 is in the second shard alone; some rows count nowhere.
            let bound = Bound::Confidence { eps: 0.3, delta_eps: 1.0 };
            let mut whole = case(c, &[7, 2, 12, 1, 0, 3, 0, 0, 2], learner(split.clone(), bound));
            whole.reduction = Reduction::Divisor(27.0);
            whole.labels[4] = -100;
            let device = Device { running: running.clone(), ..Device::new(c, tiles_of(6, c)) };
            let expected = run(&whole, &device);
            let at = 10;
            let shard = |from: usize, to: usize| {
                let mut part = whole.clone();
                part.labels = whole.labels[from..to].to_vec();
                part.logits = whole.logits[from * c..to * c].to_vec();
                part
            };
            let shards = [shard(0, at), shard(at, whole.labels.len())];
            let device = Device { data_parallel: true, ..device };
            let mut emulators = [(); 2].map(|()| Emulator::new(device.options.clone()));
            let operations: Vec<_> =
                shards.iter().zip(&mut emulators).map(|(shard, emulator)| lay_out(emulator, shard, &device)).collect();
            // More than one batch: what is gathered begins at 0 every time.
            for turn in 0..2 {
                let parts: Vec<_> = operations
                    .iter()
                    .zip(&mut emulators)
                    .map(|(operation, emulator)| operation.gather(emulator).unwrap())
                    .collect();
                let counts: Vec<u64> = parts[0].0.iter().zip(&parts[1].0).map(|(a, b)| a + b).collect();
                let sums: Vec<f64> = parts[0].1.iter().zip(&parts[1].1).map(|(a, b)| a + b).collect();
                let expected_counts: Vec<u64> =
                    (0..c).map(|k| whole.labels.iter().filter(|&&y| y == k as i64).count() as u64).collect();
                assert_eq!(counts, expected_counts);
                let mut loss = 0.0;
                for (operation, emulator) in operations.iter().zip(&mut emulators) {
                    operation.set_gathered(emulator, &counts, &sums);
                    let found = operation.run(emulator).unwrap();
                    loss += found.outcome.loss;
                    if turn == 1 && running.is_some() {
                        continue;
                    }
                    assert!((found.tau - expected.tau).abs() < 1e-6 || found.tau.is_nan() && expected.tau.is_nan());
                    for (place, class) in found.classes.iter().enumerate() {
                        let at = expected.classes.iter().position(|other| other == class).unwrap();
                        assert!((found.confidences[place] - expected.confidences[at]).abs() < 1e-6);
                        assert_eq!(found.directions[place], expected.directions[at]);
                        assert_eq!(found.steps[place], expected.steps[at]);
                    }
                    if turn == 0 {
                        let mean = |k: usize| (found.running[k], expected.running[k]);
                        let same = |(a, b): (f64, f64)| (a - b).abs() < 1e-6 || a.is_nan() && b.is_nan();
                        assert!(
                            (0..found.running.len()).all(|k| same(mean(k))),
                            "running means are of all devices' rows"
                        );
                    }
                }
                assert!(loss.is_finite());
            }
        }
    }
}
