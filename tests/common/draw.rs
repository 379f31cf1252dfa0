//! Random choices that remember how often each was made: what was never chosen was never tested.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

pub struct Draw {
    pub rng: StdRng,
    chosen: BTreeMap<(&'static str, usize), u32>,
}

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), chosen: BTreeMap::new() }
    }

    /// One of those that were chosen least often so far.
    pub fn of(&mut self, what: &'static str, count: usize) -> usize {
        let times = |choice: &usize| self.chosen.get(&(what, *choice)).copied().unwrap_or_default();
        let least = (0..count).map(|choice| times(&choice)).min().expect("something to choose from");
        let choices: Vec<usize> = (0..count).filter(|choice| times(choice) == least).collect();
        let choice = choices[self.rng.random_range(0..choices.len())];
        *self.chosen.entry((what, choice)).or_default() += 1;
        choice
    }

    pub fn on(&mut self, what: &'static str) -> bool {
        self.of(what, 2) == 1
    }

    /// Numbers that f32 holds.
    pub fn numbers(&mut self, len: usize, from: f64, to: f64) -> Vec<f64> {
        (0..len).map(|_| f64::from(self.rng.random_range(from..to) as f32)).collect()
    }

    pub fn assert_each_was_chosen(&self, times: u32) {
        assert!(self.chosen.values().all(|&count| count >= times), "{:?}", self.chosen);
    }
}
