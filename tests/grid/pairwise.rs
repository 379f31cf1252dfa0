//! Combinations of choices that cover every pair of choices of different axes which go together.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

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

/// The pairs that are still to be covered: in order, and a flag each, since every candidate is weighed by what it covers.
struct Open {
    pairs: Vec<Pair>,
    flags: Vec<bool>,
    /// The place of an axis' first choice among those of all axes.
    starts: Vec<usize>,
    choices: usize,
}

impl Open {
    fn new(axes: &[Axis]) -> Self {
        let mut choices = 0;
        let mut starts = Vec::new();
        for (_, count) in axes {
            starts.push(choices);
            choices += count;
        }
        let mut pairs = Vec::new();
        for a in 0..axes.len() {
            for b in a + 1..axes.len() {
                pairs.extend((0..axes[a].1).flat_map(|x| (0..axes[b].1).map(move |y| [(a, x), (b, y)])));
            }
        }
        pairs.sort_unstable();
        let mut open = Self { pairs: Vec::new(), flags: vec![false; choices * choices], starts, choices };
        pairs.iter().for_each(|pair| open.set(pair, true));
        open.pairs = pairs;
        open
    }

    fn place(&self, pair: &Pair) -> usize {
        let [a, b] = pair.map(|(axis, choice)| self.starts[axis] + choice);
        a * self.choices + b
    }

    fn set(&mut self, pair: &Pair, open: bool) {
        let place = self.place(pair);
        self.flags[place] = open;
    }

    fn gain(&self, combination: &[usize]) -> usize {
        pairs(combination).filter(|pair| self.flags[self.place(pair)]).count()
    }

    fn close(&mut self, closed: impl Iterator<Item = Pair>) {
        closed.for_each(|pair| self.set(&pair, false));
        let pairs = std::mem::take(&mut self.pairs);
        self.pairs = pairs.into_iter().filter(|pair| self.flags[self.place(pair)]).collect();
    }
}

/// The combinations, and the pairs that `fits` allows in none.
pub fn cover(axes: &[Axis], fits: impl Fn(&[usize]) -> bool, seed: u64) -> (Vec<Combination>, Vec<Pair>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut open = Open::new(axes);
    let (mut chosen, mut impossible) = (Vec::new(), Vec::new());
    while let Some(&pair) = open.pairs.choose(&mut rng) {
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
        match candidates.into_iter().max_by_key(|combination| open.gain(combination)) {
            Some(best) => {
                open.close(pairs(&best));
                chosen.push(best);
            }
            None => {
                open.close([pair].into_iter());
                impossible.push(pair);
            }
        }
    }
    (chosen, impossible)
}
