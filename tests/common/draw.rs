//! Choices that cover every pair of choices of different axes, and random numbers to go with them.

#[path = "../grid/pairwise.rs"]
mod pairwise;

pub use pairwise::Axis;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};

/// Tests of the parts of all combinations, side by side: each calls `agree_with_the_reference` of the module around.
macro_rules! in_parts {
    ($name:ident: $($test:ident $part:literal),+) => {
        mod $name {
            $(#[test]
            fn $test() {
                super::agree_with_the_reference($part);
            })+
        }
    };
}
pub(crate) use in_parts;

/// One combination of choices.
pub struct Draw {
    pub rng: StdRng,
    /// By axis, how many there are and which it is.
    choices: BTreeMap<&'static str, (usize, usize)>,
    asked: BTreeSet<&'static str>,
}

impl Draw {
    /// Random numbers alone.
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), choices: BTreeMap::new(), asked: BTreeSet::new() }
    }

    /// Part `part` of so many of the combinations that cover all pairs, each with random numbers of its own.
    pub fn cover(axes: &[Axis], seed: u64, part: usize, parts: usize) -> Vec<(u64, Self)> {
        let (combinations, impossible) = pairwise::cover(axes, |_| true, seed);
        assert!(impossible.is_empty(), "{impossible:?}");
        let draw = |(number, combination): (usize, Vec<usize>)| {
            let choices = axes.iter().zip(combination).map(|(&(axis, count), choice)| (axis, (count, choice)));
            let number = (seed << 32) + number as u64;
            (number, Self { choices: choices.collect(), ..Self::new(number) })
        };
        combinations.into_iter().enumerate().skip(part).step_by(parts).map(draw).collect()
    }

    /// Which of an axis' choices it is.
    pub fn of(&mut self, axis: &'static str, count: usize) -> usize {
        let (choices, choice) = *self.choices.get(axis).unwrap_or_else(|| panic!("{axis} is no axis"));
        assert_eq!(count, choices, "choices of {axis}");
        self.asked.insert(axis);
        choice
    }

    pub fn on(&mut self, axis: &'static str) -> bool {
        self.of(axis, 2) == 1
    }

    /// Numbers that f32 holds.
    pub fn numbers(&mut self, len: usize, from: f64, to: f64) -> Vec<f64> {
        (0..len).map(|_| f64::from(self.rng.random_range(from..to) as f32)).collect()
    }

    /// An axis that no case asked for covers nothing.
    pub fn assert_all_were_asked<'a>(axes: &[Axis], draws: impl Iterator<Item = &'a Self>) {
        let asked: BTreeSet<_> = draws.flat_map(|draw| &draw.asked).copied().collect();
        assert_eq!(asked, axes.iter().map(|(axis, _)| *axis).collect());
    }
}
