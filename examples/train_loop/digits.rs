//! The digits as batches: 64 pixels and a constant 1 for the bias.

use logit_perturb_data::{Idx, path};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// Pixels, and 1.
pub const FEATURES: usize = 65;
/// The digits 0 to 9.
pub const CLASSES: usize = 10;
/// Rows of a step.
pub const BATCH: usize = 64;
/// Rows that test; the others train.
const TEST_ROWS: usize = 360;

/// Features `[N, FEATURES]` and labels `[N]`.
pub struct Samples {
    features: Vec<f32>,
    pub labels: Vec<i32>,
}

/// The data set, split.
pub struct Digits {
    pub train: Samples,
    pub test: Samples,
}

impl Digits {
    /// Reads the files and splits them.
    pub fn read() -> anyhow::Result<Self> {
        let images = Idx::read(&path("digits-images.idx3-ubyte.gz"))?.values;
        let labels = Idx::read(&path("digits-labels.idx1-ubyte.gz"))?.values;
        let mut order: Vec<usize> = (0..labels.len()).collect();
        order.shuffle(&mut StdRng::seed_from_u64(0));
        let samples = |rows: &[usize]| Samples {
            features: rows
                .iter()
                .flat_map(|&row| {
                    images[row * (FEATURES - 1)..][..FEATURES - 1].iter().map(|&x| f32::from(x) / 16.0).chain([1.0])
                })
                .collect(),
            labels: rows.iter().map(|&row| labels[row].into()).collect(),
        };
        let (test, train) = order.split_at(TEST_ROWS);
        Ok(Self { train: samples(train), test: samples(test) })
    }
}

impl Samples {
    /// The whole batches of a random order.
    pub fn shuffled(&self, seed: u64) -> (Vec<f32>, Vec<i32>) {
        let mut order: Vec<usize> = (0..self.labels.len()).collect();
        order.shuffle(&mut StdRng::seed_from_u64(seed));
        order.truncate(order.len() / BATCH * BATCH);
        let features = order.iter().flat_map(|&row| self.row(row)).copied().collect();
        (features, order.iter().map(|&row| self.labels[row]).collect())
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.features[row * FEATURES..][..FEATURES]
    }

    /// The share of rows whose largest logit is the label's.
    pub fn accuracy(&self, weights: &[f32]) -> f64 {
        let right = |&row: &usize| {
            let logit = |class: usize| -> f32 {
                self.row(row).iter().zip(weights[class..].iter().step_by(CLASSES)).map(|(x, w)| x * w).sum()
            };
            let best = (0..CLASSES).max_by(|&a, &b| logit(a).total_cmp(&logit(b)));
            best == Some(self.labels[row] as usize)
        };
        (0..self.labels.len()).filter(right).count() as f64 / self.labels.len() as f64
    }
}

/// Small random first weights `[FEATURES, CLASSES]`.
pub fn first_weights() -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(1);
    (0..FEATURES * CLASSES).map(|_| rng.random_range(-0.05..0.05)).collect()
}
