//! The kernels on the emulated device, against the f64 reference, at the accuracy of SPEC 6: every regime, label type, reduction, place of the
//! gradient and alignment on batches of at most 64 rows, under limits small enough that every loop takes a second turn. What the kernels move
//! is counted element by element.

use case::Case;
use logit_perturb::kernel::{DType, ErrorWord, Form, Limits, Plan, Regime};
use logit_perturb::{CrossEntropy, Labels, Perturbation, Reduction};
use logit_perturb_emulator::{Batch, Emulator, Gradient, Operation, Options, Outcome, Rows};
use tiny::{TINY, reaches};

#[path = "emulated/case.rs"]
mod case;
#[path = "emulated/corners.rs"]
mod corners;
#[path = "common/tiny.rs"]
mod tiny;

/// Row lengths at and beside multiples of the vector and the warp, and those of every regime.
fn lengths() -> Vec<(usize, Limits)> {
    let beside = [1, 2, 3, 31, 33, 64, 65, 127, 128, 130, 512, 1023, 1030].map(|c| (c, TINY));
    beside.into_iter().chain(reaches()).collect()
}

/// The regime that a row length is planned into.
fn regimes(outcomes: &[Outcome]) -> Vec<Regime> {
    let mut regimes: Vec<Regime> = outcomes.iter().map(|outcome| outcome.plan.regime()).collect();
    regimes.sort();
    regimes.dedup();
    regimes
}

#[test]
fn every_regime_alignment_and_place_agrees_with_the_reference() {
    let mut outcomes = Vec::new();
    for (seed, (c, limits)) in lengths().into_iter().enumerate() {
        for (stride, offset) in
            [(c, 0), (c.next_multiple_of(4), 0), (c + 1, 0), (c.next_multiple_of(4) + 4, 1), (c + 3, 2)]
        {
            let at = Rows { stride, offset };
            for gradient in [
                Gradient::None,
                Gradient::InPlace,
                Gradient::Into(at),
                Gradient::Into(Rows { stride: c + 5, offset: 3 }),
            ] {
                let rows = if c > 1000 { 3 } else { 11 };
                let mut case = Case { rows: at, gradient, ..Case::random((c, limits), rows, seed as u64) };
                case.labels[1] = -100;
                let outcome = case.run(seed as u64);
                case.compare(&outcome, &case.labels);
                outcomes.push(outcome);
            }
        }
    }
    use Regime::{Block, Cluster, Shared, Tile, TwoRead, Warp};
    assert_eq!(regimes(&outcomes), [Tile, Warp, Block, Shared, Cluster, TwoRead]);
    println!("{} batches", outcomes.len());
}

/// Each logit read once and each gradient written once; twice read where the row fits nowhere, not at all where it is ignored.
#[test]
fn every_element_moves_as_often_as_it_must() {
    for (c, limits) in lengths() {
        for fused in [true, false] {
            let at = Rows { stride: c + 2, offset: 1 };
            let gradient = if fused { Gradient::Into(at) } else { Gradient::None };
            let mut case = Case { rows: at, gradient, ..Case::random((c, limits), 5, 1) };
            case.labels[2] = -100;
            let outcome = case.run(2);
            let reads = if outcome.plan.regime() == Regime::TwoRead && fused { 2 } else { 1 };
            for (row, read) in outcome.logits_traffic.reads.chunks(c).enumerate() {
                // Nobody needs an ignored row; a tile is copied as a whole.
                let reads = if row == 2 && outcome.plan.regime() != Regime::Tile { 0 } else { reads };
                assert!(read.iter().all(|&n| n == reads), "{c} classes, row {row}: {}", outcome.plan);
            }
            assert!(outcome.logits_traffic.writes.iter().all(|&n| n == 0));
            if let Some(traffic) = outcome.gradient_traffic {
                assert!(traffic.writes.iter().all(|&n| n == 1) && traffic.reads.iter().all(|&n| n == 0), "{c} classes");
            }
        }
    }
}

