//! Classes and rows that are not there, not finite, not valid, or all there is.

use crate::common::softmax::Case;
use crate::common::uniform;
use crate::run::{Device, check, compare, lay_out, run, tiles_of, with_operation, with_running};
use logit_perturb::kernel::ErrorWord;
use logit_perturb::{Bound, Learner, Perturbation, Reduction, RunningConfidence, Split, Step};
use logit_perturb_emulator::{Emulator, Options};

/// Tiles that hold a class, that hold a part of it, and that lie in global memory.
const TILES: [u32; 3] = [20, 2, 0];

fn splits(c: usize) -> [Split; 3] {
    [Split::MeanConfidence, Split::Confidence { tau: 0.3 }, Split::Explicit(vec![1; c])]
}

fn learner(split: Split) -> Learner {
    Learner::new(Step::UnitL2, 0.25, split, Bound::Fixed { eps: 0.75 }).unwrap()
}

fn case(n: usize, c: usize, seed: u64) -> Case {
    let logits = uniform(seed, n * c, -4.0..4.0).into_iter().map(|x| f64::from(x as f32)).collect();
    Case::new(c, logits, (0..n).map(|i| (i * i % c.min(4)) as i64).collect())
}

#[test]
fn what_is_not_finite_stays_in_its_class() {
    const INF: f64 = f64::INFINITY;
    for c in [5, 70] {
        for tile in TILES {
            for split in splits(c) {
                for (kind, value) in [(0, f64::NAN), (1, f64::NAN), (0, INF), (1, INF), (2, -INF)] {
                    let mut case = case(9, c, 3);
                    case.labels[8] = -100;
                    // At the label, beside it, or all of a row of class 1; whatever the ignored row holds.
                    let label = case.labels[3] as usize;
                    let columns = [label..label + 1, c - 1..c, 0..c][kind].clone();
                    case.logits[3 * c..4 * c][columns].fill(value);
                    case.logits[8 * c..].fill(f64::NAN);
                    case.learner = Some(learner(split.clone()));
                    let device = Device::new(c, tiles_of(tile, c));
                    let outcome = run(&case, &device);
                    assert!(compare(&case, &device, &outcome));
                    let broken = outcome.classes.iter().position(|&class| class == label as i32).unwrap();
                    assert!(outcome.delta[broken * c..][..c].iter().all(|x| x.is_nan()));
                    let nan = outcome.delta.iter().filter(|x| x.is_nan()).count();
                    assert_eq!(nan, c, "other classes have theirs");
                }
            }
        }
    }
}

/// -inf masks a class: no gradient there, and none of the steps goes that way; at the label the loss is infinite.
#[test]
fn masked_logits_have_no_weight() {
    for tile in TILES {
        for split in splits(6) {
            let mut case = case(8, 6, 4);
            case.logits[5] = f64::NEG_INFINITY;
            case.logits[6 + 5] = f64::NEG_INFINITY;
            case.logits[2 * 6 + case.labels[2] as usize] = f64::NEG_INFINITY;
            case.learner = Some(learner(split));
            assert!(check(&case, &Device::new(6, tiles_of(tile, 6))));
            // Of smoothed targets it takes a weight of 0 as well, or the loss is infinite.
            for weight in [0.0, 1.0] {
                case.smoothing = 0.125;
                case.class_weights = Some(vec![1.0, 0.5, 2.0, 1.0, 1.0, weight]);
                assert!(check(&case, &Device::new(6, tiles_of(tile, 6))));
            }
        }
    }
}

#[test]
fn the_smallest_batches_are_like_others() {
    for tile in TILES {
        for (n, c) in [(0, 4), (1, 4), (1, 1), (5, 1), (7, 3), (1, 130), (2, 130)] {
            for split in splits(c) {
                let mut case = case(n, c, 5);
                case.learner = Some(learner(split));
                assert!(check(&case, &Device::new(c, tiles_of(tile, c))), "{n} x {c}");
            }
        }
        // One class under the mean of the confidences, which is its own: no step.
        let mut one = case(6, 5, 6);
        one.labels.fill(2);
        one.learner = Some(learner(Split::MeanConfidence));
        let device = Device::new(5, tiles_of(tile, 5));
        let outcome = run(&one, &device);
        assert!(compare(&one, &device, &outcome));
        assert_eq!((outcome.directions.as_slice(), outcome.steps.as_slice()), (&[0][..], &[0][..]));
        assert!(outcome.delta.iter().all(|&delta| delta == 0.0));
    }
}

