//! A multi-label batch in plain numbers, run on the emulated device, and SPEC 4 written out over it in f64.

use logit_perturb::cpu::{self, BinaryCrossEntropyBatch, Pass};
use logit_perturb::half::{bf16, f16};
use logit_perturb::kernel::binary::TargetErrors;
use logit_perturb::kernel::{DType, Limits};
use logit_perturb::{BinaryCrossEntropy, Mask, Matrix, MatrixMut, Reduction, Upstream};
use logit_perturb_emulator::{
    Beside, BinaryBatch, BinaryOperation, BinaryOutcome, BinaryStatistics, DeviceTargets, Emulator, Given, Gradient,
    Options, PackedMask, Rows,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Two multiprocessors, one block each, and a partial sum of several turns of a warp: small batches take every loop's second turn.
pub const TINY: Limits = Limits {
    multiprocessors: 2,
    shared_memory: 4096,
    row_shared: 4096,
    multiprocessor_shared: 8192,
    cluster: 1,
    resident_threads: 128,
    resident_blocks: 1,
    block_threads: 128,
    labels_in_block: 40,
    chunks: 1,
};

/// What the targets are stored as on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    F32,
    /// As the logits.
    Same,
    I8,
    U8,
    Bits,
    Csr,
}

impl Format {
    pub const ALL: [Self; 6] = [Self::F32, Self::Same, Self::I8, Self::U8, Self::Bits, Self::Csr];

    pub fn is_soft(self) -> bool {
        matches!(self, Self::F32 | Self::Same)
    }

    /// Whether -1 stands for an unknown target.
    fn has_unknown(self) -> bool {
        matches!(self, Self::F32 | Self::Same | Self::I8)
    }
}

/// The nearest number of a type.
pub fn rounded(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F32 => f64::from(x as f32),
        DType::F16 => f16::from_f64(x).to_f64(),
        DType::BF16 => bf16::from_f64(x).to_f64(),
    }
}

/// How many numbers of a half type lie between two, and one of them.
fn ulps(dtype: DType, a: f64, b: f64) -> i32 {
    let place = |x: f64| {
        let bits = if dtype == DType::F16 { f16::from_f64(x).to_bits() } else { bf16::from_f64(x).to_bits() };
        let magnitude = i32::from(bits & 0x7fff);
        if bits >> 15 == 1 { -magnitude } else { magnitude }
    };
    (place(a) - place(b)).abs()
}

pub fn dense(classes: usize) -> Rows {
    Rows { stride: classes, offset: 0 }
}

#[derive(Clone)]
pub struct Case {
    pub dtype: DType,
    pub classes: usize,
    pub logits: Vec<f32>,
    /// -1 where unknown.
    pub targets: Vec<f32>,
    pub format: Format,
    /// Where targets lie on the device, in their elements; for bits and lists it does not matter.
    pub targets_at: Rows,
    pub mask: Option<Vec<bool>>,
    pub weights: Option<Vec<f32>>,
    pub wide_weights: bool,
    pub problem: BinaryCrossEntropy,
    pub rows_at: Rows,
    pub gradient: Gradient,
    /// One number, or one a row; on the device or not.
    pub upstream: Vec<f32>,
    pub device_upstream: bool,
    pub device_divisor: Option<f32>,
    pub statistics: bool,
    /// Whether the learner gathers confidences in a phase of their own.
    pub data_parallel: bool,
    pub limits: Limits,
}

/// What a device gave for a batch.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    pub loss: f32,
    pub loss_rows: Vec<f32>,
    /// Empty for the loss only.
    pub gradient: Vec<f32>,
    pub statistics: Option<BinaryStatistics>,
}

impl From<&BinaryOutcome> for Numbers {
    fn from(outcome: &BinaryOutcome) -> Self {
        let BinaryOutcome { loss, loss_rows, gradient, statistics, .. } = outcome.clone();
        Self { loss, loss_rows, gradient, statistics }
    }
}

/// SPEC 4 in f64.
pub struct Expected {
    pub loss: f64,
    pub rows: Vec<f64>,
    pub gradient: Vec<f64>,
    /// What an error of the gradient is measured by, per entry.
    pub scale: Vec<f64>,
    /// Per row: how far its logits lie beyond 50.
    pub stretch: Vec<f64>,
    pub count: Vec<u64>,
    pub positives: Vec<f64>,
    pub class_loss: Vec<f64>,
}

