//! What a launch on the emulated device must leave alone, where results alone do not show it: outputs not asked for, and sums and counts that
//! one thread stores for all.

use bytemuck::bytes_of;
use logit_perturb::kernel::binary::{
    BadTargets, BinaryAddresses, BinaryPlan, BinarySequence, BinaryShape, BinaryValues, BinaryWorkspaceSizes,
    TargetErrors, TargetFormat, TargetSource,
};
use logit_perturb::kernel::{
    Addresses, DType, ErrorWord, Form, LabelType, Limits, Plan, Regime, Sequence, Shape, Tally, Totals, Values,
    Variant, WorkspaceSizes,
};
use logit_perturb::{BinaryCrossEntropy, CrossEntropy, Reduction};
use logit_perturb_emulator::{Emulator, Layout, Options};
use tiny::{TINY, reaches};

#[path = "common/tiny.rs"]
mod tiny;

const ROWS: usize = 30;

/// Nothing is stored where the host gave no address, each chunk's sum and tally once, and labels are tallied once where nothing is divided by
/// the number of valid rows.
#[test]
fn a_launch_moves_no_more_than_it_must() {
    for (c, limits) in reaches() {
        for labels_in_block in [40, 10] {
            let limits = Limits { labels_in_block, ..limits };
            let plan = Plan::new(Form { aligned: false, ..Form::plain(DType::F32, c) }, limits);
            let sizes = WorkspaceSizes::of([&plan], ROWS);
            let mut emulator = Emulator::new(Options::default());
            let memory = &mut emulator.memory;
            let logits = memory.upload_rows(&vec![0.5f32; ROWS * c], Layout::dense(ROWS, c));
            let labels = memory.upload(&[1i64; ROWS]);
            let partials = memory.poisoned::<f64>(sizes.partials);
            // Counted number by number.
            let tallies = memory.poisoned::<u64>(sizes.chunks * size_of::<Tally>() / size_of::<u64>());
            memory.watch(labels);
            memory.watch(partials);
            memory.watch(tallies);
            let at = Addresses {
                logits: logits.address(),
                gradient: logits.address(),
                labels: labels.address(),
                partials: partials.address(),
                tallies: tallies.address(),
                totals: memory.poisoned::<Totals>(1).address(),
                tickets: memory.upload(&[0u32; 3]).address(),
                error: memory.upload(&[ErrorWord::default()]).address(),
                ..Addresses::default()
            };
            let problem = CrossEntropy::builder().reduction(Reduction::Sum).build().unwrap();
            let shape =
                Shape { rows: ROWS, classes: c, logits_stride: c, gradient_stride: c, label_type: LabelType::I64 };
            let sequence = Sequence::new(&problem, &plan, &at, shape, Values::default());
            if let Some((geometry, args)) = &sequence.tally {
                let report = emulator.launch(&Variant::Tally, *geometry, bytes_of(args)).unwrap();
                assert!(report.traffic(labels).reads.iter().all(|&reads| reads == 1));
                assert!(report.traffic(tallies).writes.iter().all(|&writes| writes == 1));
            }
            let (geometry, args) = &sequence.main;
            let report = emulator.launch(&plan.variant, *geometry, bytes_of(args)).unwrap();
            let team = match plan.regime() {
                Regime::Tile => 1,
                Regime::Warp => 32,
                _ => plan.threads * plan.cluster,
            };
            let tallied = u32::from(sequence.tally.is_none());
            assert!(report.traffic(labels).reads.iter().all(|&reads| reads == team + tallied), "{plan}");
            let chunks = plan.chunks(ROWS as i64);
            let once = |chunk: usize| u32::from((chunk as i64) < chunks);
            assert!(report.traffic(partials).writes.iter().enumerate().all(|(i, &n)| n == once(i)), "{plan}");
        }
    }
}

/// Row losses that were not asked for are stored nowhere, and each tile's sum once.
#[test]
fn a_multi_label_launch_stores_what_was_asked_for() {
    for c in [3, 40, 300] {
        let plan = BinaryPlan::new(c, DType::F32, false, TINY);
        let sizes = BinaryWorkspaceSizes::of(&plan, ROWS);
        let mut emulator = Emulator::new(Options::default());
        let memory = &mut emulator.memory;
        let logits = memory.upload_rows(&vec![0.5f32; ROWS * c], Layout::dense(ROWS, c));
        let partials = memory.poisoned::<f64>(sizes.partials);
        memory.watch(partials);
        let loss = memory.poisoned::<f32>(1);
        let at = BinaryAddresses {
            logits: logits.address(),
            gradient: logits.address(),
            targets: memory.upload(&vec![1u8; ROWS * c]).address(),
            loss: loss.address(),
            partials: partials.address(),
            tickets: memory.upload(&[0u32; 3]).address(),
            found: memory.upload(&[BadTargets::NONE]).address(),
            errors: memory.upload(&[TargetErrors::default()]).address(),
            ..BinaryAddresses::default()
        };
        let problem = BinaryCrossEntropy::builder().reduction(Reduction::Sum).build().unwrap();
        let shape = BinaryShape {
            rows: ROWS,
            classes: c,
            logits_stride: c,
            gradient_stride: c,
            targets: TargetSource::Dense { format: TargetFormat::U8, stride: c },
            mask_stride: 0,
            upstream_rows: false,
        };
        let values = BinaryValues { upstream: 1.0, divisor: None };
        let (geometry, args) = BinarySequence::new(&problem, &plan, None, &at, shape, values).main;
        let report = emulator.launch(&plan.variant(), geometry, bytes_of(&args)).unwrap();
        let tiles = ROWS.div_ceil(plan.tile_rows(ROWS as i64) as usize);
        let once = |tile: usize| u32::from(tile < tiles);
        assert!(report.traffic(partials).writes.iter().enumerate().all(|(i, &n)| n == once(i)), "{plan}");
        let expected = (ROWS * c) as f32 * (-0.5f32).exp().ln_1p();
        assert!((emulator.memory.download(loss)[0] / expected - 1.0).abs() < 1e-5, "{plan}");
    }
}