#[test]
fn bad_labels_count_as_ignored_and_are_recorded() {
    for tile in TILES {
        for labels_in_block in [4, 40] {
            for split in splits(5) {
                let mut case = case(12, 5, 7);
                case.learner = Some(learner(split));
                let mut device = Device::new(5, tiles_of(tile, 5));
                device.limits.labels_in_block = labels_in_block;
                let good = case.labels.clone();
                (case.labels[2], case.labels[7]) = (5, -7);
                let mut seen = case.clone();
                (seen.labels[2], seen.labels[7]) = (-100, -100);
                with_operation(&case, &device, |emulator, operation| {
                    let outcome = operation.run(emulator).unwrap();
                    assert!(compare(&seen, &device, &outcome));
                    let word = ErrorWord { bad_labels: 2, first_row: 2, first_label: 5 };
                    assert_eq!(outcome.outcome.error, word);
                    // All ignored, then all good: nothing is left over from launch to launch.
                    operation.set_labels(emulator, &[-100; 12]);
                    let outcome = operation.run(emulator).unwrap();
                    assert_eq!((outcome.classes.len(), outcome.outcome.loss), (0, 0.0));
                    assert!(outcome.outcome.gradient.iter().all(|&g| g == 0.0));
                    operation.set_labels(emulator, &good);
                    let all = Case { labels: good.clone(), ..case.clone() };
                    assert!(compare(&all, &device, &operation.run(emulator).unwrap()));
                    assert_eq!(operation.run(emulator).unwrap().outcome.error, word);
                });
            }
        }
    }
}

/// Running confidences decide as they stand and then take the batch in, batch by batch, as those of the reference.
#[test]
fn running_confidences_decide_and_move_on() {
    // Also where a block sees at once what another stored.
    for (tile, seed) in TILES.into_iter().flat_map(|tile| [(tile, 0), (tile, 1), (tile, 2)]) {
        for (split, bound) in [
            (Split::MeanConfidence, Bound::Confidence { eps: 0.4, delta_eps: 1.1 }),
            (Split::Confidence { tau: 0.2 }, Bound::Confidence { eps: 0.4, delta_eps: 1.1 }),
            (Split::Explicit(vec![1; 5]), Bound::Fixed { eps: 0.5 }),
        ] {
            let mut first = case(9, 5, 8);
            first.labels = vec![0, 1, 2, 0, 1, 2, 0, 0, -100];
            // A class that breaks keeps its mean.
            first.logits[5] = f64::NAN;
            first.learner = Some(Learner::new(Step::UnitL2, 0.23, split, bound).unwrap());
            let labels = [first.labels.clone(), vec![0, 1, 3, 4, 3, 2, 1, 0, 2], vec![4, 4, 4, 0, -100, 0, 0, 3, 0]];
            let mut reference = RunningConfidence::new(5, 0.9).unwrap();
            let options = Options { seed, store_buffer: seed == 0, ..Options::default() };
            let running = Some((0.9, vec![f64::NAN; 5]));
            let device = Device { running, options, ..Device::new(5, tiles_of(tile, 5)) };
            with_operation(&first, &device, |emulator, operation| {
                for labels in &labels {
                    operation.set_labels(emulator, labels);
                    let outcome = operation.run(emulator).unwrap();
                    let case = Case { labels: labels.clone(), ..first.clone() };
                    let expected = with_running(&case, &mut reference);
                    let learned = expected.learned.unwrap();
                    let near = |found: f64, expected: f64| {
                        (found - expected).abs() < 1e-6 || found.is_nan() && expected.is_nan()
                    };
                    assert!(near(outcome.tau, learned.tau), "{} and {}", outcome.tau, learned.tau);
                    let pairs = outcome.confidences.iter().zip(&learned.confidence);
                    assert!(pairs.clone().all(|(&found, &q)| near(found, q)), "{pairs:?}");
                    assert_eq!(outcome.steps, learned.steps);
                    for (place, &found) in outcome.running.iter().enumerate() {
                        assert!(near(found, reference.values()[place].unwrap_or(f64::NAN)), "{:?}", outcome.running);
                    }
                    for (&found, &delta) in outcome.delta.iter().zip(&learned.delta) {
                        let found = f64::from(found);
                        assert!((found - delta).abs() < 1e-5 || found.is_nan() && delta.is_nan());
                    }
                }
            });
        }
    }
}

