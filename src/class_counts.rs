//! How often each class occurs in the training set: the source of priors, ranks and every long-tail formula.

use crate::data::MOST_COLUMNS;
use crate::error::{Error, Result, check};

/// Class frequencies `n_c` of the TRAINING set, `n_c >= 0`, and the number of training samples `n_total`.
///
/// Counts are real numbers, so effective or smoothed counts serve as well.
///
/// ```
/// use logit_perturb::ClassCounts;
/// let counts = ClassCounts::new([500.0, 100.0, 20.0])?;
/// assert_eq!(counts.priors()[1], 100.0 / 620.0);
/// assert_eq!(counts.by_frequency(), [0, 1, 2]);
/// # Ok::<(), logit_perturb::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(try_from = "Unchecked"))]
pub struct ClassCounts {
    counts: Vec<f64>,
    samples: f64,
}

#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    counts: Vec<f64>,
    samples: f64,
}

#[cfg(feature = "serde")]
impl TryFrom<Unchecked> for ClassCounts {
    type Error = Error;
    fn try_from(unchecked: Unchecked) -> Result<Self> {
        Self::of(unchecked.counts, unchecked.samples)
    }
}

impl ClassCounts {
    /// Counts of a single-label training set: `n_total` is their sum.
    ///
    /// # Errors
    /// [`Error::Value`] or [`Error::Shape`]: no class, a count that is negative or not finite, or all zero.
    pub fn new(counts: impl IntoIterator<Item = f64>) -> Result<Self> {
        let counts: Vec<f64> = counts.into_iter().collect();
        let samples = counts.iter().sum();
        Self::of(counts, samples)
    }

    /// Counts of a multi-label training set of `samples` samples: `n_c` of them carry label `c`.
    ///
    /// # Errors
    /// As [`new`](Self::new); also a count above `samples`.
    pub fn multi_label(counts: impl IntoIterator<Item = f64>, samples: f64) -> Result<Self> {
        Self::of(counts.into_iter().collect(), samples)
    }

    /// Counts the labels of a single-label training set with `classes` classes.
    ///
    /// # Errors
    /// [`Error::Value`] for a label outside `0..classes`; as [`new`](Self::new).
    pub fn from_labels(labels: impl IntoIterator<Item = usize>, classes: usize) -> Result<Self> {
        if classes > MOST_COLUMNS {
            return Err(Error::shape("classes", "length", classes, format!("at most {MOST_COLUMNS}")));
        }
        let mut counts = vec![0.0; classes];
        for (row, class) in labels.into_iter().enumerate() {
            let allowed = || format!("in 0..{classes}");
            *counts.get_mut(class).ok_or_else(|| Error::value(format!("labels[{row}]"), class, allowed()))? += 1.0;
        }
        Self::new(counts)
    }

    fn of(counts: Vec<f64>, samples: f64) -> Result<Self> {
        if counts.is_empty() {
            return Err(Error::shape("counts", "length", 0, "at least 1"));
        }
        check::each_non_negative("counts", &counts)?;
        check::positive("samples", samples)?;
        check::each("counts", &counts, |n| n <= samples, "at most the number of samples")?;
        Ok(Self { counts, samples })
    }

    /// `n_c` of every class.
    pub fn counts(&self) -> &[f64] {
        &self.counts
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.counts.len()
    }

    /// `n_total`, the number of training samples.
    pub fn samples(&self) -> f64 {
        self.samples
    }

    /// `pi_c = n_c / n_total`.
    pub fn priors(&self) -> Vec<f64> {
        self.counts.iter().map(|n| n / self.samples).collect()
    }

    /// The classes, most frequent first, ties by ascending index.
    pub fn by_frequency(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.classes()).collect();
        order.sort_by(|&a, &b| self.counts[b].total_cmp(&self.counts[a]));
        order
    }

    /// The rank of every class, 0 for the most frequent, ties by ascending index.
    pub fn ranks(&self) -> Vec<usize> {
        let mut ranks = vec![0; self.classes()];
        for (rank, class) in self.by_frequency().into_iter().enumerate() {
            ranks[class] = rank;
        }
        ranks
    }

    /// A typed error unless `0 < n_c`: for formulas with the logarithm or the inverse of a count.
    pub(crate) fn check_positive(&self) -> Result<()> {
        check::each_positive("counts", &self.counts)
    }

    /// A typed error unless `0 < n_c < n_total`: for formulas with the odds of a label.
    pub(crate) fn check_inner(&self) -> Result<()> {
        check::each("counts", &self.counts, |n| n > 0.0 && n < self.samples, "above 0 and below the number of samples")
    }
}