/// A gradient in a launch of its own reads each logit once too: what it needs of the row was saved.
#[test]
fn a_split_gradient_reads_each_logit_once_more() {
    for (c, limits) in reaches() {
        let mut case = Case::random((c, limits), 5, 1);
        case.labels[2] = -100;
        let batch = Batch { split: true, ..case.batch(Labels::I64(&case.labels)) };
        let mut emulator = Emulator::new(Options::default());
        let outcome = Operation::new(&mut emulator, &case.problem, &batch).run(&mut emulator).unwrap();
        let traffic = outcome.split_traffic.as_ref().unwrap();
        for (row, read) in traffic.reads.chunks(c).enumerate() {
            // As above.
            let reads = u32::from(row != 2 || outcome.plan.regime() == Regime::Tile);
            assert!(read.iter().all(|&n| n == reads), "{c} classes, row {row}: {}", outcome.plan);
        }
        case.compare(&outcome, &case.labels);
    }
}

/// Aligned rows move no sector that they do not fill; nor does one whose slots are all that its threads have room for take another.
#[test]
fn aligned_rows_move_no_excess_sectors() {
    let short = [8, 16, 32, 64, 128, 256, 1024].map(|c| (c, TINY));
    let long = reaches()
        .into_iter()
        .flat_map(|(c, limits)| [(c.next_multiple_of(8), limits), (c.next_multiple_of(512), limits)]);
    for (c, limits) in short.into_iter().chain(long) {
        let outcome = Case::random((c, limits), 6, 1).run(3);
        let (read, written) = (outcome.logits_traffic.read_sectors, outcome.gradient_traffic.unwrap().write_sectors);
        let reads = if outcome.plan.regime() == Regime::TwoRead { 2 } else { 1 };
        assert_eq!(read.moved, reads * read.distinct, "{c} classes: {}: {read:?}", outcome.plan);
        assert_eq!(written.moved, written.distinct, "{c} classes: {}: {written:?}", outcome.plan);
    }
}

#[test]
fn reductions_scales_perturbations_and_upstream_gradients_agree_with_the_reference() {
    for (c, limits) in reaches() {
        for (index, reduction) in
            [Reduction::Mean, Reduction::Sum, Reduction::None, Reduction::Divisor(7.5)].into_iter().enumerate()
        {
            let mut case = Case::random((c, limits), 7, index as u64);
            let delta = (0..c).map(|k| (k as f64 * 0.37).sin() * 2.0).map(|x| f64::from(x as f32)).collect();
            let problem =
                CrossEntropy::builder().reduction(reduction).scale(1.5).perturbation(Perturbation::Shared(delta));
            (case.problem, case.upstream, case.labels[3]) = (problem.build().unwrap(), -2.5, -100);
            case.compare(&case.run(index as u64), &case.labels);
        }
    }
}

#[test]
fn label_types_agree_and_each_takes_its_own_ignore_index() {
    for (c, limits) in reaches() {
        let mut case = Case::random((c, limits), 9, 5);
        case.problem = CrossEntropy::builder().ignore_index(3).build().unwrap();
        case.labels[4] = 3;
        let i32s: Vec<i32> = case.labels.iter().map(|&label| label as i32).collect();
        let u32s: Vec<u32> = case.labels.iter().map(|&label| label as u32).collect();
        let outcome = case.run(1);
        case.compare(&outcome, &case.labels);
        for labels in [Labels::I32(&i32s), Labels::U32(&u32s)] {
            let other = case.run_as(Options::default(), labels);
            assert_eq!((other.loss.to_bits(), &other.gradient), (outcome.loss.to_bits(), &outcome.gradient));
        }
    }
}

