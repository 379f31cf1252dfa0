//! The two data sets and the long-tailed splits that are drawn from them.

use crate::common::training::Samples;
use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use clap::ValueEnum;
use logit_perturb_data::{self as data, Idx};
use rand::Rng;
use rand::seq::SliceRandom;

/// The digits 0 to 9.
pub const CLASSES: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// 8 x 8 digits, the most frequent class 50 times as frequent as the rarest
    Digits,
    /// 28 x 28 digits, 100 times
    Mnist10k,
}

/// What is drawn from a data set, and what it is trained with.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    pub name: &'static str,
    /// The value that becomes 1.
    white: f32,
    /// Training rows of the most frequent class.
    head: f64,
    /// How many times those of the rarest.
    pub ratio: f64,
    /// Test rows of every class.
    pub test_rows: usize,
    pub hidden: usize,
    pub batch: usize,
}

impl Name {
    pub fn recipe(self) -> Recipe {
        match self {
            Name::Digits => {
                Recipe { name: "digits", white: 16.0, head: 110.0, ratio: 50.0, test_rows: 40, hidden: 64, batch: 64 }
            }
            Name::Mnist10k => Recipe {
                name: "mnist10k",
                white: 255.0,
                head: 600.0,
                ratio: 100.0,
                test_rows: 250,
                hidden: 128,
                batch: 128,
            },
        }
    }
}

impl Recipe {
    /// Training rows of each rank, most frequent first: `round(head * ratio^(-rank / 9))`.
    pub fn train_rows(&self) -> [usize; CLASSES] {
        let share = |rank: usize| self.ratio.powf(-(rank as f64) / (CLASSES - 1) as f64);
        std::array::from_fn(|rank| (self.head * share(rank)).round() as usize)
    }
}

/// Images in [0, 1], `[N, features]`, and their digits.
pub struct Dataset {
    images: Tensor,
    digits: Vec<u8>,
}

/// Which rows train, which test, and how frequent each digit is made.
#[derive(Debug)]
pub struct Split {
    /// The digits, most frequent first.
    pub by_rank: [usize; CLASSES],
    pub train: Vec<usize>,
    pub test: Vec<usize>,
}

impl Dataset {
    pub fn read(recipe: &Recipe) -> Result<Self> {
        let path = data::path(&format!("{}-labels.idx1-ubyte.gz", recipe.name));
        let digits = Idx::read(&path)?.values;
        ensure!(digits.iter().all(|&digit| usize::from(digit) < CLASSES), "{}: a label above 9", path.display());
        let path = data::path(&format!("{}-images.idx3-ubyte.gz", recipe.name));
        let Idx { shape, values } = Idx::read(&path)?;
        ensure!(shape.first() == Some(&digits.len()), "{}: {shape:?}, but {} labels", path.display(), digits.len());
        let pixels: Vec<f32> = values.into_iter().map(|value| f32::from(value) / recipe.white).collect();
        let features: usize = shape[1..].iter().product();
        Ok(Self { images: Tensor::from_vec(pixels, (digits.len(), features), &Device::Cpu)?, digits })
    }

    pub fn features(&self) -> Result<usize> {
        Ok(self.images.dim(1)?)
    }

    /// Gives every digit a rank by chance; of its shuffled rows the first are for the test, the next for training.
    pub fn split(&self, recipe: &Recipe, rng: &mut impl Rng) -> Result<Split> {
        let mut by_rank = std::array::from_fn(|digit| digit);
        by_rank.shuffle(rng);
        let (mut train, mut test) = (Vec::new(), Vec::new());
        for (&digit, train_rows) in by_rank.iter().zip(recipe.train_rows()) {
            let of_digit = |row: &usize| usize::from(self.digits[*row]) == digit;
            let mut rows: Vec<usize> = (0..self.digits.len()).filter(of_digit).collect();
            let needed = recipe.test_rows + train_rows;
            ensure!(rows.len() >= needed, "{}: digit {digit} has {} rows of {needed}", recipe.name, rows.len());
            rows.shuffle(rng);
            test.extend_from_slice(&rows[..recipe.test_rows]);
            train.extend_from_slice(&rows[recipe.test_rows..needed]);
        }
        Ok(Split { by_rank, train, test })
    }

    /// The digits of some rows.
    pub fn digits(&self, rows: &[usize]) -> Vec<usize> {
        rows.iter().map(|&row| usize::from(self.digits[row])).collect()
    }

    /// Some rows as tensors.
    pub fn samples(&self, rows: &[usize]) -> Result<Samples> {
        let index: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        let digits: Vec<u32> = rows.iter().map(|&row| u32::from(self.digits[row])).collect();
        let inputs = self.images.index_select(&Tensor::new(index, &Device::Cpu)?, 0)?;
        Ok(Samples { inputs, targets: Tensor::new(digits, &Device::Cpu)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn class_sizes_fall_from_head_to_tail() {
        assert_eq!(Name::Digits.recipe().train_rows(), [110, 71, 46, 30, 19, 13, 8, 5, 3, 2]);
        assert_eq!(Name::Mnist10k.recipe().train_rows(), [600, 360, 216, 129, 77, 46, 28, 17, 10, 6]);
    }

    #[test]
    fn a_split_has_the_recipe_s_rows_of_every_digit_and_none_twice() {
        for name in [Name::Digits, Name::Mnist10k] {
            let recipe = name.recipe();
            let dataset = Dataset::read(&recipe).unwrap();
            let split = dataset.split(&recipe, &mut ChaCha8Rng::seed_from_u64(7)).unwrap();
            let (train, test) = (dataset.digits(&split.train), dataset.digits(&split.test));
            for (digit, train_rows) in split.by_rank.into_iter().zip(recipe.train_rows()) {
                assert_eq!(train.iter().filter(|&&d| d == digit).count(), train_rows);
                assert_eq!(test.iter().filter(|&&d| d == digit).count(), recipe.test_rows);
            }
            let mut rows = [split.train, split.test].concat();
            let drawn = rows.len();
            rows.sort_unstable();
            rows.dedup();
            assert_eq!(rows.len(), drawn);
        }
    }
}
