//! What the tests share: reproducible numbers, and the comparison of an operation with the core called directly.

use candle_core::{DType, Device, Result, Tensor, Var, WithDType};
use logit_perturb::cpu::Pass;
use logit_perturb::half::{bf16, f16};
use logit_perturb::{Floats, FloatsMut, Matrix, MatrixMut, Reduction, Upstream};

pub const DTYPES: [DType; 4] = [DType::F16, DType::BF16, DType::F32, DType::F64];
const CPU: Device = Device::Cpu;

/// `len` numbers in `[-spread, spread)`, the same for the same seed (Knuth's MMIX generator).
pub fn noise(seed: u64, len: usize, spread: f64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..len).map(|_| (2.0 * next() - 1.0) * spread).collect()
}

/// As [`noise`], in `[0, 1)`.
pub fn shares(seed: u64, len: usize) -> Vec<f64> {
    noise(seed, len, 0.5).iter().map(|x| x + 0.5).collect()
}

pub fn tensor(values: &[f64], shape: impl Into<candle_core::Shape>, dtype: DType) -> Tensor {
    Tensor::from_slice(values, shape, &CPU).unwrap().to_dtype(dtype).unwrap()
}

pub fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// A batch and its problem, but for logits, reduction and upstream gradient.
pub trait Case {
    fn shape(&self) -> (usize, usize);
    /// The operation: the loss and the output, printed.
    fn candle(&self, logits: &Tensor, reduction: Reduction) -> Result<(Tensor, String)>;
    /// The core: the reduced loss, the losses of the rows and the output, printed.
    fn core(&self, pass: Pass<'_>, reduction: Reduction, upstream: Upstream<'_>) -> (f64, Vec<f64>, String);
}

/// Calls the core on the numbers of a dense tensor, with a gradient of its dtype. Returns the gradient too.
fn into_gradient<R>(logits: &Tensor, run: impl FnOnce(Pass<'_>) -> R) -> (R, Vec<f64>) {
    fn of<T: WithDType, R>(logits: &Tensor, run: impl FnOnce(Pass<'_>) -> R) -> (R, Vec<f64>)
    where
        for<'a> Floats<'a>: From<&'a Vec<T>>,
        for<'a> FloatsMut<'a>: From<&'a mut Vec<T>>,
    {
        let (n, c) = logits.dims2().unwrap();
        let u: Vec<T> = logits.flatten_all().unwrap().to_vec1().unwrap();
        let mut g = vec![T::from_f64(f64::NAN); n * c];
        let gradient = MatrixMut::new(&mut g, n, c).unwrap();
        let result = run(Pass::Into { logits: Matrix::new(&u, n, c).unwrap(), gradient });
        (result, g.into_iter().map(T::to_f64).collect())
    }
    match logits.dtype() {
        DType::F16 => of::<f16, R>(logits, run),
        DType::BF16 => of::<bf16, R>(logits, run),
        DType::F32 => of::<f32, R>(logits, run),
        DType::F64 => of::<f64, R>(logits, run),
        other => panic!("{other:?} is no dtype of logits"),
    }
}

/// Loss, output and gradients of the operation are the core's, in all four dtypes, under these reductions.
pub fn agrees_under(case: &impl Case, reductions: &[Reduction]) {
    let (n, c) = case.shape();
    let values = noise(7, n * c, 4.0);
    for dtype in DTYPES {
        let logits = Var::from_tensor(&tensor(&values, (n, c), dtype)).unwrap();
        for &reduction in reductions {
            let context = format!("{dtype:?}, {reduction:?}");
            let (loss, output) = case.candle(&logits, reduction).unwrap();
            let ((reduced, rows, expected_output), expected) =
                into_gradient(&logits, |pass| case.core(pass, reduction, Upstream::default()));
            let mut expected_loss = if reduction == Reduction::None { rows } else { vec![reduced] };
            let shape = if reduction == Reduction::None { vec![n] } else { vec![] };
            assert_eq!(loss.dims(), shape, "{context}");
            let loss_dtype = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
            assert_eq!(loss.dtype(), loss_dtype, "{context}");
            if loss_dtype == DType::F32 {
                expected_loss.iter_mut().for_each(|x| *x = f64::from(*x as f32));
            }
            assert_eq!(numbers(&loss), expected_loss, "loss, {context}");
            assert_eq!(output, expected_output, "{context}");
            assert_eq!(gradient(&loss, &logits), expected, "gradient, {context}");

            // Products with a power of two are exact; other products may round differently in f64, before the one
            // rounding that counts.
            for (factors, tolerance) in [([-0.5, 2.0, 0.25], 0.0), ([3.0, -0.75, 1.375], 1e-15)] {
                let upstream: Vec<f64> = factors.iter().copied().cycle().take(n).collect();
                let (scaled, upstream) = if reduction == Reduction::None {
                    let factors = tensor(&upstream, n, loss_dtype);
                    ((&loss * factors).unwrap().sum_all().unwrap(), Upstream::Rows(&upstream))
                } else {
                    ((&loss * factors[0]).unwrap(), Upstream::Scalar(factors[0]))
                };
                let (_, expected) = into_gradient(&logits, |pass| case.core(pass, reduction, upstream));
                let got = gradient(&scaled, &logits);
                if dtype == DType::F64 {
                    let largest = expected.iter().fold(0.0, |max: f64, g| max.max(g.abs()));
                    close(&got, &expected, tolerance * largest, &format!("times {factors:?}, {context}"));
                } else {
                    assert_eq!(got, expected, "times {factors:?}, {context}");
                }
            }
        }
    }
}

/// The gradient of a scalar, or of a sum of rows, with respect to `var`, of whose dtype and shape it is.
pub fn gradient(loss: &Tensor, var: &Var) -> Vec<f64> {
    let gradients = loss.backward().unwrap();
    let gradient = gradients.get(var).expect("the loss depends on the variable");
    assert_eq!(gradient.dtype(), var.dtype());
    assert_eq!(gradient.dims(), var.dims());
    numbers(gradient)
}

pub fn close(got: &[f64], expected: &[f64], tolerance: f64, context: &str) {
    assert_eq!(got.len(), expected.len(), "{context}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() <= tolerance, "{context}: entry {i} is {got:e}, not {expected:e}");
    }
}
