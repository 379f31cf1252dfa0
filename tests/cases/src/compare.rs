//! Compares results with expectations at the tolerances of SPEC 6 and 7.

use crate::scale::Scale;
use crate::{Case, Results, Tensor, Values};
use half::{bf16, f16};
use logit_perturb::DType;
use logit_perturb::data::Element;

/// What a backend computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// The f64 reference.
    F64,
    /// f32, as on the GPU.
    F32,
}

/// How one expected tensor compared.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Its name, without `expect.`.
    pub name: String,
    /// The largest absolute difference of a number.
    pub worst: f64,
    /// What is wrong, where something is.
    pub failure: Option<String>,
}

/// How a case compared.
#[derive(Clone, Debug)]
pub struct Report {
    /// One for each expected tensor.
    pub comparisons: Vec<Comparison>,
}

impl Report {
    /// Whether at least one tensor was compared and none failed.
    pub fn passed(&self) -> bool {
        !self.comparisons.is_empty() && self.comparisons.iter().all(|comparison| comparison.failure.is_none())
    }
}

/// Compares every expected tensor of a case with the results of a backend that computes in `precision`.
pub fn compare(case: &Case, results: &Results, precision: Precision) -> Report {
    let one = |(name, expected): (&String, &Tensor)| {
        let failed = |failure: String| Comparison { name: name.clone(), worst: f64::NAN, failure: Some(failure) };
        let Some(actual) = results.tensors.get(name.as_str()) else {
            return failed("is no expectation of this case".to_owned());
        };
        // Frameworks dump a scalar as [] as well as [1].
        let scalar = |tensor: &Tensor| tensor.shape.is_empty() || tensor.shape == [1];
        if actual.shape != expected.shape && !(scalar(actual) && scalar(expected)) {
            return failed(format!("has shape {:?}, computed {:?}", expected.shape, actual.shape));
        }
        let (worst, failure) = match (&expected.values, &actual.values) {
            (Values::Float(dtype, expected), Values::Float(of, actual)) => {
                // What a backend rounded to a half type is judged by that type, however exact the expectation.
                let dtype = if matches!(of, DType::F16 | DType::BF16) { *of } else { *dtype };
                Rule { name, dtype, precision, scale: &results.scale, columns: case.classes }.compare(expected, actual)
            }
            (Values::Int(expected), Values::Int(actual)) => {
                let near = |i: usize| name == "steps" && precision == Precision::F32 && near_integer(&results.scale, i);
                compare_ints(expected, actual, near)
            }
            _ => return failed("mixes integers and floating-point numbers".to_owned()),
        };
        Comparison { name: name.clone(), worst, failure }
    };
    Report { comparisons: case.expected.iter().map(one).collect() }
}

fn near_integer(scale: &Scale, i: usize) -> bool {
    scale.step_quotients.get(i).is_some_and(|quotient| (quotient - quotient.round()).abs() <= 1e-3)
}

fn compare_ints(expected: &[i64], actual: &[i64], near: impl Fn(usize) -> bool) -> (f64, Option<String>) {
    let gap = |i: usize| expected[i].abs_diff(actual[i]);
    let worst = (0..expected.len()).map(gap).max().unwrap_or(0);
    let bad = (0..expected.len()).find(|&i| gap(i) > u64::from(near(i)));
    (worst as f64, bad.map(|i| format!("[{i}] expected {}, computed {}", expected[i], actual[i])))
}

/// The tolerance of one tensor.
struct Rule<'a> {
    name: &'a str,
    dtype: DType,
    precision: Precision,
    scale: &'a Scale,
    columns: usize,
}

impl Rule<'_> {
    fn compare(&self, expected: &[f64], actual: &[f64]) -> (f64, Option<String>) {
        let (mut worst, mut failure, mut above, mut unequal) = (0f64, None, 0usize, 0usize);
        for (i, (&expected, &actual)) in expected.iter().zip(actual).enumerate() {
            if expected.is_nan() && actual.is_nan() || expected == actual {
                above += usize::from(expected.abs() > self.tolerance(i, expected));
                continue;
            }
            let (error, tolerance) = ((expected - actual).abs(), self.tolerance(i, expected));
            worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
            let ulps = ulps_apart(self.dtype, expected, actual);
            if expected.abs() > tolerance {
                above += 1;
                unequal += usize::from(ulps.is_some_and(|ulps| ulps > 0));
            }
            let close = error <= tolerance || ulps.is_some_and(|ulps| ulps <= 1);
            if !close && failure.is_none() {
                failure = Some(format!("[{i}] expected {expected:e}, computed {actual:e}, tolerance {tolerance:e}"));
            }
        }
        if failure.is_none() && unequal as f64 > 0.005 * above as f64 {
            failure = Some(format!("{unequal} of {above} entries are 1 ulp off, allowed are 0.5 %"));
        }
        (worst, failure)
    }

    /// The largest absolute error of number `i`.
    fn tolerance(&self, i: usize, expected: f64) -> f64 {
        let row = match self.name {
            "loss_rows" | "lse" => self.scale.row[i],
            "grad" => self.scale.row[i / self.columns],
            _ => self.scale.batch(),
        };
        if self.dtype == DType::F64 && self.precision == Precision::F64 {
            return 1e-9 * expected.abs() + 2e-15 * row.max(1.0);
        }
        let a = (row / 50.0).max(1.0);
        match self.name {
            "grad" => 1e-6 * self.scale.gradient[i] * a,
            name if name.starts_with("delta") => 1e-5 * (self.scale.bound(name, i, self.columns) / 5.0).max(1.0),
            _ => (4e-6 * expected.abs() + 1e-7) * a,
        }
    }
}

/// How many numbers of a half type lie between two values, once rounded to it; `None` for wider types and where one is NaN.
fn ulps_apart(dtype: DType, a: f64, b: f64) -> Option<u64> {
    // Sign and magnitude to a line of integers.
    let line = |bits: u16| if bits & 0x8000 == 0 { i64::from(bits) } else { -i64::from(bits & 0x7fff) };
    let place = |x: f64| match dtype {
        _ if x.is_nan() => None,
        DType::F16 => Some(line(<f16 as Element>::round(x).to_bits())),
        DType::BF16 => Some(line(<bf16 as Element>::round(x).to_bits())),
        _ => None,
    };
    Some(place(a)?.abs_diff(place(b)?))
}
