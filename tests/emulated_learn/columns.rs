//! Classes with few rows, whose steps are taken by columns: as warps, blocks of one warp and of several, with few columns a thread and with
//! many; beside classes with more rows, whose steps are taken by rows.

use crate::common::softmax::Case;
use crate::draw::Draw;
use crate::run::{Device, compare, nearest, run, tiles_of_blocks};
use logit_perturb::kernel::{DType, Limits, Variant};
use logit_perturb::{Bound, Learner, Split, Step};
use logit_perturb_emulator::Options;

/// Row length, threads of a block at most; columns a thread may own, threads, rows of a warp and rows taken by columns that follow from them.
const SHAPES: [(usize, u32, u32, u32, u32, u32); 6] = [
    // The columns of a warp's lanes, not all of them, and all that there may be.
    (9, 64, 8, 64, 8, 8),
    (256, 32, 8, 32, 16, 4),
    // One warp; several, the last thread's columns beyond the row's end.
    (253, 128, 8, 128, 3, 16),
    (511, 64, 8, 64, 0, 8),
    (600, 32, 40, 32, 16, 4),
    (1300, 64, 40, 64, 0, 8),
];

/// One row to more than are taken by columns, each number of rows in a class of its own.
fn case(c: usize, dtype: DType, step: Step) -> Case {
    let mut draw = Draw::new(c as u64);
    let labels: Vec<i64> =
        [1usize, 2, 3, 4, 7, 8, 9, 16, 18].iter().enumerate().flat_map(|(k, &n)| vec![k as i64; n]).collect();
    let logits = draw.numbers(labels.len() * c, -5.0, 5.0).into_iter().map(|x| nearest(dtype, x)).collect();
    let mut case = Case::new(c, logits, labels);
    let split = Split::Explicit((0..c).map(|k| if k % 2 == 0 { 1 } else { -1 }).collect());
    case.learner = Some(Learner::new(step, 0.5, split, Bound::Fixed { eps: 3.0 }).unwrap());
    case
}

#[test]
fn few_rows_are_taken_by_columns() {
    for (c, block_threads, values, threads, warp_rows, column_rows) in SHAPES {
        for (step, dtype) in [(Step::UnitL2, DType::F32), (Step::Raw, DType::BF16)] {
            let case = case(c, dtype, step);
            let limits = tiles_of_blocks(18, c, block_threads);
            let device = Device { dtype, statistics: false, ..Device::new(c, limits) };
            let outcome = run(&case, &device);
            let plan = outcome.plan;
            assert_eq!(plan.variant, Variant::LearnCrossEntropy { dtype, values });
            let found = (plan.threads, plan.warp_rows, plan.column_rows(), plan.tile_rows);
            assert_eq!(found, (threads, warp_rows, column_rows, 18), "{c} classes");
            assert!(compare(&case, &device, &outcome), "{c} classes, {step:?}");
        }
    }
}

/// The same bits for every order of threads and any number of blocks.
#[test]
fn columns_do_not_depend_on_the_schedule() {
    for (c, block_threads) in [(253, 128), (600, 32)] {
        for step in [Step::UnitL2, Step::Raw] {
            let case = case(c, DType::F32, step);
            let limits = tiles_of_blocks(18, c, block_threads);
            let outcome = |seed: u64| {
                // For `scripts/sanitize.sh`.
                let record = std::env::var_os("EMULATOR_RECORDS").filter(|_| seed == 0).map(Into::into);
                let options = Options { seed, resident_blocks: 1 + seed as u32 % 2, record, ..Options::default() };
                let limits = Limits { multiprocessors: 1 + seed as u32 % 3, ..limits };
                let found = run(&case, &Device { options, ..Device::new(c, limits) });
                let delta: Vec<u32> = found.delta.iter().map(|x| x.to_bits()).collect();
                let gradient: Vec<u32> = found.outcome.gradient.iter().map(|x| x.to_bits()).collect();
                (delta, gradient, found.outcome.loss.to_bits())
            };
            let expected = outcome(0);
            for seed in 1..6 {
                assert_eq!(outcome(seed), expected, "{c} classes, {step:?}, seed {seed}");
            }
        }
    }
}
