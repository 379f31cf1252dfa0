//! The plans of cross-entropy for real devices and for tiny limits: nothing beyond the device, every row length covered.

use devices::{DEVICES, device};
use logit_perturb::kernel::{DType, Form, Limits, Plan, Regime, Variant, WorkspaceSizes};
use std::collections::BTreeSet;
use tiny::{REACHES, TINY, reaches};

#[path = "common/devices.rs"]
mod devices;
#[path = "common/tiny.rs"]
mod tiny;

fn lengths() -> impl Iterator<Item = usize> {
    let edges = [1usize, 10, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 50_257, 128_256, 262_144];
    let longest = (1 << 30) - 5;
    edges.into_iter().chain([longest]).flat_map(|c| c.saturating_sub(4).max(1)..=c + 4)
}

fn forms() -> impl Iterator<Item = Form> {
    lengths().flat_map(|classes| {
        DType::ALL.into_iter().flat_map(move |dtype| {
            (0..8).map(move |bits| Form {
                dtype,
                classes,
                aligned: bits & 1 == 1,
                general: bits & 2 == 2,
                from_saved: bits & 4 == 4,
            })
        })
    })
}

fn all_plans() -> impl Iterator<Item = (&'static str, Limits, Form, Plan)> {
    let tiny = REACHES.map(|(_, _, limits)| ("tiny", limits));
    DEVICES
        .into_iter()
        .chain(tiny)
        .flat_map(|(name, limits)| forms().map(move |form| (name, limits, form, Plan::new(form, limits))))
}

/// Numbers a thread of the variant holds.
fn values(plan: &Plan) -> usize {
    match plan.variant {
        Variant::CrossEntropy { values, .. } => values as usize,
        _ => unreachable!("a plan of cross-entropy"),
    }
}

#[test]
fn no_plan_asks_for_more_than_the_device_has() {
    for (name, limits, form, plan) in all_plans() {
        let at = format!("{name}, {form:?}: {plan}");
        assert!(plan.threads <= limits.block_threads && plan.threads % 32 == 0 && plan.threads > 0, "{at}");
        let most = match plan.regime() {
            Regime::Shared | Regime::Cluster => limits.row_shared,
            _ => limits.shared_memory - 3072,
        };
        assert!(plan.shared <= most, "{at}");
        assert!(plan.tile_rows >= 1 && (1..=limits.cluster).contains(&plan.cluster), "{at}");
        assert_eq!(plan.cluster > 1, plan.regime() == Regime::Cluster, "{at}");
        for rows in [0, 1, 7, 1000, 1 << 40] {
            let geometry = plan.geometry(rows);
            let resident = limits.multiprocessors * limits.resident_blocks;
            assert!(geometry.grid >= plan.cluster && geometry.grid <= resident.max(plan.cluster), "{at}");
            assert!(geometry.grid.is_multiple_of(geometry.cluster) && geometry.cluster == plan.cluster, "{at}");
            assert!(i64::from(geometry.grid / geometry.cluster) <= plan.chunks(rows).max(1), "{at}");
            let chunks = plan.chunks(rows);
            assert!(chunks <= limits.chunks && chunks <= plan.most_chunks(rows), "{at}");
            assert!(chunks * plan.chunk_tiles(rows) >= plan.tiles(rows), "{at}");
            assert!(plan.tiles(rows) * i64::from(plan.tile_rows) >= rows, "{at}");
        }
    }
}

/// Workspace is sized for the greatest batch: none below it may be cut into more chunks.
#[test]
fn smaller_batches_make_no_more_chunks_than_there_is_room_for() {
    for (c, limits) in reaches() {
        let plan = Plan::new(Form::plain(DType::F32, c), limits);
        for rows in 0..200 {
            assert!((0..=rows).all(|fewer| plan.chunks(fewer) <= plan.most_chunks(rows)), "{plan}, {rows} rows");
        }
    }
}

/// A user may say "any number of rows".
#[test]
fn a_greatest_batch_beyond_all_memory_leaves_room_for_every_smaller_one() {
    for (c, limits) in reaches() {
        let plan = Plan::new(Form::plain(DType::F32, c), limits);
        for most in [usize::MAX, 1 << 63, (1 << 63) - 1] {
            let sizes = WorkspaceSizes::of([&plan], most);
            for rows in [1, 1000, 1 << 40] {
                assert!(sizes.partials as i64 >= plan.chunks(rows), "{plan}, {rows} of {most} rows");
                let chunks = plan.tally(rows).map_or(1, |tally| tally.chunks(rows));
                assert!(sizes.chunks as i64 >= chunks, "{plan}, {rows} of {most} rows");
            }
        }
    }
}

