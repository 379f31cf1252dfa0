//! Combinations of choices that cover every pair of choices of different axes which go together.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;

/// An axis: its name and how many choices it has.
pub type Axis = (&'static str, usize);

/// One choice an axis, by index.
pub type Combination = Vec<usize>;

/// How many random completions of a pair are weighed against each other, and tried before a pair counts as impossible.
const TRIES: usize = 40;
const ATTEMPTS: usize = 20_000;

type Pair = [(usize, usize); 2];

fn pairs(combination: &[usize]) -> impl Iterator<Item = Pair> + '_ {
    let axes = 0..combination.len();
    axes.clone().flat_map(move |a| (a + 1..combination.len()).map(move |b| [(a, combination[a]), (b, combination[b])]))
}

/// The combinations, and the pairs that `fits` allows in none.
pub fn cover(axes: &[Axis], fits: impl Fn(&[usize]) -> bool, seed: u64) -> (Vec<Combination>, Vec<Pair>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut open: BTreeSet<Pair> = BTreeSet::new();
    for a in 0..axes.len() {
        for b in a + 1..axes.len() {
            open.extend((0..axes[a].1).flat_map(|x| (0..axes[b].1).map(move |y| [(a, x), (b, y)])));
        }
    }
    let (mut chosen, mut impossible) = (Vec::new(), Vec::new());
    while !open.is_empty() {
        let list: Vec<Pair> = open.iter().copied().collect();
        let pair = *list.choose(&mut rng).expect("not empty");
        let mut draw = || {
            let mut combination: Combination = axes.iter().map(|(_, choices)| rng.random_range(0..*choices)).collect();
            pair.iter().for_each(|(axis, choice)| combination[*axis] = *choice);
            combination
        };
        let mut candidates = Vec::new();
        for _ in 0..ATTEMPTS {
            let combination = draw();
            if fits(&combination) {
                candidates.push(combination);
            }
            if candidates.len() == TRIES {
                break;
            }
        }
        let gain = |combination: &Combination| pairs(combination).filter(|pair| open.contains(pair)).count();
        let Some(best) = candidates.into_iter().max_by_key(gain) else {
            open.remove(&pair);
            impossible.push(pair);
            continue;
        };
        pairs(&best).for_each(|pair| {
            open.remove(&pair);
        });
        chosen.push(best);
    }
    (chosen, impossible)
}
