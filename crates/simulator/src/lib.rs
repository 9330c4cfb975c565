//! A discrete-event simulation of client processes that share one rate limit.
//!
//! Each process paces itself by a strategy: this project's limiter (the very `Pool` that
//! `LocalLimiter` drives), what SDKs and gateways commonly do, and an oracle that knows everything.
//! They talk to the fake Claude API's own accounting over a network with delays, in virtual time, so
//! that hours pass in seconds and a seed gives the same run again.
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

mod client;
mod engine;
mod json;
mod metrics;
mod options;
mod random;
mod report;
mod runner;
mod scenario;
mod setup;
mod svg;
mod units;
mod workload;
mod world;

#[cfg(test)]
mod tests;

pub use options::Options;
pub use svg::picture;

/// All figures of all rows.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<report::Row>,
    seeds: Vec<u64>,
    quick: bool,
}

/// Runs the rows that are wanted, on two threads.
///
/// # Errors
///
/// A trace that cannot be read, or an id that no row has.
pub fn table(options: &Options) -> Result<Table, String> {
    let scenarios = scenario::all(options)?;
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
    /// The table as aligned text, with the assumptions, the goal beside each figure and a verdict.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}  seeds       {:?}\n", report::ASSUMPTIONS, self.seeds);
        if self.quick {
            text.push_str("  quick       a sixth of the length, so figures are noisier\n");
        }
        for row in &self.rows {
            text.push('\n');
            text.push_str(&report::print(row));
        }
        text
    }

    /// The figures as a JSON array of objects with `id, scenario, strategy, metric, value, goal, pass`;
    /// `goal` and `pass` are null where a strategy is not held to a goal.
    #[must_use]
    pub fn json(&self) -> String {
        json::text(&self.rows)
    }

    /// Whether every figure that has a goal meets it.
    #[must_use]
    pub fn passed(&self) -> bool {
        let lines = self.rows.iter().flat_map(|row| &row.lines);
        let mut cells = lines.flat_map(|line| &line.cells);
        cells.all(|cell| cell.pass() != Some(false))
    }
}
