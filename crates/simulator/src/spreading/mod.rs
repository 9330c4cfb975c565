//! Conversations over three targets with unequal pools: the choice of the spread layer beside
//! random, weighted, least busy and sticky ones.

mod load;
mod report;
mod run;
mod server;
mod strategy;
#[cfg(test)]
mod tests;

use self::{
    load::conversations,
    run::{SpreadTally, run},
    server::Row,
    strategy::STRATEGIES,
};
use crate::{
    options::Options,
    runner::in_parallel,
    units::{HOUR, MINUTE},
};

/// The runs of all strategies in one row, for each seed.
#[derive(Clone, Debug)]
struct RowResult {
    row: Row,
    /// For each seed, in the order of [`STRATEGIES`].
    seeds: Vec<Vec<SpreadTally>>,
}

/// The results of all rows of the spread.
#[derive(Clone, Debug)]
pub struct SpreadTable {
    results: Vec<RowResult>,
    seeds: Vec<u64>,
    quick: bool,
}

/// Runs the selected rows with all strategies on two threads.
///
/// # Errors
///
/// Returns a message for an unknown row id, and for a trace, which these rows do not replay.
pub fn spread_table(options: &Options) -> Result<SpreadTable, String> {
    if options.trace.is_some() {
        return Err("spread rows replay no trace".to_owned());
    }
    let rows: Vec<Row> = Row::ALL
        .into_iter()
        .filter(|row| options.wants(row.id()))
        .collect();
    if rows.is_empty() {
        let id = options.only.as_deref().unwrap_or_default();
        return Err(format!("no row has the id {id:?}"));
    }
    let seeds: Vec<u64> = options.seeds().collect();
    let end = if options.quick { 30 * MINUTE } else { 2 * HOUR };
    let tasks = rows.iter();
    let tasks = tasks.flat_map(|row| seeds.iter().map(move |seed| (*row, *seed)));
    let tasks: Vec<(Row, u64)> = tasks.collect();
    let done = in_parallel(&tasks, |(row, seed)| {
        let conversations = conversations(*seed, end);
        STRATEGIES.map(|kind| run(&conversations, *row, kind, *seed, end))
    });
    let mut done = done.into_iter().map(Vec::from);
    let results = rows.into_iter().map(|row| RowResult {
        row,
        seeds: done.by_ref().take(seeds.len()).collect(),
    });
    Ok(SpreadTable {
        results: results.collect(),
        seeds,
        quick: options.quick,
    })
}
