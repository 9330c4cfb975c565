//! Calls that can wait: the scheduler of the batch layer beside a fixed window and a fixed size.

mod load;
mod ours;
mod plain;

use std::{fmt::Write as _, thread};

use serde_json::{Value, json};

use self::{
    load::{DAY, LOADS, Load, MINUTE, Tally},
    plain::Flush,
};
use crate::{
    options::Options,
    random::{Purpose, stream},
};

/// The assumptions of all figures.
const ASSUMPTIONS: &str = "\
The model: a server that processes batches, and calls that arrive at random (Poisson) and say how long they can wait.
Virtual time, fixed seeds. What it proves it proves about this model, not about the API.
  cost        lognormal for each call (sigma 1); a call of a batch costs half, one that fails or is cancelled nothing
  batches     B1-B4: lognormal, mean 8 min (sigma 0.9), 1 % take 2-12 h; at least a minute; 0.5 % of the calls fail
              B5: mean 60 min (sigma 0.7), 5 % take 2-12 h; 1 % of the calls fail
  live        an ordinary call takes Exp(20 s), at most 110 s
  ours        the layer's scheduler with its default settings, which knows no latency at first
  window      a batch every 10 minutes, polled every minute, and waited for; what fails is sent again
  size        a batch of 100 calls, likewise
  live        every call is sent at once
  measured    two days, from the first call on
A figure is the worst of all seeds. Missed deadlines are those of calls for which an ordinary call would have been
in time. Saved is the part of the cost that all calls as ordinary ones would have.
";

/// The share of the calls that batches must answer, in percent.
const LEAST_BATCHED: f64 = 90.0;

#[derive(Clone, Copy, Debug)]
enum Strategy {
    Ours,
    Plain(&'static str, Flush),
}

const STRATEGIES: [Strategy; 4] = [
    Strategy::Ours,
    Strategy::Plain("window 10 min", Flush::Window(10.0 * MINUTE)),
    Strategy::Plain("size 100", Flush::Size(100)),
    Strategy::Plain("live", Flush::Never),
];

impl Strategy {
    const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Plain(name, _) => name,
        }
    }

    fn run(self, load: &Load, seed: u64, time: f64) -> Tally {
        let calls = load.calls(&mut stream(seed, Purpose::Arrivals, 0), time);
        let mut rng = stream(seed, Purpose::Network, 0);
        match self {
            Self::Ours => ours::run(load, &calls, seed, &mut rng),
            Self::Plain(_, flush) => plain::run(load, flush, &calls, &mut rng),
        }
    }
}

/// The figures of one strategy under one load, each the worst of all seeds.
#[derive(Clone, Copy, Debug)]
struct BatchLine {
    load: &'static Load,
    strategy: Strategy,
    /// In percent.
    batched: f64,
    missed: usize,
    /// In percent.
    saved: f64,
    /// Calls billed twice, per 1,000.
    twice: f64,
    /// Calls of a batch, on average.
    size: f64,
}

impl BatchLine {
    fn of(load: &'static Load, strategy: Strategy, tallies: &[Tally]) -> Self {
        let least =
            |value: fn(&Tally) -> f64| tallies.iter().map(value).fold(f64::INFINITY, f64::min);
        let most = |value: fn(&Tally) -> f64| tallies.iter().map(value).fold(0.0, f64::max);
        Self {
            load,
            strategy,
            batched: least(|tally| 100.0 * tally.batched as f64 / tally.calls as f64),
            missed: tallies.iter().map(|tally| tally.missed).max().unwrap_or(0),
            saved: least(|tally| 100.0 * (1.0 - tally.paid / tally.full)),
            twice: most(|tally| 1_000.0 * tally.twice as f64 / tally.calls as f64),
            size: least(|tally| match tally.batches {
                0 => 0.0,
                batches => tally.calls as f64 / batches as f64,
            }),
        }
    }

    const fn has_goals(&self) -> bool {
        matches!(self.strategy, Strategy::Ours)
    }

    fn passed(&self) -> bool {
        !self.has_goals() || self.batched >= LEAST_BATCHED && self.missed == 0
    }
}