/// A bad label's row counts as ignored; how many there are, and the first with its label, is on the device until it is read.
#[test]
fn bad_labels_are_recorded_and_kept_until_read() {
    for rows in [9, 60] {
        for (c, limits) in reaches() {
            if c > 100 && rows > 9 {
                continue;
            }
            let mut case = Case::random((c, limits), rows, 5);
            (case.labels[2], case.labels[7]) = (c as i64, -7);
            let mut emulator = Emulator::new(Options::default());
            let operation = Operation::new(&mut emulator, &case.problem, &case.batch(Labels::I64(&case.labels)));
            let outcome = operation.run(&mut emulator).unwrap();
            let seen: Vec<i64> =
                case.labels.iter().map(|&y| if (0..c as i64).contains(&y) { y } else { -100 }).collect();
            case.compare(&outcome, &seen);
            let word =
                |outcome: &Outcome| (outcome.error.bad_labels, outcome.error.first_row, outcome.error.first_label);
            assert_eq!(word(&outcome), (2, 2, c as i64), "{rows} x {c}");
            // A replay with another bad label adds to the count and keeps the first record; a good one changes nothing.
            let mut labels = seen.clone();
            labels[0] = -5;
            operation.set_labels(&mut emulator, &labels);
            assert_eq!(word(&operation.run(&mut emulator).unwrap()), (3, 2, c as i64));
            operation.set_labels(&mut emulator, &seen);
            let outcome = operation.run(&mut emulator).unwrap();
            assert_eq!(word(&outcome), (3, 2, c as i64));
            case.compare(&outcome, &seen);
            // All ignored, then good again.
            operation.set_labels(&mut emulator, &vec![-100; rows]);
            let outcome = operation.run(&mut emulator).unwrap();
            assert_eq!(outcome.loss, 0.0);
            assert!(outcome.gradient.iter().all(|&g| g == 0.0));
            operation.set_labels(&mut emulator, &seen);
            case.compare(&operation.run(&mut emulator).unwrap(), &seen);
        }
    }
}

#[test]
fn batches_of_no_row_have_loss_0() {
    for (c, limits) in reaches() {
        let case = Case::random((c, limits), 0, 1);
        assert_eq!(case.run(1).loss.to_bits(), 0f32.to_bits());
    }
}

/// What is not finite stays in its row; -inf is a masked class.
#[test]
fn values_that_are_not_finite_stay_in_their_rows() {
    const INF: f32 = f32::INFINITY;
    for (c, limits) in reaches() {
        for (value, at) in [(f32::NAN, 3), (f32::NAN, 0), (INF, 3), (-INF, 3), (-INF, 0), (1e4, 0), (1e4, 2), (-1e4, 0)]
        {
            let mut case = Case::random((c, limits), 6, 11);
            case.labels = vec![0, 1, 2, 3, 4, 0];
            // Row 3 has it at its label or beside it; the ignored row 4 has it everywhere.
            case.logits[3 * c + at] = value;
            case.labels[4] = -100;
            case.logits[4 * c..5 * c].fill(f32::NAN);
            case.compare(&case.run(1), &case.labels);
        }
        let mut masked = Case::random((c, limits), 4, 12);
        masked.logits[c..2 * c].fill(-INF);
        // A run of -inf that covers whole threads and warps, and all but the label.
        masked.logits[c / 3..c].fill(-INF);
        masked.labels[0] = 0;
        masked.logits[2 * c..4 * c].fill(-INF);
        masked.logits[2 * c + 1] = 0.5;
        masked.labels[2] = 1;
        // A thread that finds a NaN and no number.
        (masked.logits[3 * c], masked.logits[3 * c + 5], masked.labels[3]) = (f32::NAN, 0.5, 5);
        masked.compare(&masked.run(2), &masked.labels);
    }
}

/// Only differences within a row count: what fills up a sum or a maximum must not be among them.
#[test]
fn rows_may_lie_far_from_0() {
    for (c, limits) in reaches() {
        for shift in [-300.0, 300.0] {
            let mut case = Case::random((c, limits), 5, 13);
            case.logits.iter_mut().for_each(|x| *x += shift);
            case.compare(&case.run(1), &case.labels);
        }
    }
}

/// The gradient of a label whose probability is nearly 1 is minus the sum of the others, to f32's relative accuracy.
#[test]
fn confident_rows_keep_their_gradient() {
    for at in reaches() {
        Case::check_confident_row(at, CrossEntropy::default());
    }
}

