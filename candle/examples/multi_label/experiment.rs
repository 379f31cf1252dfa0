//! One training and its test: a method on the split, first weights and batches of one seed.

use crate::common::statistics::mean;
use crate::common::{model::Mlp, sgd::SgdConfig, training::Training};
use crate::method::{Method, is_rare};
use crate::metrics::{average_precision, f1};
use crate::yeast::Yeast;
use anyhow::Result;
use candle_nn::Module;
use logit_perturb_candle::{BinaryCrossEntropy, logit_perturb::ClassCounts};
use rand::Rng;

const HIDDEN: usize = 128;

/// The data and how it is trained on.
pub struct Experiment {
    pub yeast: Yeast,
    training: Training,
}

/// What a model reached on the test rows, in percent.
#[derive(Clone, Debug)]
pub struct Scores {
    /// The mean of the labels' average precision, over the labels that a test row carries.
    pub mean_average_precision: f64,
    /// F1 of every label.
    pub f1: Vec<f64>,
    /// Whether the label is rare in training.
    pub is_rare: Vec<bool>,
}

impl Scores {
    pub fn macro_f1(&self) -> f64 {
        mean(&self.f1)
    }

    pub fn rare_f1(&self) -> f64 {
        let rare = self.f1.iter().zip(&self.is_rare).filter(|(_, is_rare)| **is_rare).map(|(f1, _)| *f1);
        mean(&rare.collect::<Vec<_>>())
    }
}

impl Experiment {
    pub fn new(epochs: usize) -> Result<Self> {
        let sgd = SgdConfig { learning_rate: 0.05, momentum: 0.9, weight_decay: 1e-3 };
        Ok(Self { yeast: Yeast::read()?, training: Training { epochs, batch: 128, sgd } })
    }

    /// Trains and tests. The perturbation is a matter of training: the test is of the logits as they are.
    pub fn run(&self, method: Method, mut rng: impl Rng, epoch_done: impl Fn()) -> Result<Scores> {
        let yeast = &self.yeast;
        let (_, features, labels) = yeast.shape();
        let split = yeast.split(&mut rng);
        let counts = yeast.counts(split.train.iter().copied());
        let counts = ClassCounts::multi_label(counts, split.train.len() as f64)?;
        let scale = yeast.scale(&split.train);
        let loss = BinaryCrossEntropy::new(method.problem(&counts)?);
        let model = Mlp::new(features, HIDDEN, labels, &mut rng)?;
        let train = yeast.samples(&split.train, &scale)?;
        self.training.run(&model, &train, &mut rng, |logits, targets| loss.forward(logits, targets), epoch_done)?;

        let logits = model.forward(&yeast.samples(&split.test, &scale)?.inputs)?.t()?.to_vec2::<f32>()?;
        let (mut precision, mut f1s) = (Vec::new(), Vec::new());
        for (label, logits) in logits.iter().enumerate() {
            let carried = yeast.column(&split.test, label);
            precision.extend(average_precision(logits, &carried).map(|ap| 100.0 * ap));
            f1s.push(100.0 * f1(logits, &carried));
        }
        Ok(Scores { mean_average_precision: mean(&precision), f1: f1s, is_rare: is_rare(&counts) })
    }
}