fn sigmoid(v: f64) -> f64 {
    1.0 / (1.0 + (-v).exp())
}

fn softplus(v: f64) -> f64 {
    if v > 0.0 { v + (-v).exp().ln_1p() } else { v.exp().ln_1p() }
}

impl Case {
    /// Hard targets, a tenth of them unknown; plain mean loss, gradient into another buffer.
    pub fn random(dtype: DType, format: Format, classes: usize, rows: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let logits = (0..rows * classes).map(|_| rounded(dtype, rng.random_range(-8.0..8.0)) as f32).collect();
        let target_type = if format == Format::Same { dtype } else { DType::F32 };
        let mut target = || match rng.random_range(0.0..1.0) {
            x if x < 0.1 => -1.0,
            x if x < 0.4 => 1.0,
            x if format.is_soft() && x < 0.7 => rounded(target_type, x) as f32,
            _ => 0.0,
        };
        Self {
            dtype,
            classes,
            logits,
            targets: (0..rows * classes).map(|_| target()).collect(),
            format,
            targets_at: dense(classes),
            mask: None,
            weights: None,
            wide_weights: true,
            problem: BinaryCrossEntropy::default(),
            rows_at: dense(classes),
            gradient: Gradient::Into(dense(classes)),
            upstream: vec![1.0],
            device_upstream: false,
            device_divisor: None,
            statistics: false,
            data_parallel: false,
            limits: TINY,
        }
    }

    pub fn rows(&self) -> usize {
        self.logits.len() / self.classes
    }

