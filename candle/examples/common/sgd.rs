//! Stochastic gradient descent with Nesterov momentum and weight decay, in PyTorch's form; candle-nn's SGD has neither.

use candle_core::{Result, Tensor, Var, backprop::GradStore};
use candle_nn::Optimizer;

/// The settings of [`Sgd`].
#[derive(Clone, Copy, Debug)]
pub struct SgdConfig {
    pub learning_rate: f64,
    pub momentum: f64,
    /// Biases decay too, as they do in PyTorch unless told otherwise.
    pub weight_decay: f64,
}

/// Per step and parameter: `g += weight_decay * p`, `buffer = momentum * buffer + g`,
/// `p -= learning_rate * (g + momentum * buffer)`.
pub struct Sgd {
    parameters: Vec<(Var, Tensor)>,
    config: SgdConfig,
}

impl Optimizer for Sgd {
    type Config = SgdConfig;

    fn new(vars: Vec<Var>, config: SgdConfig) -> Result<Self> {
        let with_buffer = |var: Var| {
            let buffer = var.zeros_like()?.detach();
            Ok((var, buffer))
        };
        Ok(Self { parameters: vars.into_iter().map(with_buffer).collect::<Result<_>>()?, config })
    }

    fn step(&mut self, gradients: &GradStore) -> Result<()> {
        let SgdConfig { learning_rate, momentum, weight_decay } = self.config;
        for (var, buffer) in &mut self.parameters {
            let Some(gradient) = gradients.get(var) else { continue };
            // Detached, or the buffer would carry the graph of every step before it.
            let value = var.as_detached_tensor();
            let gradient = (gradient + (&value * weight_decay)?)?;
            *buffer = ((&*buffer * momentum)? + &gradient)?;
            let ahead = (gradient + (&*buffer * momentum)?)?;
            var.set(&(value - (ahead * learning_rate)?)?)?;
        }
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        self.config.learning_rate
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.config.learning_rate = learning_rate;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn two_nesterov_steps_worked_by_hand() {
        // p = 2, loss 3p, so the gradient is 3 + 0.1 p.
        // Step 1: g = 3.2,   b = 3.2,                   p = 2 - 0.1 (3.2 + 0.5 * 3.2) = 1.52.
        // Step 2: g = 3.152, b = 0.5 * 3.2 + g = 4.752, p = 1.52 - 0.1 (3.152 + 0.5 * 4.752) = 0.9672.
        let p = Var::new(2f64, &Device::Cpu).unwrap();
        let config = SgdConfig { learning_rate: 0.1, momentum: 0.5, weight_decay: 0.1 };
        let mut sgd = Sgd::new(vec![p.clone()], config).unwrap();
        for expected in [1.52, 0.9672] {
            sgd.backward_step(&(p.as_tensor() * 3.0).unwrap()).unwrap();
            let value = p.to_scalar::<f64>().unwrap();
            assert!((value - expected).abs() < 1e-12, "{value} instead of {expected}");
        }
    }
}
