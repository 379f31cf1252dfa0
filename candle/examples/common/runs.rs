//! Every method on every seed, in parallel, with a progress bar.

use anyhow::{Context, Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::fmt::Debug;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Calls `run` for every method and seed; `[method][seed]`. Every run gets a generator of its seed alone, so that the methods share
/// splits, initial weights and batches, and the numbers do not depend on the number of threads. `run` calls its last argument after each
/// of `epochs` epochs.
pub fn run_all<M: Copy + Debug + Sync, R: Send>(
    methods: &[M],
    seeds: u64,
    epochs: u32,
    run: impl Fn(M, ChaCha8Rng, &dyn Fn()) -> Result<R> + Sync,
) -> Result<Vec<Vec<R>>> {
    let jobs: Vec<(M, u64)> = methods.iter().flat_map(|&method| (0..seeds).map(move |seed| (method, seed))).collect();
    let bar = ProgressBar::new(jobs.len() as u64 * u64::from(epochs));
    bar.set_style(ProgressStyle::with_template("training {wide_bar:.blue} {percent:>3} %, {eta} left")?);
    let taken = AtomicUsize::new(0);
    let take_and_run = || {
        let index = taken.fetch_add(1, Ordering::Relaxed);
        let &(method, seed) = jobs.get(index)?;
        let result = run(method, ChaCha8Rng::seed_from_u64(seed), &|| bar.inc(1));
        Some(result.map(|result| (index, result)).with_context(|| format!("{method:?}, seed {seed}")))
    };
    let work = || -> Result<Vec<(usize, R)>> {
        // The runs fill the cores; what a run would share out among threads stays with it.
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        alone.install(|| std::iter::from_fn(take_and_run).collect())
    };
    let mut results = Vec::with_capacity(jobs.len());
    thread::scope(|scope| {
        let workers = thread::available_parallelism().map_or(1, NonZero::get).min(jobs.len());
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            results.extend(worker.join().map_err(|_| anyhow!("a run panicked"))??);
        }
        anyhow::Ok(())
    })?;
    bar.finish_and_clear();
    results.sort_unstable_by_key(|(index, _)| *index);
    let mut results = results.into_iter().map(|(_, result)| result);
    Ok(methods.iter().map(|_| results.by_ref().take(seeds as usize).collect()).collect())
}