/// The results of all batch rows.
#[derive(Clone, Debug)]
pub struct BatchTable {
    lines: Vec<BatchLine>,
    seeds: Vec<u64>,
    quick: bool,
}

/// Runs the selected batch rows, each on a thread of its own.
///
/// # Errors
///
/// Returns a message for an unknown row id, and for a trace, which these rows do not replay.
pub fn batch_table(options: &Options) -> Result<BatchTable, String> {
    if options.trace.is_some() {
        return Err("batch rows replay no trace".to_owned());
    }
    let loads: Vec<&'static Load> = LOADS.iter().filter(|load| options.wants(load.id)).collect();
    if loads.is_empty() {
        let id = options.only.as_deref().unwrap_or_default();
        return Err(format!("no row has the id {id:?}"));
    }
    let seeds: Vec<u64> = options.seeds().collect();
    let time = if options.quick { DAY / 3.0 } else { 2.0 * DAY };
    let strategies = STRATEGIES
        .iter()
        .filter(|strategy| !options.ours || matches!(strategy, Strategy::Ours));
    let strategies: Vec<Strategy> = strategies.copied().collect();
    let run = |load: &'static Load| -> Vec<BatchLine> {
        let line = |strategy: &Strategy| {
            let tallies = seeds.iter().map(|seed| strategy.run(load, *seed, time));
            BatchLine::of(load, *strategy, &tallies.collect::<Vec<_>>())
        };
        strategies.iter().map(line).collect()
    };
    let lines = thread::scope(|scope| {
        let rows: Vec<_> = loads.iter().map(|load| scope.spawn(|| run(load))).collect();
        let rows = rows
            .into_iter()
            .map(|row| row.join().map_err(|_| "a run has panicked"));
        rows.collect::<Result<Vec<_>, _>>()
    })?;
    Ok(BatchTable {
        lines: lines.into_iter().flatten().collect(),
        seeds,
        quick: options.quick,
    })
}

