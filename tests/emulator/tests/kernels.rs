//! The kernels themselves against the f64 reference, at limits so small that a few rows reach every regime.
//!
//! `EMULATOR_RECORDS` names a folder that the launches of one seed are written to, for `scripts/sanitize.sh`.

use logit_perturb::kernel::{
    Addresses, CrossEntropyArgs, ErrorWord, LabelType, Limits, Plan, Regime, Sequence, Shape, Variant, WorkspaceSizes,
};
use logit_perturb::{CrossEntropy, Matrix, MatrixMut, Perturbation, Reduction, cpu};
use logit_perturb_emulator::{Buffer, Emulator, Layout, Options, Sectors};
use std::collections::BTreeSet;

const LIMITS: Limits = Limits {
    multiprocessors: 2,
    shared_memory: 4096,
    resident_threads: 256,
    resident_blocks: 2,
    block_threads: 64,
    labels_in_block: 8,
};
const IGNORED: i64 = -100;

/// Numbers that repeat after a long while, in -8..8.
fn logits(count: usize) -> Vec<f32> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as f32 / 256.0 - 8.0).collect()
}

/// Row 1 is ignored; the labels of rows 3 and 5 are bad.
fn labels(rows: usize, classes: usize) -> Vec<i64> {
    let label = |row: usize| match row {
        1 => IGNORED,
        3 => classes as i64,
        5 => -7,
        _ => (row * 37 % classes) as i64,
    };
    (0..rows).map(label).collect()
}

struct Case {
    rows: usize,
    classes: usize,
    stride: usize,
    offset: usize,
    in_place: bool,
    fused: bool,
    problem: CrossEntropy,
}

struct Results {
    loss: f32,
    loss_rows: Vec<f32>,
    lse: Vec<f32>,
    gradient: Vec<f32>,
    error: ErrorWord,
    /// Of the logits' reads and the gradient's writes.
    sectors: [Sectors; 2],
}

impl Case {
    fn plan(&self) -> Plan {
        let aligned = self.offset.is_multiple_of(4) && self.stride.is_multiple_of(4);
        // A warp takes a thousand classes, and so does a block of one warp.
        let block_threads = if self.classes > 1100 { 32 } else { LIMITS.block_threads };
        Plan::new(self.classes, aligned, self.fused, Limits { block_threads, ..LIMITS })
    }

    fn run(&self, seed: u64, exp_seed: u64) -> Results {
        let record = std::env::var_os("EMULATOR_RECORDS")
            .map(Into::into)
            .filter(|_| seed == 2 && self.rows * self.classes < 8000);
        let options = Options { seed, exp_seed, resident_blocks: 1 + seed as u32 % 3, record, ..Options::default() };
        let mut emulator = Emulator::new(options);
        let memory = &mut emulator.memory;
        let layout = Layout::dense(self.rows, self.classes).stride(self.stride).offset(self.offset);
        let logits = memory.upload_rows(&logits(self.rows * self.classes), layout);
        let gradient = if self.in_place { logits } else { memory.poisoned_rows(layout.offset(0)) };
        memory.watch(logits);
        memory.watch(gradient);
        let labels = memory.upload(&labels(self.rows, self.classes));
        memory.read_only(labels);
        let delta = match self.problem.perturbation() {
            Perturbation::Shared(delta) => {
                memory.upload(&delta.iter().map(|d| *d as f32).collect::<Vec<_>>()).address()
            }
            _ => 0,
        };
        let plan = self.plan();
        let sizes = WorkspaceSizes::of([&plan], self.rows);
        let (loss_rows, lse) = (memory.poisoned::<f32>(self.rows), memory.poisoned::<f32>(self.rows));
        let loss = memory.poisoned::<f32>(1);
        let error = memory.upload(&[ErrorWord::default()]);
        let tickets = memory.upload(&[0u32; 2]);
        let at = Addresses {
            logits: logits.address(),
            gradient: if self.fused { gradient.address() } else { 0 },
            labels: labels.address(),
            delta,
            loss_rows: loss_rows.address(),
            lse: lse.address(),
            loss: loss.address(),
            partials: memory.poisoned::<f64>(sizes.partials).address(),
            tallies: memory.poisoned::<u64>(3 * sizes.chunks).address(),
            valid_rows: memory.poisoned::<u64>(1).address(),
            tickets: tickets.address(),
            error: error.address(),
        };
        let shape = Shape {
            rows: self.rows,
            classes: self.classes,
            logits_stride: self.stride,
            gradient_stride: self.stride,
            label_type: LabelType::I64,
        };
        let sequence = Sequence::new(&self.problem, &plan, &at, shape, 0.5);
        if let Some((geometry, args)) = sequence.tally {
            let report = emulator.launch(&Variant::Tally, geometry, bytemuck::bytes_of(&args));
            report.unwrap_or_else(|faults| panic!("{plan}, {self}, seed {seed}: {faults}"));
        }
        let (geometry, args) = sequence.main;
        let args: &CrossEntropyArgs = &args;
        let report = emulator.launch(&plan.variant, geometry, bytemuck::bytes_of(args));
        let report = report.unwrap_or_else(|faults| panic!("{plan}, {self}, seed {seed}: {faults}"));
        self.check_counts(&report.traffic(logits).reads, &report.traffic(gradient).writes, plan.regime());
        assert_eq!(emulator.memory.download(tickets), [0, 0], "tickets are left as they were found");
        let download = |buffer: Buffer<f32>| emulator.memory.download(buffer);
        Results {
            loss: download(loss)[0],
            loss_rows: download(loss_rows),
            lse: download(lse),
            gradient: download(gradient),
            error: emulator.memory.download(error)[0],
            sectors: [report.traffic(logits).read_sectors, report.traffic(gradient).write_sectors],
        }
    }

