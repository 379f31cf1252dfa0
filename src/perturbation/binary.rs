//! Fixed perturbations of multi-label logits, and the re-balanced entry weights of DB-loss (SPEC 4).

use super::fixed::ldam_margins;
use crate::class_counts::ClassCounts;
use crate::data::{BinaryTargets, Mask};
use crate::error::{Result, check};

/// What is added to a multi-label logit: `beta_c + t * dpos_c + (1 - t) * dneg_c`. Each part is `[C]`, finite, 0 by default.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct BinaryPerturbation {
    offset: Option<Vec<f64>>,
    positive: Option<Vec<f64>>,
    negative: Option<Vec<f64>>,
}

impl BinaryPerturbation {
    /// Nothing; set parts with [`offset`](Self::offset), [`positive`](Self::positive), [`negative`](Self::negative).
    pub fn none() -> Self {
        Self::default()
    }

    /// Logit adjustment: `beta_c = lambda * ln(pi_c / (1 - pi_c))`.
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value): a count that is not above 0 and below `n_total`, or `lambda` not finite.
    pub fn logit_adjustment(counts: &ClassCounts, lambda: f64) -> Result<Self> {
        check::finite("lambda", lambda)?;
        counts.check_inner()?;
        Ok(Self::none().offset(counts.priors().iter().map(|p| lambda * (p / (1.0 - p)).ln()).collect::<Vec<_>>()))
    }

    /// The negative-tolerant bias of DB-loss (Wu 2020): `beta_c = -(kappa / negative_scale) * ln(n_total / n_c - 1)`. Goes with
    /// [`negative_scale`](crate::loss::BinaryCrossEntropyBuilder::negative_scale), 2 or 5 in the paper, and `kappa` 0.05.
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value): a count that is not above 0 and below `n_total`, `kappa` not finite, or
    /// `negative_scale` not above 0.
    pub fn negative_tolerant(counts: &ClassCounts, kappa: f64, negative_scale: f64) -> Result<Self> {
        check::finite("kappa", kappa)?;
        check::positive("negative_scale", negative_scale)?;
        counts.check_inner()?;
        let bias = |n: &f64| -(kappa / negative_scale) * (counts.samples() / n - 1.0).ln();
        Ok(Self::none().offset(counts.counts().iter().map(bias).collect::<Vec<_>>()))
    }

    /// LDAM's analogue: `dpos_c = -m_c` with the margins of
    /// [`Perturbation::ldam`](super::Perturbation::ldam).
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value): a count that is not above 0 and below `n_total`, or `max_margin` not finite.
    pub fn ldam(counts: &ClassCounts, max_margin: f64) -> Result<Self> {
        counts.check_inner()?;
        let margins = ldam_margins(counts, max_margin)?;
        Ok(Self::none().positive(margins.into_iter().map(|m| -m).collect::<Vec<_>>()))
    }

    /// Sets `beta[C]`, added to every entry.
    #[must_use]
    pub fn offset(mut self, beta: impl Into<Vec<f64>>) -> Self {
        self.offset = Some(beta.into());
        self
    }

    /// Sets `dpos[C]`, added in proportion to the target.
    #[must_use]
    pub fn positive(mut self, dpos: impl Into<Vec<f64>>) -> Self {
        self.positive = Some(dpos.into());
        self
    }

    /// Sets `dneg[C]`, added in proportion to 1 - target.
    #[must_use]
    pub fn negative(mut self, dneg: impl Into<Vec<f64>>) -> Self {
        self.negative = Some(dneg.into());
        self
    }

    fn parts(&self) -> [(&'static str, Option<&Vec<f64>>); 3] {
        [
            ("perturbation.offset", self.offset.as_ref()),
            ("perturbation.positive", self.positive.as_ref()),
            ("perturbation.negative", self.negative.as_ref()),
        ]
    }

    pub(crate) fn lengths(&self) -> [(&'static str, Option<usize>); 3] {
        self.parts().map(|(name, part)| (name, part.map(Vec::len)))
    }

    pub(crate) fn check(&self) -> Result<()> {
        for (name, part) in self.parts() {
            check::each_finite(name, part.map_or(&[], Vec::as_slice))?;
        }
        Ok(())
    }

    /// `(beta_c, dpos_c, dneg_c)`, 0 for parts that are not set.
    ///
    /// # Panics
    /// When a part is set and `class` is not below C.
    pub fn at(&self, class: usize) -> (f64, f64, f64) {
        let at = |part: &Option<Vec<f64>>| part.as_ref().map_or(0.0, |part| part[class]);
        (at(&self.offset), at(&self.positive), at(&self.negative))
    }
}

/// The re-balanced entry weights of DB-loss (Wu 2020): with `r_ic = (1 / n_c) / sum over the positive classes j of 1 / n_j`,
/// `w_ic = alpha + sigmoid(beta * (r_ic - mu))`; `r = +inf` in a row without a positive.
#[derive(Clone, Debug, PartialEq)]
pub struct RebalancedWeights {
    inverse: Vec<f64>,
    alpha: f64,
    beta: f64,
    mu: f64,
}

impl RebalancedWeights {
    /// Prepares the weights of a training set. The paper uses `alpha` 0.1, `beta` 10 and `mu` 0.2 or 0.3.
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value): a count that is not above 0 and below `n_total`, `alpha` or `beta` negative, `mu` not finite.
    pub fn new(counts: &ClassCounts, alpha: f64, beta: f64, mu: f64) -> Result<Self> {
        check::non_negative("alpha", alpha)?;
        check::non_negative("beta", beta)?;
        check::finite("mu", mu)?;
        counts.check_inner()?;
        Ok(Self { inverse: counts.counts().iter().map(|n| 1.0 / n).collect(), alpha, beta, mu })
    }

    /// The weights `[N, C]` of a batch of `rows` rows, row-major and dense. A class counts as positive where its target is 1.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) or [`Error::Target`](crate::Error::Target): targets or mask that do not fit.
    pub fn weights(&self, rows: usize, targets: BinaryTargets<'_>, mask: Option<Mask<'_>>) -> Result<Vec<f64>> {
        let columns = self.inverse.len();
        targets.check_shape(rows, columns)?;
        mask.map_or(Ok(()), |mask| mask.check_shape(rows, columns))?;
        let (mut t, mut known) = (vec![0.0; columns], vec![true; columns]);
        let mut weights = Vec::with_capacity(rows * columns);
        for row in 0..rows {
            targets.read_row(row, mask, &mut t, &mut known)?;
            let positives = t.iter().zip(&self.inverse).filter(|(t, _)| **t == 1.0);
            // Not `sum`, whose sum of nothing is -0: the ratio to it must be +inf.
            let total = positives.fold(0.0, |total, (_, inverse)| total + inverse);
            weights.extend(self.inverse.iter().map(|inverse| {
                let excess = inverse / total - self.mu;
                // A beta of 0 takes the ratio out, an infinite one included.
                let exponent = if self.beta == 0.0 { 0.0 } else { self.beta * excess };
                self.alpha + sigmoid(exponent)
            }));
        }
        Ok(weights)
    }
}

/// `1 / (1 + exp(-x))`.
pub(crate) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}
