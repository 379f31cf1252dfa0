//! A perceptron with one hidden layer, initialised as PyTorch does, from a seed.

use candle_core::{Device, Result, Tensor, Var};
use candle_nn::{Linear, Module};
use rand::Rng;

/// `inputs -> hidden -> ReLU -> outputs`.
pub struct Mlp {
    hidden: Linear,
    output: Linear,
    vars: Vec<Var>,
}

impl Mlp {
    /// Draws weights and biases of a layer from U(-1/sqrt(inputs), 1/sqrt(inputs)). The seed must decide them, so they come from
    /// `rng`: candle's CPU generator takes no seed.
    pub fn new(inputs: usize, hidden: usize, outputs: usize, rng: &mut impl Rng) -> Result<Self> {
        let mut vars = Vec::new();
        let mut linear = |inputs: usize, outputs: usize| {
            let bound = 1.0 / (inputs as f32).sqrt();
            let mut draw = |shape: &[usize]| {
                let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-bound..bound)).collect();
                let var = Var::from_vec(values, shape, &Device::Cpu)?;
                let tensor = var.as_tensor().clone();
                vars.push(var);
                Ok::<Tensor, candle_core::Error>(tensor)
            };
            Ok::<Linear, candle_core::Error>(Linear::new(draw(&[outputs, inputs])?, Some(draw(&[outputs])?)))
        };
        let (hidden, output) = (linear(inputs, hidden)?, linear(hidden, outputs)?);
        Ok(Self { hidden, output, vars })
    }

    /// What is trained.
    pub fn vars(&self) -> Vec<Var> {
        self.vars.clone()
    }
}

impl Module for Mlp {
    /// Logits `[N, outputs]` of `[N, inputs]`.
    fn forward(&self, inputs: &Tensor) -> Result<Tensor> {
        self.output.forward(&self.hidden.forward(inputs)?.relu()?)
    }
}
