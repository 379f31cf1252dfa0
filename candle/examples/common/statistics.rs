//! What is said about a method over seeds: a mean with its standard deviation, and the paired difference to the baseline.

use std::fmt::{self, Display, Formatter};

/// Mean and sample standard deviation (divisor n - 1; NaN for one value).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub mean: f64,
    pub sd: f64,
}

impl Summary {
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = mean(values);
        let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
        Self { mean, sd: (squares / (n - 1.0)).sqrt() }
    }
}

impl Display for Summary {
    /// `12.3 ± 0.4`, the sign of the mean on request (`{:+}`).
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        if f.sign_plus() {
            write!(f, "{:+.1}", self.mean)?;
        } else {
            write!(f, "{:.1}", self.mean)?;
        }
        if self.sd.is_nan() { Ok(()) } else { write!(f, " ± {:.1}", self.sd) }
    }
}

/// The mean.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// `values[i] - baseline[i]`: seed by seed, so that what a seed does to all methods alike drops out.
pub fn differences(values: &[f64], baseline: &[f64]) -> Vec<f64> {
    values.iter().zip(baseline).map(|(value, base)| value - base).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_sample_deviation_worked_by_hand() {
        // Deviations -3, -1, 1, 3: sum of squares 20, over 3.
        let summary = Summary::of(&[2.0, 4.0, 6.0, 8.0]);
        assert_eq!(summary, Summary { mean: 5.0, sd: (20.0f64 / 3.0).sqrt() });
        assert_eq!(format!("{summary} {summary:+}"), "5.0 ± 2.6 +5.0 ± 2.6");
    }

    #[test]
    fn one_value_has_no_deviation() {
        assert_eq!(Summary::of(&[2.0]).to_string(), "2.0");
    }

    #[test]
    fn differences_are_paired() {
        assert_eq!(differences(&[3.0, 5.0], &[4.0, 1.0]), [-1.0, 4.0]);
    }
}
