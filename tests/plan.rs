//! The plans of cross-entropy for real devices and for tiny limits: nothing beyond the device, every row length covered.

use logit_perturb::kernel::{Limits, Plan, Regime, Variant};

/// Multiprocessors, shared memory of a block, threads and blocks of a multiprocessor, as the CUDA programming guide tabulates them.
const DEVICES: [(&str, Limits); 7] = [
    ("sm_75", limits(40, 1024, 16)),
    ("sm_80", limits(108, 2048, 32)),
    ("sm_86", limits(84, 1536, 16)),
    ("sm_89", limits(128, 1536, 24)),
    ("sm_90", limits(132, 2048, 32)),
    ("sm_100", limits(148, 2048, 32)),
    ("sm_120", limits(170, 1536, 24)),
];

const fn limits(multiprocessors: u32, resident_threads: u32, resident_blocks: u32) -> Limits {
    let (shared_memory, block_threads, labels_in_block) = (48 * 1024, 1024, 16_384);
    Limits { multiprocessors, shared_memory, resident_threads, resident_blocks, block_threads, labels_in_block }
}

/// What the emulated tests use, so that small batches reach every regime and every loop's second turn.
const TINY: Limits = Limits {
    multiprocessors: 2,
    shared_memory: 4096,
    resident_threads: 128,
    resident_blocks: 1,
    block_threads: 128,
    labels_in_block: 32,
};

fn lengths() -> impl Iterator<Item = usize> {
    let edges = [1usize, 10, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 50_257, 128_256, 262_144];
    edges.into_iter().flat_map(|c| c.saturating_sub(4).max(1)..=c + 4)
}

fn all_plans() -> impl Iterator<Item = (&'static str, Limits, usize, bool, Plan)> {
    DEVICES.into_iter().chain([("tiny", TINY)]).flat_map(|(name, limits)| {
        lengths().flat_map(move |c| {
            [(false, false), (true, false), (false, true), (true, true)]
                .map(|(aligned, fused)| (name, limits, c, aligned, Plan::new(c, aligned, fused, limits)))
        })
    })
}

/// Numbers a thread of the variant holds.
fn values(plan: &Plan) -> usize {
    match plan.variant {
        Variant::CrossEntropy { values, .. } => values as usize,
        Variant::Tally => unreachable!("a plan of cross-entropy"),
    }
}

#[test]
fn no_plan_asks_for_more_than_the_device_has() {
    for (name, limits, c, _, plan) in all_plans() {
        let at = format!("{name}, {c} classes: {plan}");
        assert!(plan.threads <= limits.block_threads && plan.threads % 32 == 0 && plan.threads > 0, "{at}");
        assert!(plan.shared + 2048 <= limits.shared_memory.max(4096), "{at}");
        assert!(plan.tile_rows >= 1, "{at}");
        for rows in [0, 1, 7, 1000, 1 << 40] {
            let geometry = plan.geometry(rows);
            assert!(
                geometry.grid >= 1 && geometry.grid <= limits.multiprocessors * limits.resident_blocks.max(1),
                "{at}"
            );
            assert!(i64::from(geometry.grid) <= plan.tiles(rows).max(1), "{at}");
        }
    }
}

#[test]
fn every_row_has_a_place_for_all_its_numbers() {
    for (name, _, c, aligned, plan) in all_plans() {
        let at = format!("{name}, {c} classes: {plan}");
        let needed = if aligned { c } else { c + 3 };
        match plan.regime() {
            Regime::Tile => {
                assert!(plan.shared as usize >= plan.tile_rows as usize * c * 4, "{at}");
                assert!(plan.tile_rows <= plan.threads, "{at}");
            }
            Regime::Warp => assert!(32 * values(&plan) >= needed && plan.tile_rows == plan.threads / 32, "{at}"),
            Regime::Block => assert!(plan.threads as usize * values(&plan) >= needed && plan.tile_rows == 1, "{at}"),
            Regime::TwoRead => assert_eq!(plan.tile_rows, 1, "{at}"),
        }
    }
}

#[test]
fn rows_of_up_to_16384_classes_are_read_once_on_every_device() {
    for (name, limits) in DEVICES {
        for c in [1, 10, 64, 65, 100, 1000, 1024, 1025, 4096, 10_000, 16_384] {
            let plan = Plan::new(c, true, true, limits);
            assert_ne!(plan.regime(), Regime::TwoRead, "{name}, {c} classes: {plan}");
        }
        assert_eq!(Plan::new(16_385, true, true, limits).regime(), Regime::TwoRead, "{name}");
        // A row behind a boundary needs up to three places more.
        assert_ne!(Plan::new(16_381, false, true, limits).regime(), Regime::TwoRead, "{name}");
        assert_eq!(Plan::new(16_382, false, true, limits).regime(), Regime::TwoRead, "{name}");
    }
}

#[test]
fn every_variant_is_some_plans_and_every_plan_has_its_variant() {
    let planned: std::collections::BTreeSet<Variant> = all_plans().map(|plan| plan.4.variant).collect();
    let mut listed: std::collections::BTreeSet<Variant> = Variant::all().into_iter().collect();
    assert_eq!(listed.len(), Variant::all().len(), "a variant is listed twice");
    listed.remove(&Variant::Tally);
    assert_eq!(planned, listed);
}

#[test]
fn tiny_limits_reach_every_regime_at_short_rows() {
    let regime = |c| Plan::new(c, true, true, TINY).regime();
    assert_eq!([8, 65, 1100, 5000].map(regime), [Regime::Tile, Regime::Warp, Regime::Block, Regime::TwoRead]);
    assert!(Plan::new(8, true, true, TINY).tally(33).is_some());
    assert!(Plan::new(8, true, true, TINY).tally(32).is_none());
}

#[test]
fn the_regime_does_not_depend_on_the_number_of_rows_and_is_printable() {
    let plan = Plan::new(1000, true, true, DEVICES[4].1);
    assert_eq!(
        plan.to_string(),
        "cross_entropy_warp_32_fused: 128 threads, 4 row(s) a block, 0 bytes of shared memory"
    );
}
