//! One training and its test: a method on the split, first weights and batches of one seed.

use crate::common::{model::Mlp, sgd::SgdConfig, training::Training};
use crate::dataset::{CLASSES, Dataset, Recipe};
use crate::method::Method;
use anyhow::Result;
use candle_core::D;
use candle_nn::Module;
use logit_perturb_candle::{CrossEntropy, logit_perturb::ClassCounts};
use rand::Rng;

/// A data set and how it is trained on.
pub struct Experiment {
    pub dataset: Dataset,
    pub recipe: Recipe,
    training: Training,
}

impl Experiment {
    pub fn new(recipe: Recipe, epochs: usize) -> Result<Self> {
        let sgd = SgdConfig { learning_rate: 0.1, momentum: 0.9, weight_decay: 5e-4 };
        let training = Training { epochs, batch: recipe.batch, sgd };
        Ok(Self { dataset: Dataset::read(&recipe)?, recipe, training })
    }

    /// Trains, and returns the recall on the test rows in percent, by rank: the most frequent class first.
    pub fn run(&self, method: Method, mut rng: impl Rng, epoch_done: impl Fn()) -> Result<[f64; CLASSES]> {
        let split = self.dataset.split(&self.recipe, &mut rng)?;
        let counts = ClassCounts::from_labels(self.dataset.digits(&split.train), CLASSES)?;
        let loss = CrossEntropy::new(method.problem(&counts)?);
        let model = Mlp::new(self.dataset.features()?, self.recipe.hidden, CLASSES, &mut rng)?;
        let train = self.dataset.samples(&split.train)?;
        self.training.run(&model, &train, &mut rng, |logits, labels| loss.forward(logits, labels), epoch_done)?;

        let test = self.dataset.samples(&split.test)?;
        let predictions = model.forward(&test.inputs)?.argmax(D::Minus1)?.to_vec1::<u32>()?;
        Ok(recall(&test.targets.to_vec1()?, &predictions, &split.by_rank))
    }
}

/// The share of each class's rows that are predicted as that class, in percent, in the order of `classes`.
fn recall(labels: &[u32], predictions: &[u32], classes: &[usize; CLASSES]) -> [f64; CLASSES] {
    classes.map(|class| {
        let of_class = || labels.iter().zip(predictions).filter(|(label, _)| **label as usize == class);
        100.0 * of_class().filter(|(label, prediction)| label == prediction).count() as f64 / of_class().count() as f64
    })
}

#[cfg(test)]
mod tests {
    use super::recall;

    #[test]
    fn recall_is_by_rank() {
        let labels = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9];
        let predictions = [9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 0];
        let by_rank = [9, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let expected = [75.0, 0.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0];
        assert_eq!(recall(&labels, &predictions, &by_rank), expected);
    }
}
