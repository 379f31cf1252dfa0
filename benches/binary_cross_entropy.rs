//! Binary cross-entropy on a GPU: loss and gradient in f32 and bf16 over C, with targets as bytes and as packed bits.

mod device;

use device::{Bench, Inputs, Number, Point, Result, Work, large_rows};
use logit_perturb::cpu::{self, BinaryCrossEntropyBatch, Pass};
use logit_perturb::cuda::{
    BinaryCrossEntropyOp, BinarySetup, DeviceMatrix, DeviceMatrixMut, DevicePass, DeviceTargets,
};
use logit_perturb::cudarc::driver::{CudaSlice, CudaStream};
use logit_perturb::half::bf16;
use logit_perturb::{BinaryCrossEntropy, BinaryTargets, Matrix, MatrixMut, Reduction};
use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

const SECONDS: u64 = 50;
const CLASSES: [usize; 5] = [10, 80, 100, 1000, 10_000];
const SMALL: [(usize, usize); 2] = [(128, 100), (1024, 80)];
/// One target in so many is positive.
const POSITIVE: usize = 20;
const COMPARED: usize = 6;

enum Targets {
    Bytes(CudaSlice<i8>),
    Bits(CudaSlice<u32>),
}

struct Binary<T> {
    stream: Arc<CudaStream>,
    inputs: Rc<RefCell<Inputs<T>>>,
    op: BinaryCrossEntropyOp<T>,
    targets: Targets,
    rows: usize,
    classes: usize,
    sets: usize,
    pitch: usize,
}

/// The target of an entry: scattered, and the same for every set.
fn target(row: usize, class: usize) -> bool {
    (row.wrapping_mul(31) ^ class.wrapping_mul(17)).is_multiple_of(POSITIVE)
}

impl<T: Number> Binary<T> {
    fn new(bench: &Bench, inputs: &Rc<RefCell<Inputs<T>>>, (n, c): (usize, usize), bits: bool) -> Result<Self> {
        let (sets, pitch) = inputs.borrow().sets(n * c);
        let targets = if bits {
            let word = |row: usize, word: usize| {
                let classes = 32 * word..(32 * (word + 1)).min(c);
                classes.fold(0, |bits, class| bits | u32::from(target(row, class)) << (class % 32))
            };
            let words: Vec<u32> = (0..n).flat_map(|row| (0..c.div_ceil(32)).map(move |i| word(row, i))).collect();
            Targets::Bits(bench.stream.clone_htod(&words)?)
        } else {
            let bytes: Vec<i8> = (0..n).flat_map(|row| (0..c).map(move |class| i8::from(target(row, class)))).collect();
            Targets::Bytes(bench.stream.clone_htod(&bytes)?)
        };
        let problem = BinaryCrossEntropy::default();
        let setup = BinarySetup::new(c, n).loss_rows();
        Ok(Self {
            op: BinaryCrossEntropyOp::new(&bench.kernels, &bench.stream, &problem, setup)?,
            stream: Arc::clone(&bench.stream),
            inputs: Rc::clone(inputs),
            targets,
            rows: n,
            classes: c,
            sets,
            pitch,
        })
    }
}

impl<T: Number> Work for Binary<T> {
    fn is_right(&mut self) -> Result<bool> {
        self.enqueue(0)?;
        self.op.check()?;
        let (n, c) = (self.rows, self.classes);
        let losses = self.stream.clone_dtoh(&self.op.loss_rows().ok_or("the row losses are not there")?)?;
        let alone = BinaryCrossEntropy::builder().reduction(Reduction::Divisor((n * c) as f64)).build()?;
        let relative = if size_of::<T>() == 2 { 4e-3 } else { 0.0 };
        let near = |found: f64, expected: f64, tolerance: f64| (found - expected).abs() <= tolerance;
        let mut right = true;
        for row in (0..COMPARED).map(|i| i * (n - 1) / (COMPARED - 1)) {
            let inputs = self.inputs.borrow();
            let logits = inputs.host(row * c..(row + 1) * c);
            let targets: Vec<i8> = (0..c).map(|class| i8::from(target(row, class))).collect();
            let mut expected = vec![0f64; c];
            let pass =
                Pass::Into { logits: Matrix::new(&logits, 1, c)?, gradient: MatrixMut::new(&mut expected, 1, c)? };
            let batch = BinaryCrossEntropyBatch::new(BinaryTargets::I8 { data: &targets, stride: c });
            let loss = cpu::binary_cross_entropy(&alone, pass, batch)?.loss_rows[0];
            right &= near(losses[row].into(), loss, 4e-6 * loss + 1e-7);
            let found = self.stream.clone_dtoh(&inputs.gradient.slice(row * c..(row + 1) * c))?;
            let absolute = 1e-6 / (n * c) as f64;
            right &= found.iter().zip(&expected).all(|(x, &g)| near(x.widen(), g, relative * g.abs() + absolute));
        }
        Ok(right)
    }

    fn restore(&mut self, _: usize) -> Result<()> {
        Ok(())
    }

    fn enqueue(&mut self, set: usize) -> Result<()> {
        let inputs = &mut *self.inputs.borrow_mut();
        let (n, c, start) = (self.rows, self.classes, set * self.pitch);
        let range = start..start + n * c;
        let gradient = DeviceMatrixMut::new(inputs.gradient.slice_mut(range.clone()), n, c, c)?;
        let pass = DevicePass::Into { logits: DeviceMatrix::new(inputs.pristine.slice(range), n, c, c)?, gradient };
        let words = c.div_ceil(32);
        let targets = match &self.targets {
            Targets::Bytes(bytes) => DeviceTargets::I8(DeviceMatrix::new(bytes.as_view(), n, c, c)?),
            Targets::Bits(bits) => DeviceTargets::Bits(DeviceMatrix::new(bits.as_view(), n, words, words)?),
        };
        Ok(self.op.enqueue(pass, targets)?)
    }

    fn sets(&self) -> usize {
        self.sets
    }

    /// Where -1 may stand, the mean's divisor has to be counted first, and the targets are read twice.
    fn moved(&self) -> Option<usize> {
        let targets = match &self.targets {
            Targets::Bytes(bytes) => 2 * bytes.len(),
            Targets::Bits(bits) => 4 * bits.len(),
        };
        Some(2 * self.rows * self.classes * size_of::<T>() + targets)
    }
}

fn measure<T: Number>(bench: &mut Bench) -> Result<()> {
    let inputs = Rc::new(RefCell::new(Inputs::<T>::new(bench)?));
    let large = CLASSES.into_iter().map(|c| (large_rows::<T>(c), c, false));
    for (n, c, small) in SMALL.into_iter().map(|(n, c)| (n, c, true)).chain(large) {
        for (variant, bits) in [("plain", false), ("plain bits", true)] {
            let targets = if bits { 4 * n * c.div_ceil(32) } else { n * c };
            let point = Point {
                what: "binary_cross_entropy",
                variant: variant.to_owned(),
                dtype: T::NAME,
                rows: n,
                classes: c,
                small,
                bytes: Some(2 * size_of::<T>() * n * c + targets),
            };
            bench.measure(&point, |bench| Ok(Box::new(Binary::new(bench, &inputs, (n, c), bits)?)))?;
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    Bench::run(SECONDS, |bench| {
        measure::<f32>(bench)?;
        measure::<bf16>(bench)
    })
}
