//! What is moved how often, in which order sums are taken, and what does not matter.

use crate::common::softmax::Case;
use crate::common::uniform;
use crate::devices::device;
use crate::run::{Device, check, run, tiles_of, tiles_of_blocks};
use logit_perturb::kernel::{DType, LearnForm, LearnPlan, Limits, Variant, check_supported};
use logit_perturb::{Bound, ClassCounts, CrossEntropy, GradientSemantics, Learner, Reduction, Split, Step};
use logit_perturb_emulator::{Gradient, LearnOutcome, Options, Rows};
use std::collections::BTreeSet;

fn case(n: usize, c: usize, split: Split, bound: Bound) -> Case {
    let logits = uniform(11, n * c, -4.0..4.0).into_iter().map(|x| f64::from(x as f32)).collect();
    let mut case = Case::new(c, logits, (0..n).map(|i| [0, 0, 1, 0, 2, 0][i % 6]).collect());
    case.labels[5] = -100;
    case.learner = Some(Learner::new(Step::UnitL2, 0.25, split, bound).unwrap());
    case
}

fn bits(outcome: &LearnOutcome) -> Vec<u32> {
    let found = &outcome.outcome;
    let numbers = [found.loss].into_iter().chain(found.loss_rows.clone()).chain(found.gradient.clone());
    let learned = outcome.delta.iter().copied().chain(outcome.confidences.iter().map(|&q| q as f32));
    numbers.chain(learned).map(f32::to_bits).chain(outcome.steps.clone()).collect()
}

/// Logits are read once where a class fits into the tiles of as many blocks as there are, once more where the mean of the confidences decides;
/// else K + 2 times. The gradient is written once.
#[test]
fn logits_move_as_often_as_they_must() {
    let mut reached = BTreeSet::new();
    for c in [12, 70] {
        let counts = || ClassCounts::new((1..=c).map(|n| n as f64)).unwrap();
        let plans = [
            (Split::MeanConfidence, Bound::Fixed { eps: 1.0 }),
            (Split::MeanConfidence, Bound::Confidence { eps: 0.6, delta_eps: 1.0 }),
            (Split::Confidence { tau: 0.4 }, Bound::Fixed { eps: 1.0 }),
            (Split::Confidence { tau: 0.4 }, Bound::Confidence { eps: 0.6, delta_eps: 1.0 }),
            (Split::Rank { head: 1, counts: counts() }, Bound::Fixed { eps: 1.0 }),
            (Split::Explicit(vec![1; c]), Bound::Explicit(vec![0.5; c])),
        ];
        for (split, bound) in plans {
            for tile in [20, 6, 3, 0] {
                let mean = split == Split::MeanConfidence;
                let case = case(30, c, split.clone(), bound.clone());
                let at = Rows { stride: c + 2, offset: 1 };
                let device = Device { rows: at, gradient: Gradient::Into(at), ..Device::new(c, tiles_of(tile, c)) };
                let outcome = run(&case, &device);
                let tile_rows = outcome.plan.tile_rows as usize;
                for (i, reads) in outcome.outcome.logits_traffic.reads.chunks(c).enumerate() {
                    let Some(y) = case.class(i) else { continue };
                    let place = outcome.classes.iter().position(|&class| class == y as i32).unwrap();
                    let of_class = (0..30).filter(|&j| case.class(j) == Some(y)).count();
                    let blocks = outcome.plan.geometry(30).grid as usize;
                    let expected = match of_class.div_ceil(tile_rows) <= blocks {
                        true => 1 + u32::from(mean),
                        false => outcome.steps[place] + 2,
                    };
                    reached.insert((of_class.div_ceil(tile_rows) > 1, of_class.div_ceil(tile_rows) > blocks));
                    assert!(
                        reads.iter().all(|&n| n == expected),
                        "{c} classes, row {i}: {reads:?}, expected {expected}"
                    );
                }
                let traffic = outcome.outcome.gradient_traffic.unwrap();
                assert!(traffic.writes.iter().all(|&n| n == 1) && traffic.reads.iter().all(|&n| n == 0));
            }
        }
    }
    assert_eq!(reached.len(), 3, "one tile, one a block, and more: {reached:?}");
}

