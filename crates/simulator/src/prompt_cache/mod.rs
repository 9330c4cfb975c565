//! The cost of input by the strategy that places the markers of the prompt cache.

mod bound;
mod loads;
mod prices;
mod report;
mod run;
mod strategy;
mod svg;
mod traffic;

#[cfg(test)]
mod tests;

use self::{
    loads::{LOADS, Load},
    prices::Prices,
    run::{CacheTally, run},
    strategy::STRATEGIES,
};
use crate::{
    runner::in_parallel,
    units::{HOUR, MINUTE},
};

/// Options of a run of the prompt cache. [`Default`] is the whole table.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CacheOptions {
    /// The first seed. Default 1.
    pub seed: u64,
    /// Number of seeds, at least one. Default 4.
    pub seeds: u64,
    /// Runs 40 minutes instead of four hours, with noisier figures. Default false.
    pub quick: bool,
    /// Id of the load to run (`C1`). Default all.
    pub only: Option<String>,
    /// The price of a cache read, as a multiple of plain input from 0 to 1. Default 0.1.
    pub read: f64,
    /// Number of stores of the server's cache, of which each request uses a random one. Default 1.
    /// With more, a request misses what was written a second ago.
    pub stores: usize,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            seeds: 4,
            quick: false,
            only: None,
            read: 0.1,
            stores: 1,
        }
    }
}

/// The results of one load: the runs of all strategies and the bound, for each seed.
#[derive(Clone, Debug)]
struct LoadResult {
    load: Load,
    seeds: Vec<SeedResult>,
}

#[derive(Clone, Debug, Default)]
struct SeedResult {
    /// In the order of [`STRATEGIES`].
    tallies: Vec<CacheTally>,
    /// The least cost, as a share of the cost without a cache.
    bound: f64,
}

/// The costs of input of all loads and strategies.
#[derive(Clone, Debug)]
pub struct CacheTable {
    results: Vec<LoadResult>,
    seeds: Vec<u64>,
    prices: Prices,
    quick: bool,
}

/// Runs the selected loads with all strategies on two threads.
///
/// # Errors
///
/// Returns a message for an unknown load, for a price that is not between 0 and 1, and if a
/// strategy sends markers that the API rejects.
pub fn cache_table(options: &CacheOptions) -> Result<CacheTable, String> {
    if !(0.0..=1.0).contains(&options.read) {
        return Err(format!("{} is not a price between 0 and 1", options.read));
    }
    let wanted = |load: &Load| {
        let only = options.only.as_ref();
        only.is_none_or(|only| only.eq_ignore_ascii_case(load.id()))
    };
    let loads: Vec<Load> = LOADS.into_iter().filter(wanted).collect();
    if loads.is_empty() {
        let id = options.only.as_deref().unwrap_or_default();
        return Err(format!("no load has the id {id:?}"));
    }
    let seeds = (0..options.seeds.max(1)).map(|index| options.seed.wrapping_add(index));
    let seeds: Vec<u64> = seeds.collect();
    let prices = Prices {
        read: options.read,
        write_5m: 1.25,
        write_1h: 2.0,
        least_tokens: 1_024,
        stores: options.stores,
    };
    let end = if options.quick { 40 * MINUTE } else { 4 * HOUR };
    let tasks = loads.iter().rev();
    let tasks = tasks.flat_map(|load| seeds.iter().map(|seed| (*load, *seed)));
    let tasks: Vec<(Load, u64)> = tasks.collect();
    let mut done = in_parallel(&tasks, |(load, seed)| one(*load, *seed, &prices, end));
    let mut results = Vec::new();
    for load in loads.iter().rev() {
        let rest = done.split_off(seeds.len());
        let seeds = done.into_iter().collect::<Result<Vec<_>, String>>()?;
        results.push(LoadResult { load: *load, seeds });
        done = rest;
    }
    results.reverse();
    Ok(CacheTable {
        results,
        seeds,
        prices,
        quick: options.quick,
    })
}

/// Runs all strategies on one load.
fn one(load: Load, seed: u64, prices: &Prices, end: u64) -> Result<SeedResult, String> {
    let conversations = load.conversations(seed, end);
    let mut result = SeedResult::default();
    for kind in STRATEGIES {
        let tally = run(&conversations, kind, prices, end);
        let tally = tally.map_err(|error| format!("{}: {error}", kind.name()))?;
        result.tallies.push(tally);
    }
    // The requests are those of the run without markers.
    let plain = &result.tallies[0];
    let least = bound::least_cost(&plain.sent, &conversations, prices);
    result.bound = least / plain.total.max(1) as f64;
    for tally in &mut result.tallies {
        tally.sent = Vec::new();
    }
    Ok(result)
}
