//! Cross-entropy on a GPU: loss and gradient in f32 and bf16, plain, in place, with a shared perturbation and with a class matrix, over C.

mod device;

use device::softmax::Softmax;
use device::{Bench, Inputs, LARGE, Number, Point, Result, SMALL, large_rows};
use logit_perturb::half::bf16;
use logit_perturb::{CrossEntropy, Perturbation};
use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;

const SECONDS: u64 = 150;
const MOST_MATRIX_CLASSES: usize = 10_000;
const VARIANTS: [&str; 4] = ["plain", "plain in place", "shared", "class_matrix"];

/// Counts that fall to a hundredth, as logit adjustment has it; for a matrix, shifted from class to class.
fn problem(variant: &str, classes: usize) -> Result<CrossEntropy> {
    let share = |class: usize| 100f64.powf(-(class as f64) / classes as f64);
    let total: f64 = (0..classes).map(share).sum();
    let prior = (0..classes).map(|class| (share(class) / total).ln());
    let builder = CrossEntropy::builder();
    Ok(match variant {
        "shared" => builder.perturbation(Perturbation::Shared(prior.collect())).build()?,
        "class_matrix" => {
            let twice: Vec<f64> = prior.clone().chain(prior).collect();
            let matrix = (0..classes).flat_map(|class| &twice[class..class + classes]).copied().collect();
            builder.perturbation(Perturbation::ClassMatrix(matrix)).build()?
        }
        _ => builder.build()?,
    })
}

/// Logits read, gradient written, labels and perturbation read: each once.
fn bytes<T>(variant: &str, n: usize, c: usize) -> usize {
    let perturbation = match variant {
        "shared" => 4 * c,
        "class_matrix" => 4 * c * c.min(n),
        _ => 0,
    };
    2 * size_of::<T>() * n * c + 8 * n + perturbation
}

fn measure<T: Number>(bench: &mut Bench) -> Result<()> {
    let inputs = Rc::new(RefCell::new(Inputs::<T>::new(bench)?));
    let large = LARGE.into_iter().map(|c| (large_rows::<T>(c), c, false));
    for (n, c, small) in SMALL.into_iter().map(|(n, c)| (n, c, true)).chain(large) {
        for variant in VARIANTS.into_iter().filter(|variant| *variant != "class_matrix" || c <= MOST_MATRIX_CLASSES) {
            let point = Point {
                what: "cross_entropy",
                variant: variant.to_owned(),
                dtype: T::NAME,
                rows: n,
                classes: c,
                small,
                bytes: Some(bytes::<T>(variant, n, c)),
            };
            bench.measure(&point, |bench| {
                let in_place = variant == "plain in place";
                Ok(Box::new(Softmax::new(bench, &inputs, problem(variant, c)?, (n, c), in_place, false)?))
            })?;
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
