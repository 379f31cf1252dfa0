//! Running mean confidences of the classes (SPEC 3): state of the training loop beside the learner.

use crate::data::MOST_COLUMNS;
use crate::error::{Error, Result, check};

/// Running mean confidences `m_c`, owned by the training loop: `m_c <- mu * m_c + (1 - mu) * q_c` for the classes present, a class
/// never seen taking `q_c` at once, before use (SPEC 3). A class whose `q_c` is not finite keeps its `m_c`.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(try_from = "Unchecked"))]
pub struct RunningConfidence {
    momentum: f64,
    values: Vec<Option<f64>>,
}

#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    momentum: f64,
    values: Vec<Option<f64>>,
}

#[cfg(feature = "serde")]
impl TryFrom<Unchecked> for RunningConfidence {
    type Error = Error;
    fn try_from(unchecked: Unchecked) -> Result<Self> {
        let known: Vec<f64> = unchecked.values.iter().flatten().copied().collect();
        check::each("values", &known, |q| (0.0..=1.0).contains(&q), "a confidence, in [0, 1]")?;
        let unseen = Self::new(unchecked.values.len(), unchecked.momentum)?;
        Ok(Self { values: unchecked.values, ..unseen })
    }
}

impl RunningConfidence {
    /// `mu` of the paper's setting.
    pub const DEFAULT_MOMENTUM: f64 = 0.9;

    /// No class seen yet.
    ///
    /// # Errors
    /// [`Error::Value`]: `momentum` outside `[0, 1)`. [`Error::Shape`]: no class.
    pub fn new(classes: usize, momentum: f64) -> Result<Self> {
        check::one("momentum", momentum, (0.0..1.0).contains(&momentum), "in [0, 1)")?;
        if classes == 0 || classes > MOST_COLUMNS {
            return Err(Error::shape("classes", "length", classes, format!("at least 1 and at most {MOST_COLUMNS}")));
        }
        Ok(Self { momentum, values: vec![None; classes] })
    }

    /// `m_c` of every class, `None` for one never seen.
    pub fn values(&self) -> &[Option<f64>] {
        &self.values
    }

    /// The confidences to use for this batch, then takes in the batch's: NaN stands for an absent or non-finite class.
    pub(crate) fn use_then_update(&mut self, batch: &[f64]) -> Vec<f64> {
        let one = |(running, &q): (&mut Option<f64>, &f64)| {
            if !q.is_finite() {
                return f64::NAN;
            }
            let used = running.unwrap_or(q);
            *running = Some(running.map_or(q, |m| self.momentum * m + (1.0 - self.momentum) * q));
            used
        };
        self.values.iter_mut().zip(batch).map(one).collect()
    }
}