/// The same bits for every order of threads and blocks, whatever the grid.
#[test]
fn results_do_not_depend_on_the_schedule() {
    for (c, tile) in [(6, 20), (6, 2), (70, 20), (70, 2), (6, 0), (70, 0)] {
        for split in [Split::MeanConfidence, Split::Confidence { tau: 0.4 }] {
            let mut case = case(30, c, split, Bound::Fixed { eps: 0.5 });
            case.smoothing = 0.125;
            let limits = tiles_of(tile, c);
            let device = |seed: u64, multiprocessors: u32| Device {
                gradient: Gradient::InPlace,
                options: Options {
                    seed,
                    resident_blocks: [1, 2, 64][seed as usize % 3],
                    store_buffer: seed.is_multiple_of(2),
                    ..Options::default()
                },
                ..Device::new(c, Limits { multiprocessors, ..limits })
            };
            let expected = bits(&run(&case, &device(0, 1)));
            for seed in 1..9 {
                let found = bits(&run(&case, &device(seed, 1 + seed as u32 % 4)));
                assert_eq!(found, expected, "{c} classes, tiles of {tile}, seed {seed}");
            }
        }
    }
}

/// Given tau and divisor, a class's delta and rows do not depend on other classes.
#[test]
fn a_class_does_not_depend_on_the_others() {
    for tile in [20, 2, 0] {
        let mut all = case(12, 8, Split::Confidence { tau: 0.4 }, Bound::Fixed { eps: 1.0 });
        all.reduction = Reduction::Sum;
        let mut alone = all.clone();
        alone.labels.iter_mut().filter(|label| **label != 0).for_each(|label| *label = -100);
        let device = Device::new(8, tiles_of(tile, 8));
        let (all, found) = (run(&all, &device), run(&alone, &device));
        assert_eq!(all.delta[..8], found.delta[..8]);
        for row in (0..12).filter(|&row| alone.labels[row] == 0) {
            assert_eq!(all.outcome.loss_rows[row].to_bits(), found.outcome.loss_rows[row].to_bits());
            assert_eq!(all.outcome.gradient[8 * row..][..8], found.outcome.gradient[8 * row..][..8]);
        }
    }
}

/// More rows and classes than a warp, a block or a grid takes at a time.
#[test]
fn many_rows_and_classes_are_put_in_order() {
    for (n, c, of_labels) in [(200, 3, 3), (200, 150, 150), (140, 300, 37), (64, 2, 1)] {
        for split in [Split::MeanConfidence, Split::Explicit(vec![-1; c])] {
            let mut case = case(n, c, split, Bound::Fixed { eps: 0.25 });
            case.labels =
                uniform(12, n, 0.0..of_labels as f64).into_iter().map(|x| (x as i64 * 7) % c as i64).collect();
            case.labels.iter_mut().step_by(9).for_each(|label| *label = -100);
            let limits = tiles_of_blocks(40, c, if c == 150 { 32 } else { 128 });
            assert!(check(&case, &Device::new(c, limits)));
        }
    }
}

/// Rows far apart: offsets need 64 bits.
#[test]
fn rows_beyond_two_to_the_31_elements_are_found() {
    for tile in [20, 2, 0] {
        let case = case(6, 9, Split::MeanConfidence, Bound::Fixed { eps: 0.5 });
        let at = Rows { stride: 1 << 31, offset: 0 };
        for gradient in [Gradient::InPlace, Gradient::Into(at)] {
            assert!(check(&case, &Device { rows: at, gradient, ..Device::new(9, tiles_of(tile, 9)) }));
        }
    }
}

