//! Fixed perturbations of single-label logits (SPEC 2), each constructor named after the method it serves.

use crate::class_counts::ClassCounts;
use crate::error::{Error, Result, check};

/// What is added to a sample's logits before the softmax, as a function of its class.
///
/// The variants hold plain numbers and are checked when a loss is built from them; the constructors compute them from
/// class counts.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Perturbation {
    /// Nothing.
    #[default]
    None,
    /// `delta_i = d`, `[C]`: the same for every sample. Finite, or -inf to mask a class (which JSON cannot hold: it has no infinities).
    Shared(Vec<f64>),
    /// `delta_i = -m[y_i]` on the label's own logit, 0 elsewhere; `m` is `[C]`, finite.
    TargetMargin(Vec<f64>),
    /// `delta_i = D[y_i, :]`, row-major `[C, C]`, finite: any class-level perturbation.
    ClassMatrix(Vec<f64>),
    /// `delta_i = d[i, :]`: the matrix `[N, C]` comes with the batch.
    PerSample,
}

impl Perturbation {
    /// Logit adjustment (Menon 2021), added in training: `d_c = lambda * ln(pi_c)`.
    ///
    /// # Errors
    /// [`Error::Value`]: a count of 0, `lambda` not finite, or a product beyond f64.
    pub fn logit_adjustment(counts: &ClassCounts, lambda: f64) -> Result<Self> {
        check::finite("lambda", lambda)?;
        counts.check_positive()?;
        let offsets: Vec<f64> = counts.priors().into_iter().map(|prior| lambda * prior.ln()).collect();
        // An infinite one would mask its class.
        check::each_finite("perturbation", &offsets)?;
        Ok(Self::Shared(offsets))
    }

    /// Balanced softmax (Ren 2020): logit adjustment with `lambda = 1`.
    ///
    /// # Errors
    /// As [`logit_adjustment`](Self::logit_adjustment).
    pub fn balanced_softmax(counts: &ClassCounts) -> Result<Self> {
        Self::logit_adjustment(counts, 1.0)
    }

    /// Label-distribution-aware margins, LDAM (Cao 2019): `m_c = max_margin * n_c^(-1/4) / max_j n_j^(-1/4)`. The authors use
    /// `max_margin` 0.5 with a logit scale of 30.
    ///
    /// # Errors
    /// [`Error::Value`]: a count of 0, or `max_margin` not finite.
    pub fn ldam(counts: &ClassCounts, max_margin: f64) -> Result<Self> {
        Ok(Self::TargetMargin(ldam_margins(counts, max_margin)?))
    }

    /// Vector scaling, VS-loss (Kini 2021): `v_c = s_c * u_c + iota_c` with `s_c = (n_c / max_j n_j)^gamma` and
    /// `iota_c = tau * ln(pi_c)`. Returns the scale `s` for
    /// [`class_scale`](crate::loss::CrossEntropyBuilder::class_scale) and the perturbation `iota_c / s_c`. `tau = 0` is CDT (Ye 2020).
    ///
    /// # Errors
    /// [`Error::Value`]: a count of 0, `gamma` or `tau` not finite, or a scale or an offset beyond f64.
    pub fn vector_scaling(counts: &ClassCounts, gamma: f64, tau: f64) -> Result<(Vec<f64>, Self)> {
        check::finite("gamma", gamma)?;
        check::finite("tau", tau)?;
        counts.check_positive()?;
        let most = counts.counts().iter().copied().fold(0.0, f64::max);
        let scales: Vec<f64> = counts.counts().iter().map(|n| (n / most).powf(gamma)).collect();
        check::each_positive("scale", &scales)?;
        let offset = |(prior, scale): (&f64, &f64)| tau * prior.ln() / scale;
        let offsets: Vec<f64> = counts.priors().iter().zip(&scales).map(offset).collect();
        check::each_finite("perturbation", &offsets)?;
        Ok((scales, Self::Shared(offsets)))
    }

    /// The number of classes that the perturbation fixes.
    pub fn classes(&self) -> Option<usize> {
        match self {
            Perturbation::None | Perturbation::PerSample => None,
            Perturbation::Shared(d) | Perturbation::TargetMargin(d) => Some(d.len()),
            Perturbation::ClassMatrix(matrix) => Some(matrix.len().isqrt()),
        }
    }

    /// Whether the form asks for a sample's label.
    pub(crate) fn needs_labels(&self) -> bool {
        matches!(self, Perturbation::TargetMargin(_) | Perturbation::ClassMatrix(_))
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Perturbation::None | Perturbation::PerSample => Ok(()),
            Perturbation::Shared(d) => {
                let ok = |x: f64| x.is_finite() || x == f64::NEG_INFINITY;
                check::each("perturbation", d, ok, "finite, or -inf to mask the class")
            }
            Perturbation::TargetMargin(m) => check::each_finite("perturbation", m),
            Perturbation::ClassMatrix(matrix) => {
                if matrix.len().isqrt().pow(2) != matrix.len() {
                    return Err(Error::shape("perturbation", "length", matrix.len(), "C * C for a class matrix"));
                }
                check::each_finite("perturbation", matrix)
            }
        }
    }
}

/// LDAM's margins, for one sign or for the softmax.
pub(super) fn ldam_margins(counts: &ClassCounts, max_margin: f64) -> Result<Vec<f64>> {
    check::finite("max_margin", max_margin)?;
    counts.check_positive()?;
    let inverse: Vec<f64> = counts.counts().iter().map(|n| n.powf(-0.25)).collect();
    let largest = inverse.iter().copied().fold(0.0, f64::max);
    Ok(inverse.iter().map(|x| max_margin * x / largest).collect())
}
