//! The plans of binary cross-entropy for real devices and for tiny limits: nothing beyond the device, every row and every tile covered.

use logit_perturb::kernel::binary::{BinaryPlan, BinaryWorkspaceSizes};
use logit_perturb::kernel::{DType, Geometry, Limits};

/// Multiprocessors, threads and blocks of a multiprocessor, as the CUDA programming guide tabulates them; at last what the emulated tests use.
const DEVICES: [(&str, Limits); 5] = [
    ("sm_75", limits(40, 1024, 16, 1024, 4096)),
    ("sm_86", limits(84, 1536, 16, 1024, 4096)),
    ("sm_90", limits(132, 2048, 32, 1024, 4096)),
    ("tiny", limits(2, 128, 1, 128, 1)),
    ("odd", limits(3, 96, 2, 96, 3)),
];

const fn limits(
    multiprocessors: u32,
    resident_threads: u32,
    resident_blocks: u32,
    block_threads: u32,
    chunks: i64,
) -> Limits {
    Limits {
        multiprocessors,
        shared_memory: 48 * 1024,
        row_shared: 96 * 1024,
        multiprocessor_shared: 96 * 1024,
        cluster: 1,
        resident_threads,
        resident_blocks,
        block_threads,
        labels_in_block: 16_384,
        chunks,
    }
}

fn all_plans() -> impl Iterator<Item = (String, Limits, BinaryPlan)> {
    let lengths = [1usize, 2, 4, 8, 16, 80, 256, 1000, 1024, 2048, 4096, 20_000, 262_144, 1 << 30];
    let lengths = lengths.into_iter().flat_map(|c| [c.saturating_sub(1).max(1), c, c + 1]);
    lengths.flat_map(|c| {
        DEVICES.into_iter().flat_map(move |(name, limits)| {
            DType::ALL.map(|dtype| {
                let plan = BinaryPlan::new(c, dtype, false, limits);
                (format!("{name}, {c} classes: {plan}"), limits, plan)
            })
        })
    })
}

const ROWS: [i64; 9] = [0, 1, 7, 100, 1000, 33_000, 1 << 20, (1 << 24) + 5, 1 << 40];

#[test]
fn no_plan_asks_for_more_than_the_device_has() {
    for (at, limits, plan) in all_plans() {
        let fits = |geometry: Geometry, what: &str| {
            let Geometry { grid, threads, shared, cluster, cooperative } = geometry;
            assert!(threads.is_power_of_two() && (32..=limits.block_threads).contains(&threads), "{at}, {what}");
            assert!((1..=limits.multiprocessors * limits.resident_blocks).contains(&grid), "{at}, {what}: {grid}");
            assert_eq!((shared, cluster, cooperative), (0, 1, false));
        };
        for rows in ROWS {
            fits(plan.geometry(rows), "main");
            fits(plan.decode(rows).geometry, "pre-pass");
            fits(plan.statistics(rows).geometry, "statistics");
        }
    }
}

#[test]
fn teams_divide_their_warps_or_are_their_blocks() {
    for (at, _, plan) in all_plans() {
        assert!(plan.team.is_power_of_two() && plan.team <= plan.threads, "{at}");
        assert!(plan.team <= 32 || plan.team == plan.threads, "{at}");
    }
}

#[test]
fn tiles_are_of_whole_turns_and_fit_the_workspace() {
    for (at, _, plan) in all_plans() {
        let mut most = 0;
        for rows in ROWS.into_iter().take_while(|&rows| rows < 1 << 30) {
            let tile = plan.tile_rows(rows);
            assert!(tile >= 1 && tile % i64::from((32 / plan.team).max(1)) == 0, "{at}, {rows} rows");
            assert!(
                plan.tiles(rows) * tile >= rows && (plan.tiles(rows) - 1) * tile < rows.max(1),
                "{at}, {rows} rows"
            );
            most = most.max(plan.tiles(rows));
            assert!(plan.most_partials(rows) as i64 >= most, "{at}, {rows} rows");
        }
    }
}

/// A user may say "any number of rows".
#[test]
fn a_greatest_batch_beyond_all_memory_leaves_room_for_every_smaller_one() {
    for (at, _, plan) in all_plans() {
        for most in [usize::MAX, 1 << 63, (1 << 63) - 1] {
            let sizes = BinaryWorkspaceSizes::of(&plan, most);
            assert!([1, 1000, 1 << 40].into_iter().all(|rows| sizes.partials as i64 >= plan.tiles(rows)), "{at}");
        }
    }
}

/// What a block counts or decodes in one go stays below 2^31 places.
#[test]
fn chunks_are_counted_in_32_bits() {
    for (at, _, plan) in all_plans() {
        for rows in ROWS {
            let chunk = i64::from(plan.decode(rows).chunk);
            let slots = plan.classes.div_ceil(plan.dtype.width()) as i64;
            assert!(chunk >= 1 && chunk * slots + 1024 < 1 << 31, "{at}, {rows} rows");
            let statistics = plan.statistics(rows);
            let columns = statistics.columns as u32;
            assert!(columns.is_power_of_two() && columns <= statistics.geometry.threads, "{at}");
        }
    }
}

/// A row's numbers follow from its team, which the number of rows does not change.
#[test]
fn teams_follow_from_the_row_length() {
    let team = |c| BinaryPlan::new(c, DType::F32, false, DEVICES[2].1).team;
    assert_eq!([1, 4, 8, 80, 1000, 1025, 4096, 100_000].map(team), [1, 1, 2, 8, 32, 64, 128, 512]);
    let plan = BinaryPlan::new(80, DType::BF16, true, DEVICES[2].1);
    assert_eq!(plan.to_string(), "binary_cross_entropy_bf16_focusing: 128 threads, 4 a row");
}