/// Where rows and arrays live follows from C and the device's limits; fewer rows take less shared memory, and the same tiles.
#[test]
fn plans_keep_what_fits_on_chip() {
    for (name, classes, on_chip, tile_rows, threads, blocks) in [
        ("sm_90", 10, true, 450, 128, 4),
        ("sm_90", 100, true, 112, 128, 4),
        ("sm_90", 1000, true, 11, 128, 4),
        ("sm_90", 2000, true, 11, 256, 2),
        ("sm_90", 4096, true, 11, 512, 1),
        ("sm_90", 6000, true, 7, 256, 1),
        ("sm_90", 10_000, true, 3, 256, 1),
        ("sm_90", 10_240, true, 3, 256, 1),
        ("sm_90", 10_241, false, 8, 256, 0),
        ("sm_86", 1000, true, 9, 256, 2),
        ("sm_75", 1000, true, 13, 256, 1),
    ] {
        let limits = device(name);
        let plan = LearnPlan::new(LearnForm { dtype: DType::F32, classes, aligned: true }, limits);
        assert_eq!(
            (plan.is_on_chip(), plan.tile_rows, plan.threads),
            (on_chip, tile_rows, threads),
            "{name}, {classes}"
        );
        for rows in [1, 5, 100_000] {
            let geometry = plan.geometry(rows);
            assert!(i64::from(geometry.grid) <= rows, "{geometry:?}");
            // As many blocks as there are registers for find room, with what each takes for itself and the driver for it.
            let (values, most) = match plan.variant {
                Variant::LearnCrossEntropy { values, .. } => (values, LearnPlan::most_threads(values)),
                variant => panic!("{variant:?}"),
            };
            assert!(blocks * (geometry.shared + 4096) <= limits.multiprocessor_shared, "{geometry:?}");
            assert!(blocks * threads <= most, "{geometry:?}");
            assert!(!on_chip || geometry.shared <= LearnPlan::most_shared(values, limits), "{geometry:?}");
            assert_eq!(i64::from(plan.tile_rows(rows)), rows.min(tile_rows.into()));
        }
    }
}

/// What the kernels do not have is a typed error that names the argument, its value and what is allowed.
#[test]
fn learners_out_of_range_are_refused() {
    let refused = |split: Split, bound: Bound, semantics: GradientSemantics| {
        let learner = Learner::new(Step::Raw, 0.1, split, bound).unwrap().gradient(semantics);
        check_supported(&CrossEntropy::builder().learner(learner).build().unwrap()).err().map(|error| error.to_string())
    };
    use GradientSemantics::{Detached, Through};
    let counts = || ClassCounts::new([8.0, 2.0, 1.0]).unwrap();
    let rank = || Split::Rank { head: 1, counts: counts() };
    let long_tail = |delta_tail| Bound::LongTail { eps: 1.0, delta_head: 1.0, delta_tail, ratio: None };
    let explicit = || Split::Explicit(vec![1, 0, -1]);
    for (split, bound, semantics, expected) in [
        (Split::MeanConfidence, Bound::Fixed { eps: 30.0 }, Detached, None),
        (
            Split::MeanConfidence,
            Bound::Fixed { eps: 30.5 },
            Detached,
            Some("`eps` is 30.5, must be at most 30 on a GPU"),
        ),
        (Split::MeanConfidence, Bound::Confidence { eps: 10.0, delta_eps: 20.0 }, Detached, None),
        (
            Split::Confidence { tau: -0.5 },
            Bound::Confidence { eps: 10.0, delta_eps: 20.0 },
            Detached,
            Some("`eps + delta_eps * 1.5` is 40, must be at most 30 on a GPU"),
        ),
        (rank(), long_tail(29.0), Detached, None),
        (rank(), long_tail(30.0), Detached, Some("`bound[2]` is 31, must be at most 30 on a GPU")),
        (
            explicit(),
            Bound::Explicit(vec![1.0, 30.0, 31.0]),
            Detached,
            Some("`bound[2]` is 31, must be at most 30 on a GPU"),
        ),
        (
            explicit(),
            Bound::Fixed { eps: 1.0 },
            Through,
            Some("a gradient through the learner's steps is not supported by the CUDA backend"),
        ),
    ] {
        assert_eq!(refused(split, bound, semantics).as_deref(), expected);
    }
}
