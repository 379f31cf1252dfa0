//! Devices so small that a few short rows reach every regime and every loop's second turn.

use logit_perturb::kernel::{DType, Form, Limits, Plan, Regime};

/// Two multiprocessors, one block each, 1 KB for a tile: at most two blocks in flight, tiles of few rows.
pub const TINY: Limits = Limits {
    multiprocessors: 2,
    shared_memory: 4096,
    row_shared: 8192,
    multiprocessor_shared: 8192,
    cluster: 4,
    resident_threads: 128,
    resident_blocks: 1,
    block_threads: 128,
    labels_in_block: 40,
    chunks: 6,
};

/// The same with blocks of one warp.
const NARROW: Limits = Limits { block_threads: 32, ..TINY };

/// A row length and limits for every way in which a row can live on chip or not: the regime, and the numbers a thread.
pub const REACHES: [(Regime, usize, Limits); 10] = [
    (Regime::Tile, 10, TINY),
    (Regime::Warp, 100, TINY),
    (Regime::Warp, 200, TINY),
    (Regime::Warp, 500, TINY),
    (Regime::Block, 700, TINY),
    (Regime::Block, 1000, NARROW),
    (Regime::Shared, 1100, NARROW),
    (Regime::Cluster, 1100, Limits { row_shared: 2048, ..NARROW }),
    (Regime::Cluster, 1200, Limits { row_shared: 2048, ..NARROW }),
    (Regime::TwoRead, 1100, Limits { row_shared: 0, ..NARROW }),
];

/// The row lengths and limits alone, once it is certain that they reach what they are for.
pub fn reaches() -> Vec<(usize, Limits)> {
    for (regime, c, limits) in REACHES {
        for dtype in DType::ALL {
            let plan = Plan::new(Form::plain(dtype, c), limits);
            assert_eq!(plan.regime(), regime, "{dtype:?}, {c} classes: {plan}");
        }
    }
    REACHES.map(|(_, c, limits)| (c, limits)).to_vec()
}