/// Soft targets have no label to keep out of the sum: the classes at the maximum stand for it, one of them or several.
#[test]
fn confident_rows_keep_their_loss_under_soft_targets() {
    for at in reaches() {
        for maximal in [&[5][..], &[2, 7]] {
            let c = at.0;
            let mut case = Case::random(at, 1, 3);
            case.logits.iter_mut().for_each(|x| *x = x.clamp(-1.0, 1.0));
            let mut targets = vec![0f32; c];
            for &k in maximal {
                (case.logits[k], targets[k]) = (30.0, 1.0 / maximal.len() as f32);
            }
            case.problem = CrossEntropy::builder().reduction(Reduction::Sum).build().unwrap();
            let outcome = case.run_soft(&targets);
            let rest: f64 =
                (0..c).filter(|k| !maximal.contains(k)).map(|k| (f64::from(case.logits[k]) - 30.0).exp()).sum();
            let expected = (maximal.len() as f64).ln() + (rest / maximal.len() as f64).ln_1p();
            let error = (f64::from(outcome.loss) - expected).abs();
            assert!(error <= 4e-6 * expected + 1e-12, "{}: {} for {expected}", outcome.plan, outcome.loss);
        }
    }
}

/// A thread that meets a larger logit moves its sums there, from a maximum of 0 as from any other.
#[test]
fn a_running_maximum_of_0_is_like_any_other() {
    for at in reaches() {
        let c = at.0;
        let mut case = Case::random(at, 1, 3);
        let logit = |k: usize| if k < c / 2 { -((k % 4) as f32) } else { 2.0 + (k % 3) as f32 };
        case.logits = (0..c).map(logit).collect();
        case.problem = CrossEntropy::builder().reduction(Reduction::Sum).build().unwrap();
        let outcome = case.run_soft(&vec![1.0 / c as f32; c]);
        let lse = case.logits.iter().map(|&u| f64::from(u).exp()).sum::<f64>().ln();
        let expected = lse - case.logits.iter().map(|&u| f64::from(u)).sum::<f64>() / c as f64;
        let error = (f64::from(outcome.loss) - expected).abs();
        assert!(error <= 4e-6 * expected, "{}: {} for {expected}", outcome.plan, outcome.loss);
    }
}

/// The same bits for every order of threads and blocks, and whether stores come early or late.
#[test]
fn results_do_not_depend_on_the_schedule() {
    for (c, limits) in reaches() {
        let rows = if c == 10 { 45 } else { 9 };
        let case = Case { gradient: Gradient::InPlace, ..Case::random((c, limits), rows, 9) };
        let bits = |outcome: &Outcome| -> Vec<u32> {
            let numbers = [outcome.loss].into_iter().chain(outcome.loss_rows.clone()).chain(outcome.gradient.clone());
            numbers.map(f32::to_bits).collect()
        };
        let expected = bits(&case.run(0));
        for seed in 1..12 {
            for resident_blocks in [1, 2, 64] {
                let options = Options { seed, resident_blocks, store_buffer: seed % 2 == 0, ..Options::default() };
                let outcome = case.run_as(options, Labels::I64(&case.labels));
                assert_eq!(bits(&outcome), expected, "{c} classes, seed {seed}, {resident_blocks} blocks resident");
            }
        }
    }
}

/// Rows far apart: offsets need 64 bits.
#[test]
fn rows_beyond_two_to_the_31_elements_are_found() {
    for (c, limits) in reaches() {
        let at = Rows { stride: 1 << 31, offset: 0 };
        for gradient in [Gradient::InPlace, Gradient::Into(at)] {
            let case = Case { rows: at, gradient, ..Case::random((c, limits), 3, 4) };
            case.compare(&case.run(5), &case.labels);
        }
    }
}

/// A row's numbers do not depend on the rows around it, given divisor and alignment.
#[test]
fn a_row_does_not_depend_on_the_others() {
    for (c, limits) in reaches() {
        let mut case = Case::random((c, limits), 6, 4);
        case.problem = CrossEntropy::builder().reduction(Reduction::Sum).build().unwrap();
        let all = case.run(1);
        let single = Case {
            logits: case.logits[4 * c..5 * c].to_vec(),
            labels: vec![case.labels[4]],
            problem: case.problem.clone(),
            ..Case::random((c, limits), 1, 4)
        };
        let alone = single.run(2);
        assert_eq!(all.loss_rows[4].to_bits(), alone.loss_rows[0].to_bits(), "{c} classes");
        assert_eq!(all.gradient[4 * c..5 * c], alone.gradient, "{c} classes");
    }
}

