//! The training loop: shuffled batches of equal size, the learning rate falling along a cosine.

use super::model::Mlp;
use super::sgd::{Sgd, SgdConfig};
use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use candle_nn::{Module, Optimizer};
use rand::Rng;
use rand::seq::SliceRandom;

/// Inputs `[N, features]` and what belongs to them: labels `[N]` or targets `[N, C]`.
pub struct Samples {
    pub inputs: Tensor,
    pub targets: Tensor,
}

/// All of a training but the model and the loss.
#[derive(Clone, Copy, Debug)]
pub struct Training {
    pub epochs: usize,
    pub batch: usize,
    pub sgd: SgdConfig,
}

impl Training {
    /// Trains `model` in place, `floor(N / batch)` steps an epoch: the rest of the shuffled rows sits the epoch out. `loss` takes logits
    /// and targets of a batch; `epoch_done` is called after each epoch.
    pub fn run(
        &self,
        model: &Mlp,
        samples: &Samples,
        rng: &mut impl Rng,
        loss: impl Fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>,
        epoch_done: impl Fn(),
    ) -> Result<()> {
        let rows = samples.inputs.dim(0)?;
        let steps = rows / self.batch;
        ensure!(steps > 0, "{rows} training rows do not fill a batch of {}", self.batch);
        let mut sgd = Sgd::new(model.vars(), self.sgd)?;
        let mut order: Vec<u32> = (0..u32::try_from(rows)?).collect();
        for epoch in 0..self.epochs {
            order.shuffle(rng);
            let index = Tensor::new(order.as_slice(), &Device::Cpu)?;
            let inputs = samples.inputs.index_select(&index, 0)?;
            let targets = samples.targets.index_select(&index, 0)?;
            for step in 0..steps {
                let progress = (epoch * steps + step) as f64 / (self.epochs * steps) as f64;
                sgd.set_learning_rate(self.sgd.learning_rate * cosine(progress));
                let batch = |all: &Tensor| all.narrow(0, step * self.batch, self.batch);
                let value = loss(&model.forward(&batch(&inputs)?)?, &batch(&targets)?)?;
                sgd.backward_step(&value)?;
                ensure!(value.to_scalar::<f32>()?.is_finite(), "the loss is not finite in epoch {}", epoch + 1);
            }
            epoch_done();
        }
        Ok(())
    }
}

/// The share of the first learning rate that is left after a share `progress` of all steps.
fn cosine(progress: f64) -> f64 {
    0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}

#[cfg(test)]
mod tests {
    use super::cosine;

    #[test]
    fn the_cosine_falls_from_one_over_a_half_to_zero() {
        for (progress, expected) in [(0.0, 1.0), (1.0 / 3.0, 0.75), (0.5, 0.5), (1.0, 0.0)] {
            assert!((cosine(progress) - expected).abs() < 1e-12);
        }
    }
}
