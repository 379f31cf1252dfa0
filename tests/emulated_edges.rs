//! What a launch on the emulated device must leave alone, where results alone do not show it: outputs not asked for, and sums and counts that
//! one thread stores for all.

use bytemuck::bytes_of;
use logit_perturb::kernel::{
    Addresses, ErrorWord, LabelType, Limits, Plan, Regime, Sequence, Shape, Variant, WorkspaceSizes,
};
use logit_perturb::{CrossEntropy, Reduction};
use logit_perturb_emulator::{Emulator, Layout, Options};

const ROWS: usize = 30;

const fn tiny(labels_in_block: i64) -> Limits {
    Limits {
        multiprocessors: 2,
        shared_memory: 4096,
        resident_threads: 128,
        resident_blocks: 1,
        block_threads: 128,
        labels_in_block,
    }
}

/// Nothing is stored where the host gave no address, each tile's sum and each chunk's tally once, and labels are tallied once where nothing
/// is divided by the number of valid rows.
#[test]
fn a_launch_moves_no_more_than_it_must() {
    for (c, labels_in_block) in [(10, 40), (100, 40), (1100, 40), (4200, 40), (10, 10)] {
        let plan = Plan::new(c, false, true, tiny(labels_in_block));
        let sizes = WorkspaceSizes::of([&plan], ROWS);
        let mut emulator = Emulator::new(Options::default());
        let memory = &mut emulator.memory;
        let logits = memory.upload_rows(&vec![0.5f32; ROWS * c], Layout::dense(ROWS, c));
        let labels = memory.upload(&[1i64; ROWS]);
        let partials = memory.poisoned::<f64>(sizes.partials);
        let tallies = memory.poisoned::<u64>(3 * sizes.chunks);
        memory.watch(labels);
        memory.watch(partials);
        memory.watch(tallies);
        let at = Addresses {
            logits: logits.address(),
            gradient: logits.address(),
            labels: labels.address(),
            partials: partials.address(),
            tallies: tallies.address(),
            valid_rows: memory.poisoned::<u64>(1).address(),
            tickets: memory.upload(&[0u32; 2]).address(),
            error: memory.upload(&[ErrorWord::default()]).address(),
            ..Addresses::default()
        };
        let problem = CrossEntropy::builder().reduction(Reduction::Sum).build().unwrap();
        let shape = Shape { rows: ROWS, classes: c, logits_stride: c, gradient_stride: c, label_type: LabelType::I64 };
        let sequence = Sequence::new(&problem, &plan, &at, shape, 1.0);
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
            Regime::Block | Regime::TwoRead => plan.threads,
        };
        let tallied = u32::from(sequence.tally.is_none());
        assert!(report.traffic(labels).reads.iter().all(|&reads| reads == team + tallied), "{plan}");
        assert!(report.traffic(partials).writes.iter().all(|&writes| writes == 1), "{plan}");
    }
}
