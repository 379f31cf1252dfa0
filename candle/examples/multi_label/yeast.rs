//! The yeast data: gene features and 14 functions a gene may have several of.

use crate::common::{statistics::mean, training::Samples};
use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use logit_perturb_data as data;
use rand::Rng;
use rand::seq::SliceRandom;

/// Rows that train; the others test.
const TRAIN_ROWS: usize = 1500;

/// Features `[N][F]` and labels `[N][C]`.
pub struct Yeast {
    features: Vec<Vec<f64>>,
    labels: Vec<Vec<bool>>,
}

/// Row numbers.
#[derive(Debug)]
pub struct Split {
    pub train: Vec<usize>,
    pub test: Vec<usize>,
}

impl Yeast {
    /// Reads the file: the columns named `Class...` are the labels, the others the features.
    pub fn read() -> Result<Self> {
        let path = data::path("yeast.csv.gz");
        Self::parse(csv::Reader::from_reader(data::open(&path)?))
            .with_context(|| format!("{} is damaged", path.display()))
    }

    fn parse(mut file: csv::Reader<impl std::io::Read>) -> Result<Self> {
        let is_label: Vec<bool> = file.headers()?.iter().map(|name| name.starts_with("Class")).collect();
        ensure!(is_label.contains(&true) && is_label.contains(&false), "no features or no labels in the header");
        let (mut features, mut labels) = (Vec::new(), Vec::new());
        for (row, values) in file.deserialize::<Vec<f64>>().enumerate() {
            let (mut x, mut y) = (Vec::new(), Vec::new());
            for (value, &is_label) in values?.into_iter().zip(&is_label) {
                match (is_label, value) {
                    (true, 0.0 | 1.0) => y.push(value == 1.0),
                    (true, _) => anyhow::bail!("the label {value} in row {} is neither 0 nor 1", row + 1),
                    (false, _) => x.push(value),
                }
            }
            features.push(x);
            labels.push(y);
        }
        ensure!(features.len() > TRAIN_ROWS, "{} rows, which leaves none for a test", features.len());
        Ok(Self { features, labels })
    }

    /// Rows, features and labels.
    pub fn shape(&self) -> (usize, usize, usize) {
        (self.features.len(), self.features[0].len(), self.labels[0].len())
    }

    pub fn split(&self, rng: &mut impl Rng) -> Split {
        let mut train: Vec<usize> = (0..self.features.len()).collect();
        train.shuffle(rng);
        let test = train.split_off(TRAIN_ROWS);
        Split { train, test }
    }

    /// How many of some rows carry each label.
    pub fn counts(&self, rows: impl IntoIterator<Item = usize>) -> Vec<f64> {
        let mut counts = vec![0.0; self.labels[0].len()];
        for row in rows {
            counts.iter_mut().zip(&self.labels[row]).for_each(|(count, &label)| *count += f64::from(u8::from(label)));
        }
        counts
    }

    /// Whether some rows carry a label.
    pub fn column(&self, rows: &[usize], label: usize) -> Vec<bool> {
        rows.iter().map(|&row| self.labels[row][label]).collect()
    }

    /// Some rows as tensors, their features put on the scale.
    pub fn samples(&self, rows: &[usize], scale: &Scale) -> Result<Samples> {
        let (_, features, labels) = self.shape();
        let inputs: Vec<f32> = rows.iter().flat_map(|&row| scale.apply(&self.features[row])).collect();
        let targets: Vec<u8> = rows.iter().flat_map(|&row| &self.labels[row]).map(|&label| label.into()).collect();
        Ok(Samples {
            inputs: Tensor::from_vec(inputs, (rows.len(), features), &Device::Cpu)?,
            targets: Tensor::from_vec(targets, (rows.len(), labels), &Device::Cpu)?,
        })
    }

    /// The scale on which the features of some rows have mean 0 and deviation 1.
    pub fn scale(&self, rows: &[usize]) -> Scale {
        let column = |feature: usize| {
            let values: Vec<f64> = rows.iter().map(|&row| self.features[row][feature]).collect();
            let mean = mean(&values);
            let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64;
            // A constant feature becomes 0, not NaN.
            (mean, if variance > 0.0 { variance.sqrt() } else { 1.0 })
        };
        Scale((0..self.shape().1).map(column).collect())
    }
}

/// Mean and deviation of each feature.
#[derive(Debug)]
pub struct Scale(Vec<(f64, f64)>);

impl Scale {
    fn apply<'a>(&'a self, features: &'a [f64]) -> impl Iterator<Item = f32> {
        features.iter().zip(&self.0).map(|(x, (mean, deviation))| ((x - mean) / deviation) as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn a_split_uses_every_row_once() {
        let yeast = Yeast::read().unwrap();
        assert_eq!(yeast.shape(), (2417, 103, 14));
        let split = yeast.split(&mut ChaCha8Rng::seed_from_u64(7));
        assert_eq!((split.train.len(), split.test.len()), (1500, 917));
        let mut rows = [split.train, split.test].concat();
        rows.sort_unstable();
        assert!(rows.into_iter().eq(0..2417));
    }

    #[test]
    fn the_scale_comes_from_the_given_rows() {
        let features = vec![vec![1.0, 5.0], vec![3.0, 5.0], vec![100.0, 7.0]];
        let yeast = Yeast { features, labels: vec![vec![true], vec![false], vec![true]] };
        let samples = yeast.samples(&[0, 1, 2], &yeast.scale(&[0, 1])).unwrap();
        assert_eq!(samples.inputs.to_vec2::<f32>().unwrap(), [[-1.0, 0.0], [1.0, 0.0], [98.0, 2.0]]);
        assert_eq!(samples.targets.to_vec2::<u8>().unwrap(), [[1], [0], [1]]);
        assert_eq!(yeast.counts([0, 1]), [1.0]);
    }

    #[test]
    fn damage_is_named() {
        let message = |text: &str| match Yeast::parse(csv::Reader::from_reader(text.as_bytes())) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        assert_eq!(message("Att1,Class1\n0.5,2\n"), "the label 2 in row 1 is neither 0 nor 1");
        assert_eq!(message("Att1,Att2\n0.5,2\n"), "no features or no labels in the header");
        assert_eq!(message("Att1,Class1\n0.5,1\n"), "1 rows, which leaves none for a test");
    }
}