    /// A quarter of the entries is masked.
    pub fn masked(mut self, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 77);
        self.mask = Some((0..self.logits.len()).map(|_| rng.random_range(0..4) != 0).collect());
        self
    }

    /// Weights of which some are 0.
    pub fn weighted(mut self, wide: bool, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 78);
        let dtype = if wide { DType::F32 } else { self.dtype };
        let mut weight = || rounded(dtype, rng.random_range(-0.3f64..2.0).max(0.0)) as f32;
        self.weights = Some((0..self.logits.len()).map(|_| weight()).collect());
        self.wide_weights = wide;
        self
    }

    pub fn is_known(&self, index: usize) -> bool {
        self.targets[index] != -1.0 && self.mask.as_ref().is_none_or(|mask| mask[index])
    }

    /// The mask's words, where there is one: the batch's own, or one in place of the word for unknown that the format lacks.
    pub fn mask_words(&self) -> Option<Vec<u32>> {
        let unknown = !self.format.has_unknown() && self.targets.contains(&-1.0);
        let known = |index: usize| self.mask.as_ref().is_none_or(|mask| mask[index]);
        let word = || self.packed(|index| known(index) && !(unknown && self.targets[index] == -1.0));
        (self.mask.is_some() || unknown).then(word)
    }

    /// Bits as the device has them; what lies past C is set.
    pub fn packed(&self, bit: impl Fn(usize) -> bool) -> Vec<u32> {
        let words = self.classes.div_ceil(32);
        let word = |row: usize, word: usize| {
            (0..32).fold(0u32, |bits, k| {
                let class = 32 * word + k;
                bits | u32::from(class >= self.classes || bit(row * self.classes + class)) << k
            })
        };
        (0..self.rows()).flat_map(|row| (0..words).map(move |w| (row, w))).map(|(row, w)| word(row, w)).collect()
    }

    /// The targets as lists, each class twice and out of order.
    pub fn lists(&self) -> (Vec<i32>, Vec<i32>) {
        let (mut offsets, mut indices) = (vec![0], Vec::new());
        for row in self.targets.chunks(self.classes) {
            let positive = || row.iter().enumerate().filter(|(_, t)| **t == 1.0).map(|(class, _)| class as i32);
            indices.extend(positive().rev().chain(positive().take(3)));
            offsets.push(indices.len() as i32);
        }
        (offsets, indices)
    }

    /// Lays the batch out on a device; `lists` in place of the targets' own.
    pub fn operation(&self, emulator: &mut Emulator, lists: Option<(Vec<i32>, Vec<i32>)>) -> BinaryOperation {
        let (c, words) = (self.classes, self.classes.div_ceil(32));
        let mask = self.mask_words();
        let bytes: Vec<i8> = self.targets.iter().map(|&t| t as i32 as i8).collect();
        let unsigned: Vec<u8> = self.targets.iter().map(|&t| t as i32 as u8).collect();
        let bits = self.packed(|index| self.targets[index] == 1.0);
        let (offsets, indices) = lists.unwrap_or_else(|| self.lists());
        let bits_at = Rows { stride: words + self.targets_at.stride - c, offset: 0 };
        let beside = |wide| Beside { data: &self.targets, wide, stride: self.targets_at.stride };
        let targets = match self.format {
            Format::F32 => DeviceTargets::Floats(beside(true)),
            Format::Same => DeviceTargets::Floats(beside(false)),
            Format::I8 => DeviceTargets::I8(&bytes, self.targets_at),
            Format::U8 => DeviceTargets::U8(&unsigned, self.targets_at),
            Format::Bits => DeviceTargets::Bits(&bits, bits_at),
            Format::Csr => DeviceTargets::Csr { offsets: &offsets, indices: &indices },
        };
        let upstream = match self.upstream.as_slice() {
            [one] if self.device_upstream => Given::Device(*one),
            [one] => Given::Host(f64::from(*one)),
            rows => Given::Rows(rows),
        };
        let batch = BinaryBatch {
            dtype: self.dtype,
            logits: &self.logits,
            classes: c,
            targets,
            mask: mask.as_deref().map(|mask| PackedMask { words: mask, stride: words + 1 }),
            weights: self.weights.as_deref().map(|data| Beside { data, wide: self.wide_weights, stride: c + 1 }),
            rows: self.rows_at,
            gradient: self.gradient,
            statistics: self.statistics,
            upstream,
            divisor: self.device_divisor.map(Given::Device),
            data_parallel: self.data_parallel,
            limits: self.limits,
        };
        BinaryOperation::new(emulator, &self.problem, &batch)
    }

    pub fn run_with(&self, options: Options) -> BinaryOutcome {
        let mut emulator = Emulator::new(options);
        let operation = self.operation(&mut emulator, None);
        operation.run(&mut emulator).unwrap_or_else(|faults| panic!("{}: {faults}", self.describe()))
    }

    pub fn run(&self, seed: u64) -> BinaryOutcome {
        self.run_with(Options { seed, exp_seed: seed, ..Options::default() })
    }

    pub fn describe(&self) -> String {
        format!(
            "{:?} {:?} {} x {} at {:?}, gradient {:?}, mask {}",
            self.dtype,
            self.format,
            self.rows(),
            self.classes,
            self.rows_at,
            self.gradient,
            self.mask.is_some()
        )
    }

    pub fn upstream_of(&self, row: usize) -> f64 {
        f64::from(self.upstream[row % self.upstream.len()])
    }

    /// SPEC 4, entry by entry. A target that is out of range counts as masked.
    pub fn expected(&self) -> Expected {
        let (n, c) = (self.rows(), self.classes);
        let known = |index: usize| self.is_known(index) && (0.0..=1.0).contains(&self.targets[index]);
        let unmasked = (0..n * c).filter(|&index| known(index)).count();
        let divisor = match (self.problem.reduction(), self.device_divisor) {
            (Reduction::Mean, _) => unmasked as f64,
            (Reduction::BatchMean, _) => n as f64,
            (Reduction::Divisor(_), Some(divisor)) => f64::from(divisor),
            (Reduction::Divisor(divisor), None) => divisor,
            _ => 1.0,
        };
        let mut expected = Expected {
            loss: 0.0,
            rows: vec![0.0; n],
            gradient: vec![0.0; n * c],
            scale: vec![0.0; n * c],
            stretch: vec![1.0; n],
            count: vec![0; c],
            positives: vec![0.0; c],
            class_loss: vec![0.0; c],
        };
        let gammas =
            self.problem.focusing().map_or(1.0, |focusing| focusing.gamma_pos.max(focusing.gamma_neg).max(1.0));
        for index in (0..n * c).filter(|&index| known(index)) {
            let (row, class, t) = (index / c, index % c, f64::from(self.targets[index]));
            let (beta, dpos, dneg) = self.problem.perturbation().at(class);
            let v = f64::from(self.logits[index]) + beta + t * dpos + (1.0 - t) * dneg;
            let p = self.problem.pos_weight().map_or(1.0, |weights| weights[class]);
            let w = self.weights.as_ref().map_or(1.0, |weights| f64::from(weights[index]));
            let ((up, up_slope), (down, down_slope)) = self.terms(v);
            let mut l = 0.0;
            let mut slope = 0.0;
            if w != 0.0 && p * t != 0.0 {
                (l, slope) = (l + w * p * t * up, slope + w * p * t * up_slope);
            }
            if w != 0.0 && t != 1.0 {
                (l, slope) = (l + w * (1.0 - t) * down, slope + w * (1.0 - t) * down_slope);
            }
            if v.is_nan() {
                (l, slope) = (v, v);
            }
            if v.is_finite() {
                expected.stretch[row] = expected.stretch[row].max(v.abs() / 50.0);
            }
            expected.rows[row] += l;
            expected.count[class] += 1;
            expected.positives[class] += t;
            expected.class_loss[class] += l;
            let factor = self.upstream_of(row) / divisor;
            expected.gradient[index] = if slope == 0.0 { 0.0 } else { slope * factor };
            expected.scale[index] = factor.abs() * w * (1.0 + p * t) * gammas;
        }
        let sum: f64 = expected.rows.iter().sum();
        expected.loss = if sum == 0.0 { 0.0 } else { sum / divisor };
        expected
    }

    /// Loss and slope of a positive and of a negative.
    fn terms(&self, v: f64) -> ((f64, f64), (f64, f64)) {
        let (p, q, lam) = (sigmoid(v), sigmoid(-v), self.problem.negative_scale());
        let Some(focusing) = self.problem.focusing() else {
            return ((softplus(-v), -q), (softplus(lam * v) / lam, sigmoid(lam * v)));
        };
        let times = |a: f64, b: f64| if a == 0.0 { 0.0 } else { a * b };
        let up = q.powf(focusing.gamma_pos);
        let positive = (times(up, softplus(-v)), -focusing.gamma_pos * up * times(p, softplus(-v)) - up * q);
        let m = p - focusing.clip;
        if m <= 0.0 {
            return (positive, (0.0, 0.0));
        }
        let log = if focusing.clip == 0.0 { softplus(v) } else { -(q + focusing.clip).ln() };
        let weight = m.powf(focusing.gamma_neg);
        let ratio = if focusing.clip == 0.0 { p } else { p * q / (q + focusing.clip) };
        (positive, (weight * log, focusing.gamma_neg * weight / m * p * times(q, log) + weight * ratio))
    }

    /// Compares an outcome with SPEC 4, and the device's scratch with what it is to be between launches.
    pub fn compare(&self, outcome: &BinaryOutcome) -> (usize, usize) {
        assert!(outcome.idle, "{}: the scratch is not as it was", self.describe());
        self.compare_numbers(&outcome.into())
    }

    /// Compares numbers with SPEC 4 at the accuracy of SPEC 6; how many gradients of a half type lie above its absolute error, and how many of
    /// those are not the nearest.
    pub fn compare_numbers(&self, outcome: &Numbers) -> (usize, usize) {
        let (what, expected, c) = (self.describe(), self.expected(), self.classes);
        let near = |name: &str, i: usize, actual: f64, expected: f64, tolerance: f64| {
            let same = actual == expected || actual.is_nan() && expected.is_nan();
            assert!(
                same || (actual - expected).abs() <= tolerance,
                "{what}: {name} [{i}] {actual:e}, expected {expected:e}"
            );
        };
        let loss_tolerance = |x: f64, a: f64| (4e-6 * x.abs() + 1e-7) * a;
        let a = expected.stretch.iter().copied().fold(1.0, f64::max);
        near("loss", 0, outcome.loss.into(), expected.loss, loss_tolerance(expected.loss, a));
        for (i, &x) in expected.rows.iter().enumerate() {
            near("loss_rows", i, outcome.loss_rows[i].into(), x, loss_tolerance(x, expected.stretch[i]));
        }
        if let Some(statistics) = &outcome.statistics {
            assert_eq!(statistics.count, expected.count, "{what}");
            for class in 0..c {
                let (t, x) = (expected.positives[class], expected.class_loss[class]);
                near("positives", class, statistics.positives[class], t, loss_tolerance(t, 1.0));
                near("class loss", class, statistics.loss[class], x, loss_tolerance(x, a));
            }
        }
        let (mut counted, mut off) = (0, 0);
        if self.gradient == Gradient::None {
            assert!(outcome.gradient.is_empty());
            return (counted, off);
        }
        for (i, &x) in expected.gradient.iter().enumerate() {
            let (actual, tolerance) =
                (f64::from(outcome.gradient[i]), 1e-6 * expected.scale[i] * expected.stretch[i / c]);
            let nearest = rounded(self.dtype, x);
            if self.dtype != DType::F32 && x.is_finite() {
                if x.abs() > tolerance {
                    counted += 1;
                    off += usize::from(actual != nearest);
                }
                if ulps(self.dtype, actual, nearest) <= 1 {
                    continue;
                }
            }
            near("gradient", i, actual, if x.is_finite() { x } else { nearest }, tolerance);
        }
        (counted, off)
    }

    /// The reference's words on the same batch: its loss, row losses and gradient.
    pub fn reference(&self) -> (f64, Vec<f64>, Vec<f64>) {
        let (n, c) = (self.rows(), self.classes);
        let mut gradient = vec![0.0f64; n * c];
        let bytes: Option<Vec<u8>> = self.mask.as_ref().map(|mask| mask.iter().map(|&known| known.into()).collect());
        let mut batch = BinaryCrossEntropyBatch::new(Matrix::new(&self.targets, n, c).unwrap());
        if let Some(data) = &bytes {
            batch = batch.mask(Mask::Bytes { data, stride: c });
        }
        if let Some(weights) = &self.weights {
            batch = batch.weights(Matrix::new(weights, n, c).unwrap());
        }
        let upstream: Vec<f64> = self.upstream.iter().map(|&g| g.into()).collect();
        batch = batch.upstream(match upstream.as_slice() {
            [one] => Upstream::Scalar(*one),
            rows => Upstream::Rows(rows),
        });
        let logits = Matrix::new(&self.logits, n, c).unwrap();
        let pass = Pass::Into { logits, gradient: MatrixMut::new(&mut gradient, n, c).unwrap() };
        let output = cpu::binary_cross_entropy(&self.problem, pass, batch).unwrap();
        (output.loss, output.loss_rows, gradient)
    }

    /// Runs and compares with SPEC 4, and SPEC 4 with the reference where both have words for the batch.
    pub fn check(&self, seed: u64) -> BinaryOutcome {
        let outcome = self.run(seed);
        self.compare(&outcome);
        assert_eq!(outcome.errors, TargetErrors::default(), "{}", self.describe());
        if self.device_divisor.is_none() {
            let (expected, (loss, rows, gradient)) = (self.expected(), self.reference());
            let pairs = [(expected.loss, loss)].into_iter();
            let pairs =
                pairs.chain(expected.rows.into_iter().zip(rows)).chain(expected.gradient.into_iter().zip(gradient));
            for (ours, theirs) in pairs {
                let same = ours == theirs || ours.is_nan() && theirs.is_nan();
                assert!(same || (ours - theirs).abs() <= 1e-9 * theirs.abs() + 1e-13, "{ours:e}, reference {theirs:e}");
            }
        }
        outcome
    }
}

/// All numbers' bits.
pub fn bits(outcome: &BinaryOutcome) -> Vec<u64> {
    let numbers = [outcome.loss].into_iter().chain(outcome.loss_rows.clone()).chain(outcome.gradient.clone());
    let sums = outcome.statistics.iter().flat_map(|statistics| statistics.positives.iter().chain(&statistics.loss));
    numbers.map(|x| u64::from(x.to_bits())).chain(sums.map(|x| x.to_bits())).collect()
}