    fn check_counts(&self, reads: &[u32], writes: &[u32], regime: Regime) {
        for (i, (reads, writes)) in reads.iter().zip(writes).enumerate() {
            let counts = !matches!(i / self.classes, 1 | 3 | 5);
            let expected = match regime {
                Regime::TwoRead if counts => 1 + u32::from(self.fused),
                Regime::Tile => 1,
                _ => u32::from(counts),
            };
            assert_eq!((*reads, *writes), (expected, u32::from(self.fused)), "{self}: element {i}");
        }
    }

    fn check(&self, seed: u64) {
        let found = self.run(seed, seed);
        let mut labels = labels(self.rows, self.classes);
        let is_bad = |label: &i64| *label != IGNORED && !(0..self.classes as i64).contains(label);
        let bad: Vec<usize> = (0..self.rows).filter(|row| is_bad(&labels[*row])).collect();
        let word = ErrorWord {
            bad_labels: bad.len() as u64,
            first_row: bad.first().map_or(0, |row| *row as u64),
            first_label: bad.first().map_or(0, |row| labels[*row]),
        };
        assert_eq!(found.error, word, "{self}");
        labels.iter_mut().filter(|label| is_bad(label)).for_each(|label| *label = IGNORED);

        let logits = logits(self.rows * self.classes);
        let mut gradient = vec![0f32; logits.len()];
        let pass = cpu::Pass::Into {
            logits: Matrix::new(&logits, self.rows, self.classes).unwrap(),
            gradient: MatrixMut::new(&mut gradient, self.rows, self.classes).unwrap(),
        };
        let upstream = logit_perturb::Upstream::Scalar(0.5);
        let batch = cpu::CrossEntropyBatch::labels(&labels).upstream(upstream);
        let expected = cpu::cross_entropy(&self.problem, pass, batch).unwrap();
        let near = |what: &str, found: f32, expected: f64, scale: f64| {
            let tolerance = 4e-6 * (scale + expected.abs());
            assert!((f64::from(found) - expected).abs() <= tolerance, "{self}: {what} {found}, not {expected}");
        };
        near("loss", found.loss, expected.loss, 1.0);
        for row in 0..self.rows {
            near("loss of a row", found.loss_rows[row], expected.loss_rows[row], 1.0);
            near("lse", found.lse[row], expected.lse[row], 1.0);
        }
        if self.fused {
            let largest = gradient.iter().fold(0f32, |largest, g| largest.max(g.abs()));
            for (found, expected) in found.gradient.iter().zip(&gradient) {
                near("gradient", *found, f64::from(*expected), f64::from(largest));
            }
        }
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rows, classes, stride, offset, in_place, fused, .. } = self;
        write!(f, "{rows} x {classes}, stride {stride}, offset {offset}, in place: {in_place}, fused: {fused}")
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for classes in [1usize, 10, 33, 64, 65, 130, 700, 1100, 1101] {
        let delta: Vec<f64> = (0..classes).map(|c| c as f64 % 7.0 * 0.25 - 1.0).collect();
        let problem = |i: usize| {
            let builder = CrossEntropy::builder().ignore_index(IGNORED);
            match i % 3 {
                0 => builder,
                1 => builder.perturbation(Perturbation::Shared(delta.clone())).scale(1.5),
                _ => builder.reduction(Reduction::Divisor(3.0)),
            }
        };
        let aligned = classes.div_ceil(4) * 4;
        let strides = [(classes, 0), (classes, 3), (classes + 1, 1), (aligned, 0), (aligned + 4, 4), (aligned + 2, 2)];
        for (i, (stride, offset)) in strides.into_iter().enumerate() {
            for rows in [1, 7, if classes > 64 { 12 } else { 64 }] {
                let problem = problem(i + rows).build().unwrap();
                let fused = i != 4;
                cases.push(Case { rows, classes, stride, offset, in_place: i % 2 == 1 && fused, fused, problem });
            }
        }
    }
    cases
}

#[test]
fn every_regime_is_near_the_reference() {
    let cases = cases();
    let regimes: BTreeSet<_> = cases.iter().map(|case| case.plan().regime()).collect();
    assert_eq!(regimes.len(), 4, "{regimes:?}");
    for case in &cases {
        (0..3).for_each(|seed| case.check(seed));
    }
}

#[test]
fn results_do_not_depend_on_the_schedule() {
    for case in cases().iter().filter(|case| case.rows == 7) {
        let bits = |seed: u64| {
            let results = case.run(seed, 0);
            let numbers = results.gradient.iter().chain(&results.loss_rows).chain(&results.lse).chain([&results.loss]);
            numbers.map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        let first = bits(1);
        (2..6).for_each(|seed| assert!(bits(seed) == first, "{case}, seed {seed}"));
    }
}

#[test]
fn aligned_rows_move_no_sector_twice() {
    for (classes, reads) in [(8, 1), (64, 1), (128, 1), (704, 1), (1096, 1), (1104, 2)] {
        let problem = CrossEntropy::builder().reduction(Reduction::Divisor(2.0)).build().unwrap();
        let case = Case { rows: 40, classes, stride: classes, offset: 0, in_place: false, fused: true, problem };
        let [read, write] = case.run(classes as u64, 0).sectors;
        assert_eq!((read.moved, write.moved), (reads * read.distinct, write.distinct), "{case}");
    }
}
