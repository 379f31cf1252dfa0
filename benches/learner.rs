//! The learned perturbation (LPL) on a GPU: 40 steps of unit length for every class present, labels uniform and with half of the batch in one
//! class, which is what the method is for.

mod device;

use device::softmax::Softmax;
use device::{Bench, Inputs, Point, SMALL};
use logit_perturb::{Bound, CrossEntropy, Learner, Split, Step};
use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;

const SECONDS: u64 = 70;

fn main() -> ExitCode {
    Bench::run(SECONDS, |bench| {
        let inputs = Rc::new(RefCell::new(Inputs::<f32>::new(bench)?));
        let learner = Learner::new(Step::UnitL2, 0.1, Split::MeanConfidence, Bound::Fixed { eps: 4.0 })?;
        let problem = CrossEntropy::builder().learner(learner).build()?;
        for (n, c) in SMALL.into_iter().chain([(4096, 1000), (4096, 10_000)]) {
            for skewed in [false, true] {
                let point = Point {
                    what: "learner",
                    variant: if skewed { "skewed" } else { "uniform" }.to_owned(),
                    dtype: "f32",
                    rows: n,
                    classes: c,
                    small: true,
                    bytes: None,
                };
                bench.measure(&point, |bench| {
                    Ok(Box::new(Softmax::new(bench, &inputs, problem.clone(), (n, c), false, skewed)?))
                })?;
            }
        }
        Ok(())
    })
}
