//! A discrete-event simulation of client processes that share one rate limit.
//!
//! Each process paces its requests by a strategy: this project's limiter (the same `Pool` as in
//! `LocalLimiter`), also with a store that all processes share, common strategies of SDKs and
//! gateways, and an oracle with complete knowledge.
//! The server is the accounting of the fake Claude API, behind a network with delays. Time is
//! virtual, so that hours take seconds, and a seed always gives the same run.
//!
//! [`cache_table`] compares strategies that place the markers of the prompt cache: the planner of
//! `tower-claude-prompt-cache`, the automatic marker, and a bound that knows the future.
//!
//! [`batch_table`] runs the scheduler of the batch layer in the same way, beside a fixed window and
//! a fixed size.
//!
//! [`spread_table`] runs the choice of targets of the spread layer over three clouds, beside
//! random, weighted, least busy and sticky ones.
//!
//! ```no_run
//! use tower_claude_simulator::{Options, table};
//!
//! let mut options = Options::default();
//! options.quick = true;
//! options.only = Some("R2".to_owned());
//! let table = table(&options).unwrap();
//! println!("{}", table.text());
//! assert!(table.passed());
//! ```
#![forbid(unsafe_code)]

mod batching;
mod client;
mod event_queue;
mod json;
mod metrics;
mod options;
mod prompt_cache;
mod random;
mod report;
mod runner;
mod scenario;
mod setup;
mod simulation;
mod spreading;
mod svg;
mod units;
mod workload;

#[cfg(test)]
mod tests;

use std::fmt::Write as _;

pub use batching::{BatchTable, batch_table};
pub use options::Options;
pub use prompt_cache::{CacheOptions, CacheTable, cache_table};
pub use spreading::{SpreadTable, spread_table};
pub use svg::picture;

/// The results of all rows of [`table`].
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<report::Row>,
    seeds: Vec<u64>,
    quick: bool,
}

/// Runs the selected rows on two threads.
///
/// # Errors
///
/// Returns a message for a trace that cannot be read, and for an unknown row id.
pub fn table(options: &Options) -> Result<Table, String> {
    let scenarios = scenario::rows::all(options)?;
    if scenarios.is_empty() {
        let id = options.only.as_deref().unwrap_or_default();
        return Err(format!("no row has the id {id:?}"));
    }
    let seeds: Vec<u64> = options.seeds().collect();
    let tallies = runner::run(&scenarios, &seeds);
    Ok(Table {
        rows: report::rows(&scenarios, &tallies),
        seeds,
        quick: options.quick,
    })
}

impl Table {
    /// Returns the table as aligned text, with the assumptions, the meaning of the columns and the
    /// goal of each figure.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}  seeds       {:?}", report::ASSUMPTIONS, self.seeds);
        if let Some(first) = self.seeds.first() {
            let _ = writeln!(
                text,
                ", again with --seed {first} --seeds {}",
                self.seeds.len()
            );
        }
        if self.quick {
            text.push_str("  quick       a sixth of the length, so figures are noisier\n");
        }
        text.push('\n');
        text.push_str(&report::legend(&self.rows));
        for row in &self.rows {
            text.push('\n');
            text.push_str(&report::print(row));
        }
        text
    }

    /// Returns the figures as a JSON array of objects with `id, scenario, strategy, metric, value,
    /// goal, pass`. `goal` and `pass` are null for a figure without a goal.
    #[must_use]
    pub fn json(&self) -> String {
        json::text(&self.rows)
    }

    /// Returns true if every figure with a goal meets it.
    #[must_use]
    pub fn passed(&self) -> bool {
        let lines = self.rows.iter().flat_map(|row| &row.lines);
        let mut cells = lines.flat_map(|line| &line.cells);
        cells.all(|cell| cell.pass() != Some(false))
    }
}
