//! Implicit semantic data augmentation (ISDA, Wang 2019) as a class-matrix perturbation, with its running covariance.

use super::Perturbation;
use crate::data::{Labels, MOST_COLUMNS, Matrix};
use crate::error::{Error, Result, check};
use rayon::prelude::*;

/// Running per-class feature statistics with a diagonal covariance, and the perturbation that follows from them.
///
/// Per batch and class, with batch count `m`, total `M` and share `a = m / (m + M)`:
/// `S <- (1 - a) S + a S_b + a (1 - a) (mu - mu_b)^2`, `mu <- (1 - a) mu + a mu_b`, `M <- M + m` (SPEC 2).
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(try_from = "Unchecked"))]
pub struct Isda {
    classes: usize,
    features: usize,
    mean: Vec<f64>,
    variance: Vec<f64>,
    count: Vec<f64>,
}

#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    classes: usize,
    features: usize,
    mean: Vec<f64>,
    variance: Vec<f64>,
    count: Vec<f64>,
}

#[cfg(feature = "serde")]
impl TryFrom<Unchecked> for Isda {
    type Error = Error;
    fn try_from(unchecked: Unchecked) -> Result<Self> {
        let Unchecked { classes, features, mean, variance, count } = unchecked;
        let empty = Self::new(classes, features)?;
        check::length("mean", mean.len(), empty.mean.len())?;
        check::length("variance", variance.len(), empty.variance.len())?;
        check::length("count", count.len(), classes)?;
        check::each_finite("mean", &mean)?;
        check::each_non_negative("variance", &variance)?;
        check::each_non_negative("count", &count)?;
        Ok(Self { classes, features, mean, variance, count })
    }
}

impl Isda {
    /// Starts with no sample of any of `classes` classes, in `features` dimensions.
    ///
    /// # Errors
    /// [`Error::Shape`] when either is 0.
    pub fn new(classes: usize, features: usize) -> Result<Self> {
        for (name, n) in [("classes", classes), ("features", features)] {
            if n == 0 {
                return Err(Error::shape(name, "length", 0, "at least 1"));
            }
        }
        let Some(size) = classes.checked_mul(features).filter(|&size| size <= MOST_COLUMNS) else {
            return Err(Error::shape(
                "classes * features",
                "length",
                classes,
                format!("at most {MOST_COLUMNS} / {features}"),
            ));
        };
        let zeros = vec![0.0; size];
        Ok(Self { classes, features, mean: zeros.clone(), variance: zeros, count: vec![0.0; classes] })
    }

    /// Takes in the features `[N, D]` of a batch with labels `[N]`; rows with `ignore_index` are passed over.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Label`]: features or labels that do not fit. [`Error::Value`]: a feature that is not finite,
    /// which would spoil the running statistics for good. Nothing is taken in then.
    pub fn update<'a>(&mut self, features: Matrix<'_>, labels: impl Into<Labels<'a>>, ignore_index: i64) -> Result<()> {
        let labels = labels.into();
        features.check_shape("features", labels.len(), self.features)?;
        let classes = labels.classes(self.classes, ignore_index)?;
        let d = self.features;
        let mut rows = vec![Vec::new(); self.classes];
        for (row, class) in classes.into_iter().enumerate() {
            if let Some(class) = class {
                let mut x = vec![0.0; d];
                features.read_row(row, &mut x);
                if let Some(column) = x.iter().position(|x| !x.is_finite()) {
                    return Err(Error::value(format!("features[{row}, {column}]"), x[column], "finite"));
                }
                rows[class].push(x);
            }
        }
        for (class, rows) in rows.iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            let m = rows.len() as f64;
            let share = m / (m + self.count[class]);
            for k in 0..d {
                let batch_mean = rows.iter().map(|x| x[k]).sum::<f64>() / m;
                let batch_variance = rows.iter().map(|x| (x[k] - batch_mean).powi(2)).sum::<f64>() / m;
                let (mean, variance) = (&mut self.mean[class * d + k], &mut self.variance[class * d + k]);
                *variance = (1.0 - share) * *variance
                    + share * batch_variance
                    + share * (1.0 - share) * (*mean - batch_mean).powi(2);
                *mean = (1.0 - share) * *mean + share * batch_mean;
            }
            self.count[class] += m;
        }
        Ok(())
    }

    /// The running means, row-major `[C, D]`.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// The running variances `Sigma`, row-major `[C, D]`.
    pub fn variance(&self) -> &[f64] {
        &self.variance
    }

    /// How many samples of each class were taken in, `[C]`.
    pub fn count(&self) -> &[f64] {
        &self.count
    }

    /// The perturbation `D_yc = lambda / 2 * sum_d (W_cd - W_yd)^2 Sigma_yd` for classifier weights `W`, `[C, D]`.
    ///
    /// # Errors
    /// [`Error::Shape`]: weights of another shape. [`Error::Value`]: `lambda` negative or not finite.
    pub fn perturbation(&self, weights: Matrix<'_>, lambda: f64) -> Result<Perturbation> {
        check::non_negative("lambda", lambda)?;
        weights.check_shape("weights", self.classes, self.features)?;
        let d = self.features;
        let mut w = vec![0.0; self.classes * d];
        w.chunks_mut(d).enumerate().for_each(|(class, row)| weights.read_row(class, row));
        let entry = |y: usize, c: usize| {
            let (w_y, w_c, sigma) = (&w[y * d..][..d], &w[c * d..][..d], &self.variance[y * d..][..d]);
            let sum: f64 = w_c.iter().zip(w_y).zip(sigma).map(|((c, y), sigma)| (c - y).powi(2) * sigma).sum();
            lambda / 2.0 * sum
        };
        let rows = (0..self.classes).into_par_iter().flat_map_iter(|y| (0..self.classes).map(move |c| entry(y, c)));
        Ok(Perturbation::ClassMatrix(rows.collect()))
    }
}