/// Limits under which a block meets more tiles, and in the last block a thread more partial sums, than one: a row a tile and a chunk.
fn smallest((c, limits): (usize, Limits), labels_in_block: i64) -> Limits {
    let tile = (c as u32 | 1) * 4;
    let block_threads = if c == 700 { 128 } else { 32 };
    Limits { block_threads, shared_memory: 3072 + tile, labels_in_block, chunks: 1000, ..limits }
}

#[test]
fn loops_over_tiles_chunks_and_partial_sums_take_many_turns() {
    for at in reaches().into_iter().chain([(3, TINY)]) {
        // A chunk a row; chunks shorter than a block; none, where a block counts more labels than it has threads.
        for labels_in_block in [2, 22, 100] {
            let mut case = Case { limits: smallest(at, labels_in_block), ..Case::random(at, 70, 21) };
            (case.labels[0], case.labels[40], case.labels[69]) = (-100, -100, -100);
            let outcome = case.run(7);
            let rows = if at.0 == 700 { 1 } else { outcome.plan.tile_rows };
            assert_eq!((outcome.plan.tile_rows, outcome.plan.chunk_tiles(70)), (rows, 1), "{}", outcome.plan);
            case.compare(&outcome, &case.labels);
        }
        // Several tiles a chunk, the last of them short.
        for chunks in [1, 2, 3, 5] {
            let case = Case { limits: Limits { chunks, ..smallest(at, 100) }, ..Case::random(at, 23, 22) };
            case.compare(&case.run(8), &case.labels);
        }
    }
}

/// A warp may be a tile ahead of another: its sum must not take the place of one that is still to be read. Every other tile is ignored, so
/// that it takes no time.
#[test]
fn sums_of_fast_warps_wait_for_slow_ones() {
    for (c, limits) in reaches().into_iter().filter(|(c, _)| (100..1000).contains(c)) {
        // As many chunks as tiles: the sums of two of them are one tile apart.
        let limits = Limits { multiprocessors: 1, labels_in_block: 1000, chunks: 1000, ..limits };
        let tile_rows = Plan::new(Form::plain(DType::F32, c), limits).tile_rows as usize;
        let at = (c, limits);
        let mut case = Case { gradient: Gradient::None, ..Case::random(at, 12 * tile_rows, 24) };
        case.labels.chunks_mut(tile_rows).skip(1).step_by(2).for_each(|tile| tile.fill(-100));
        for seed in 0..if c == 100 { 200 } else { 20 } {
            case.compare(&case.run(seed), &case.labels);
        }
    }
}

/// Labels beyond i32 are numbers like others.
#[test]
fn u32_labels_keep_their_highest_bit() {
    for at in reaches() {
        let mut case = Case::random(at, 5, 25);
        case.problem = CrossEntropy::builder().ignore_index(i64::from(u32::MAX)).build().unwrap();
        (case.labels[1], case.labels[3]) = (i64::from(u32::MAX), i64::from(u32::MAX - 1));
        let labels: Vec<u32> = case.labels.iter().map(|&label| label as u32).collect();
        let outcome = case.run_as(Options::default(), Labels::U32(&labels));
        let expected = ErrorWord { bad_labels: 1, first_row: 3, first_label: i64::from(u32::MAX - 1) };
        assert_eq!(outcome.error, expected, "{}", outcome.plan);
    }
}

/// The first bad label is the one of the least row, whichever thread, chunk or block finds it.
#[test]
fn the_first_bad_label_is_found_in_any_row() {
    for labels_in_block in [2, 22, 100] {
        for bad in [&[69][..], &[33, 69], &[32, 34], &[68, 35, 2], &[66, 34, 64]] {
            let at = (3, TINY);
            let mut case = Case { limits: smallest(at, labels_in_block), ..Case::random(at, 70, 22) };
            bad.iter().for_each(|&row| case.labels[row] = 1000 + row as i64);
            let first = *bad.iter().min().unwrap();
            let expected =
                ErrorWord { bad_labels: bad.len() as u64, first_row: first as u64, first_label: 1000 + first as i64 };
            assert_eq!(case.run(8).error, expected, "{labels_in_block} labels in a block");
        }
    }
}
