//! Numbers that a seed decides, numbers that a type holds, and how near is near enough (SPEC 6).

use logit_perturb::Matrix;
use logit_perturb::half::{bf16, f16};
use logit_perturb::kernel::DType;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub struct Numbers(StdRng);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    pub fn uniform(&mut self, len: usize, from: f32, to: f32) -> Vec<f32> {
        (0..len).map(|_| self.0.random_range(from..to)).collect()
    }

    /// Weights of which a quarter is 0.
    pub fn weights(&mut self, len: usize) -> Vec<f32> {
        let mut weights = self.uniform(len, 0.25, 2.0);
        weights.iter_mut().skip(1).step_by(4).for_each(|weight| *weight = 0.0);
        weights
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0.random_range(0..bound)
    }
}

/// Numbers in the type that a batch has them in.
pub enum Typed {
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
}

impl Typed {
    pub fn new(dtype: DType, numbers: &[f32]) -> Self {
        match dtype {
            DType::F32 => Self::F32(numbers.to_vec()),
            DType::F16 => Self::F16(numbers.iter().map(|&x| f16::from_f32(x)).collect()),
            DType::BF16 => Self::BF16(numbers.iter().map(|&x| bf16::from_f32(x)).collect()),
        }
    }

    pub fn matrix(&self, rows: usize, columns: usize) -> logit_perturb::Result<Matrix<'_>> {
        match self {
            Self::F32(numbers) => Matrix::new(numbers, rows, columns),
            Self::F16(numbers) => Matrix::new(numbers, rows, columns),
            Self::BF16(numbers) => Matrix::new(numbers, rows, columns),
        }
    }
}

pub fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&x| f64::from(x)).collect()
}

/// 0 times infinity is 0.
pub fn times(weight: f64, x: f64) -> f64 {
    if weight == 0.0 { 0.0 } else { weight * x }
}

/// The numbers of a type that lie nearest.
pub fn round(dtype: DType, numbers: Vec<f32>) -> Vec<f32> {
    numbers.into_iter().map(|x| nearest(dtype, f64::from(x)).0).collect()
}

/// The number of a type that lies nearest, and how far its neighbours are apart there.
fn nearest(dtype: DType, x: f64) -> (f32, f64) {
    let ulp = |digits: i32, least: i32| {
        let exponent = if x == 0.0 { least } else { (x.abs().log2().floor() as i32).max(least) };
        2f64.powi(exponent - digits)
    };
    match dtype {
        DType::F32 => (x as f32, ulp(23, -126)),
        DType::F16 => (f16::from_f64(x).to_f32(), ulp(10, -14)),
        DType::BF16 => (bf16::from_f64(x).to_f32(), ulp(7, -126)),
    }
}

/// Compares one number after the other, and says which is the first to be off.
pub struct Comparison {
    failures: Vec<String>,
    /// Half-precision gradients: how many above the tolerance there are, and how many of them are not the nearest number.
    rounded: [usize; 2],
}

impl Comparison {
    pub fn new() -> Self {
        Self { failures: Vec::new(), rounded: [0; 2] }
    }

    pub fn near(&mut self, what: &str, at: usize, found: f64, expected: f64, tolerance: f64) {
        let same = found == expected || found.is_nan() && expected.is_nan();
        // An infinite tolerance allows every number, but neither infinity nor NaN in the place of one.
        let near = found.is_finite() && expected.is_finite() && (found - expected).abs() <= tolerance;
        if !same && !near {
            self.failures.push(format!("{what}[{at}] is {found:e}, expected {expected:e} within {tolerance:e}"));
        }
    }

    /// A loss, under `a` of SPEC 6.
    pub fn loss(&mut self, what: &str, at: usize, found: f32, expected: f64, stretch: f64) {
        self.near(what, at, f64::from(found), expected, (4e-6 * expected.abs() + 1e-7) * stretch);
    }

    /// A gradient, whose `G` of SPEC 6 is `unit`. Where rows lie `far` from 0, f32 itself is too coarse to say which number is nearest.
    pub fn gradient(&mut self, dtype: DType, at: usize, found: f32, expected: f64, unit: f64, far: bool) {
        let tolerance = 1e-6 * unit;
        if dtype == DType::F32 {
            return self.near("gradient", at, f64::from(found), expected, tolerance);
        }
        let (nearest, ulp) = nearest(dtype, expected);
        self.near("gradient", at, f64::from(found), f64::from(nearest), tolerance.max(ulp));
        if expected.abs() > tolerance && !far {
            self.rounded[0] += 1;
            self.rounded[1] += usize::from(found != nearest);
        }
    }

    pub fn equal<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, found: &[T], expected: &[T]) {
        if found != expected {
            let at = found.iter().zip(expected).position(|(found, expected)| found != expected);
            let of = |list: &[T]| at.map(|at| format!("{:?}", list[at]));
            self.failures.push(format!("{what}[{at:?}] is {:?}, expected {:?}", of(found), of(expected)));
        }
    }

    pub fn finish(mut self) -> Result<(), libtest_mimic::Failed> {
        let [all, off] = self.rounded;
        // Of few numbers, half a percent is none.
        if off > 2 && off as f64 > 0.005 * all as f64 {
            self.failures.push(format!("{off} of {all} gradients are not the nearest number"));
        }
        match self.failures.as_slice() {
            [] => Ok(()),
            failures => Err(format!("{} differences, the first: {}", failures.len(), failures[0]).into()),
        }
    }
}