impl BatchTable {
    /// Returns the table as aligned text, with the assumptions and the goals.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{ASSUMPTIONS}  seeds       {:?}", self.seeds);
        if let Some(first) = self.seeds.first() {
            let count = self.seeds.len();
            let _ = writeln!(text, ", again with --seed {first} --seeds {count}");
        }
        if self.quick {
            text.push_str("  quick       eight hours, so figures are noisier\n");
        }
        let mut last = "";
        for line in &self.lines {
            if line.load.id != last {
                last = line.load.id;
                let _ = writeln!(text, "\n{} {}", line.load.id, line.load.title);
                let _ = writeln!(
                    text,
                    "  {:<14}  {:>18}  {:>14}  {:>8}  {:>15}  {:>15}",
                    "", "batched %", "missed", "saved %", "twice per 1,000", "calls per batch"
                );
            }
            let (batched, missed) = match line.has_goals() {
                true => (
                    format!("{:.1} (>= {LEAST_BATCHED})", line.batched),
                    format!("{} (<= 0)", line.missed),
                ),
                false => (format!("{:.1}", line.batched), line.missed.to_string()),
            };
            let verdict = match (line.has_goals(), line.passed()) {
                (false, _) => "",
                (true, true) => "PASS",
                (true, false) => "FALL SHORT",
            };
            let row = format!(
                "  {:<14}  {batched:>18}  {missed:>14}  {:>8.1}  {:>15.1}  {:>15.1}  {verdict}",
                line.strategy.name(),
                line.saved,
                line.twice,
                line.size,
            );
            text.push_str(row.trim_end());
            text.push('\n');
        }
        text
    }

    /// Returns the figures as a JSON array of objects with `id, scenario, strategy, metric, value,
    /// goal, pass`. `goal` and `pass` are null for a figure without a goal.
    #[must_use]
    pub fn json(&self) -> String {
        let mut all = Vec::new();
        for line in &self.lines {
            let mut add = |metric: &str, value: f64, goal: Option<(String, bool)>| {
                let goal = goal.filter(|_| line.has_goals());
                all.push(json!({
                    "id": line.load.id,
                    "scenario": line.load.title,
                    "strategy": line.strategy.name(),
                    "metric": metric,
                    "value": value,
                    "goal": goal.as_ref().map(|(text, _)| text.clone()),
                    "pass": goal.map(|(_, pass)| pass),
                }));
            };
            let goal = (format!(">= {LEAST_BATCHED}"), line.batched >= LEAST_BATCHED);
            add("batched %", line.batched, Some(goal));
            let goal = ("<= 0".to_owned(), line.missed == 0);
            add("missed", line.missed as f64, Some(goal));
            add("saved %", line.saved, None);
            add("twice per 1,000", line.twice, None);
            add("calls per batch", line.size, None);
        }
        Value::Array(all).to_string()
    }

    /// Returns true if every figure with a goal meets it.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.lines.iter().all(BatchLine::passed)
    }

    /// Draws the saved part of the cost and the missed deadlines of each line, as an SVG document.
    #[must_use]
    pub fn picture(&self) -> String {
        const ROW: usize = 26;
        const LEFT: usize = 150;
        let loads = self.lines.iter().filter(|line| line.has_goals()).count();
        let height = 70 + self.lines.len() * ROW + loads * 34;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 900 {height}\" width=\"900\" \
             height=\"{height}\" font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#222\">\n\
             <rect width=\"900\" height=\"{height}\" fill=\"#fff\"/>\n\
             <text x=\"20\" y=\"30\" font-size=\"18\" font-weight=\"600\">Saved by batches, in % of the cost, and missed deadlines</text>\n\
             <text x=\"20\" y=\"50\" fill=\"#666\">Simulated, worst of {} seeds. Half of the cost is the most that batches save.</text>\n",
            self.seeds.len()
        );
        let mut y = 60;
        let mut last = "";
        for line in &self.lines {
            if line.load.id != last {
                last = line.load.id;
                y += 34;
                let _ = writeln!(
                    svg,
                    "<text x=\"20\" y=\"{}\" font-weight=\"600\">{} {}</text>",
                    y - 8,
                    line.load.id,
                    line.load.title
                );
            }
            let width = (line.saved.max(0.0) * 10.0).round();
            let colour = if line.missed == 0 {
                "#2b8a3e"
            } else {
                "#c92a2a"
            };
            let note = match line.missed {
                0 => format!("{:.1} %", line.saved),
                missed => format!("{:.1} %, {missed} missed", line.saved),
            };
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n\
                 <rect x=\"{LEFT}\" y=\"{y}\" width=\"{width}\" height=\"18\" fill=\"{colour}\"/>\n\
                 <text x=\"{}\" y=\"{}\" font-size=\"11\">{note}</text>",
                LEFT - 10,
                y + 14,
                line.strategy.name(),
                LEFT as f64 + width + 6.0,
                y + 13,
            );
            y += ROW;
        }
        svg.push_str("</svg>\n");
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(strategy: Strategy, load: &Load) -> Tally {
        strategy.run(load, 1, DAY / 4.0)
    }

    #[test]
    fn every_call_is_answered_once_and_its_cost_is_known() {
        for load in &LOADS {
            let ours = tally(Strategy::Ours, load);
            assert!(ours.batched <= ours.calls && ours.paid > 0.0);
            let live = tally(STRATEGIES[3], load);
            assert_eq!((live.batched, live.missed, live.calls), (0, 0, ours.calls));
            assert!((live.paid - live.full).abs() < 1e-6 && (live.full - ours.full).abs() < 1e-6);
        }
    }

    #[test]
    fn window_and_size_miss_deadlines_that_ours_keeps() {
        let missed = |index: usize| tally(STRATEGIES[index], &LOADS[0]).missed;
        assert_eq!(missed(0), 0);
        assert!(missed(1) > 0 && missed(2) > 0);
    }

    #[test]
    fn same_seed_gives_the_same_figures() {
        let mut options = Options::default();
        (options.seeds, options.quick) = (1, true);
        let table = batch_table(&options).expect("rows");
        assert_eq!(table.json(), batch_table(&options).expect("rows").json());
        assert!(table.picture().ends_with("</svg>\n"));
        options.only = Some("b9".to_owned());
        assert!(batch_table(&options).is_err());
    }
}