/// Only differences within a row count, before and after it is perturbed.
#[test]
fn rows_may_lie_far_from_0_and_far_apart() {
    for tile in TILES {
        for (size, shift) in [(1.0, 300.0), (1.0, -300.0), (100.0, 0.0), (2500.0, 0.0)] {
            let mut case = case(9, 6, 9);
            case.logits.iter_mut().for_each(|x| *x = f64::from((*x * size + shift) as f32));
            case.form = Perturbation::TargetMargin(vec![0.5; 6]);
            case.learner = Some(learner(Split::Explicit(vec![1, -1, 1, -1, 1, -1])));
            let device =
                Device { options: Options { seed: 3, ..Options::default() }, ..Device::new(6, tiles_of(tile, 6)) };
            assert!(check(&case, &device));
        }
    }
}

/// Where nobody asked for what is learned, loss and gradient are the same and nothing else is written.
#[test]
fn what_is_learned_may_stay_unasked_for() {
    for tile in TILES {
        for split in splits(5) {
            let mut case = case(12, 5, 10);
            case.learner = Some(learner(split));
            let device = Device::new(5, tiles_of(tile, 5));
            let asked = run(&case, &device).outcome;
            let mut emulator = Emulator::new(device.options.clone());
            let unasked = lay_out(&mut emulator, &case, &device).unasked().run(&mut emulator).unwrap().outcome;
            assert_eq!((unasked.loss, &unasked.gradient), (asked.loss, &asked.gradient));
        }
    }
}

/// A row that is not finite spoils its class in its batch, not in the next one.
#[test]
fn what_was_not_finite_is_gone_with_its_batch() {
    for tile in TILES {
        let mut broken = case(9, 5, 11);
        broken.logits[3 * 5..][..5].fill(f64::NAN);
        broken.learner = Some(learner(Split::MeanConfidence));
        let mut whole = broken.clone();
        whole.labels[3] = -100;
        let device = Device::new(5, tiles_of(tile, 5));
        with_operation(&broken, &device, |emulator, operation| {
            assert!(compare(&broken, &device, &operation.run(emulator).unwrap()));
            operation.set_labels(emulator, &whole.labels);
            assert!(compare(&whole, &device, &operation.run(emulator).unwrap()));
        });
    }
}

/// Where one logit has almost all the weight and smoothed targets weigh it alone, the loss is as small as what the others leave: nothing may be
/// left of the way that delta went.
#[test]
fn leading_logits_leave_nothing_to_cancel() {
    for c in [6, 70] {
        for tile in TILES {
            let mut case = case(9, c, 12);
            case.logits.iter_mut().skip(3).step_by(c).for_each(|u| *u = 20.0);
            case.labels = (0..9).map(|i| i % 3).collect();
            case.smoothing = 0.5;
            case.class_weights = Some((0..c).map(|k| if k == 3 { c as f64 } else { 0.0 }).collect());
            let split = Split::Explicit(vec![1; c]);
            case.learner = Some(Learner::new(Step::UnitL2, 2.0, split, Bound::Fixed { eps: 28.0 }).unwrap());
            case.reduction = Reduction::Sum;
            assert!(check(&case, &Device::new(c, tiles_of(tile, c))));
        }
    }
}
