//! The generated grid: every pair of choices of (option of the problem, element type, regime, format, place, ...) that goes together, on every
//! backend at hand, against an evaluation that shares no code with the crate.
//!
//! `EMULATOR_RECORDS` names a folder that the emulated launches are written to, for `scripts/sanitize.sh`.

mod binary_cross_entropy;
mod choice;
mod cross_entropy;
mod numbers;
mod pairwise;
mod sigmoid;
mod softmax;
#[path = "../common/tiny.rs"]
mod tiny;

use libtest_mimic::{Arguments, Failed, Trial};
use pairwise::{Axis, Combination};

const COVERS: u64 = 3;

/// The combinations of a loss's choices. Several covers: what takes three choices to go wrong has a chance in each.
fn combinations<C>(loss: &str, axes: &[Axis], of: fn(&[usize]) -> C, fits: fn(&C) -> bool) -> Vec<C> {
    let mut combinations: Vec<Combination> = Vec::new();
    for seed in 0..COVERS {
        let (covering, impossible) = pairwise::cover(axes, |choices| fits(&of(choices)), seed);
        combinations.extend(covering);
        for [(a, x), (b, y)] in impossible.iter().filter(|_| seed == 0) {
            println!("{loss} excludes: {} {x} with {} {y}", axes[*a].0, axes[*b].0);
        }
    }
    combinations.iter().map(|choices| of(choices)).collect()
}

type Run<C> = fn(C, u64) -> Result<(), Failed>;

fn trials<C: Copy + Send + 'static>(
    loss: &str,
    combinations: &[C],
    name: fn(&C) -> String,
    backends: &[(&str, Run<C>)],
) -> Vec<Trial> {
    let mut trials = Vec::new();
    for &(backend, run) in backends {
        for (seed, &choices) in combinations.iter().enumerate() {
            let name = format!("{backend}::{loss}::{seed:03} {}", name(&choices));
            trials.push(Trial::test(name, move || run(choices, seed as u64)));
        }
        println!("{backend}: {} combinations of {loss}", combinations.len());
    }
    trials
}

fn main() {
    let arguments = Arguments::from_args();
    let (single, multi) = ("cross_entropy", "binary_cross_entropy");
    let of_softmax = combinations(single, &softmax::AXES, softmax::Choices::of, softmax::Choices::fits);
    let of_sigmoid = combinations(multi, &sigmoid::AXES, sigmoid::Choices::of, sigmoid::Choices::fits);
    let mut all = trials(
        single,
        &of_softmax,
        softmax::Choices::name,
        &[("cpu", cross_entropy::reference), ("emulated", cross_entropy::emulated)],
    );
    all.extend(trials(
        multi,
        &of_sigmoid,
        sigmoid::Choices::name,
        &[("cpu", binary_cross_entropy::reference), ("emulated", binary_cross_entropy::emulated)],
    ));
    libtest_mimic::run(&arguments, all).exit();
}