#[test]
fn every_row_has_a_place_for_all_its_numbers() {
    for (name, _, form, plan) in all_plans() {
        let at = format!("{name}, {form:?}: {plan}");
        let c = form.classes;
        let needed = if form.aligned { c } else { c + form.dtype.width() - 1 };
        match plan.regime() {
            Regime::Tile => {
                assert!(plan.shared as usize >= plan.tile_rows as usize * (c | 1) * 4, "{at}");
                assert!(plan.tile_rows <= plan.threads, "{at}");
            }
            Regime::Warp => assert!(32 * values(&plan) >= needed && plan.tile_rows == plan.threads / 32, "{at}"),
            Regime::Block => assert!(plan.threads as usize * values(&plan) >= needed && plan.tile_rows == 1, "{at}"),
            Regime::Shared | Regime::Cluster => {
                let slots = needed.div_ceil(form.dtype.width());
                let turns = slots.div_ceil((plan.threads * plan.cluster) as usize);
                assert!(plan.shared as usize >= turns * plan.threads as usize * 16 && plan.tile_rows == 1, "{at}");
            }
            Regime::TwoRead => assert_eq!(plan.tile_rows, 1, "{at}"),
        }
    }
}

/// Up to which C a row of every type is read once, with rows on 16-byte boundaries and not.
#[test]
fn rows_are_read_once_up_to_what_a_device_holds() {
    for (name, f32s, halves) in [
        ("sm_75", 16_384, 28_672),
        ("sm_80", 24_576, 49_152),
        ("sm_86", 24_576, 49_152),
        ("sm_89", 24_576, 49_152),
        ("sm_90", 393_216, 786_432),
        ("sm_100", 393_216, 786_432),
        ("sm_120", 196_608, 393_216),
    ] {
        let limits = device(name);
        for (dtype, most) in [(DType::F32, f32s), (DType::F16, halves), (DType::BF16, halves)] {
            for (aligned, most) in [(true, most), (false, most - dtype.width() + 1)] {
                let regime = |classes| Plan::new(Form { aligned, ..Form::plain(dtype, classes) }, limits).regime();
                assert_ne!(regime(most), Regime::TwoRead, "{name}, {dtype:?}, {most} classes");
                assert_eq!(regime(most + 1), Regime::TwoRead, "{name}, {dtype:?}, {most} classes and one");
                let halved = (1..most).step_by(most / 100).map(regime);
                assert!(halved.into_iter().all(|regime| regime != Regime::TwoRead), "{name}, {dtype:?}");
            }
        }
    }
}

#[test]
fn every_variant_is_some_plans_and_every_plan_has_its_variant() {
    let planned: BTreeSet<Variant> = all_plans().map(|plan| plan.3.variant).collect();
    let all = Variant::all();
    let listed: BTreeSet<Variant> =
        all.iter().copied().filter(|variant| matches!(variant, Variant::CrossEntropy { .. })).collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "a variant is listed twice");
    // Each costs a compilation, on every device that meets it: no zoo.
    let learns = |variant: &&Variant| matches!(variant, Variant::GroupRows | Variant::LearnCrossEntropy { .. });
    let learns_signs = |variant: &&Variant| {
        matches!(variant, Variant::BinaryConfidences { .. } | Variant::LearnBinaryCrossEntropy { .. })
    };
    let (labels, signs) = (all.iter().filter(learns).count(), all.iter().filter(learns_signs).count());
    assert!(
        all.len() - labels - signs <= 64 && labels <= 10 && signs <= 6,
        "{}: {labels} and {signs} learn",
        all.len()
    );
    assert_eq!(planned, listed);
}

#[test]
fn the_pre_pass_runs_above_what_a_block_counts() {
    let plan = Plan::new(Form::plain(DType::F32, 8), TINY);
    assert!(plan.tally(41).is_some() && plan.tally(40).is_none());
}

#[test]
fn the_regime_does_not_depend_on_the_number_of_rows_and_is_printable() {
    let (_, hopper) = DEVICES[4];
    let plan = |dtype, c| Plan::new(Form::plain(dtype, c), hopper).to_string();
    assert_eq!(
        plan(DType::F32, 1000),
        "cross_entropy_f32_block_8: 128 threads, 1 row(s) at a time, 0 bytes of shared memory a block"
    );
    assert_eq!(
        plan(DType::BF16, 128_256),
        "cross_entropy_bf16_cluster: 512 threads in clusters of 4, 1 row(s) at a time, 65536 bytes of shared memory a block"
    );
}
