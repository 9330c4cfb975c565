//! The table of costs, as text and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    CacheTable, LoadResult, SeedResult,
    loads::Load,
    run::CacheTally,
    strategy::{STRATEGIES, StrategyKind},
};
use crate::report::aligned;

/// Assumptions of all figures.
const ASSUMPTIONS: &str = "\
The model: a server that keeps the documented rules of the prompt cache (this project's fake Claude API), and one
process. The loads are invented. What the table proves it proves about this model, not about the API.
  server      a marker reads the longest prefix within 20 positions that an earlier marker has written, an entry is
              readable from the first content of its writer on and lives 5 min or 1 h from each use
  figures     price of all input divided by its price without a cache, the worst of all seeds
  estimates   the planner is given token counts of the blocks that are between 35 % too low and 15 % too high
  fan-out     24 requests within about half a second over a document of 20,000 tokens, at most 40,000: the gate holds
              requests for 3 s, and those whose leader begins later all write
  answers     first content after 0.4 s + Exp(0.2 s) + 1 s for 25,000 tokens that are not read from the cache
  bound       each block bought at the least price by a buyer who knows the future, without the limit of 4 markers
              and without the look-back, so no strategy reaches it
";

/// One figure: the worst of all seeds, with its goal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figure {
    pub(super) metric: &'static str,
    pub(super) value: f64,
    /// The greatest value that meets the goal.
    pub(super) goal: Option<f64>,
}

impl Figure {
    fn pass(&self) -> Option<bool> {
        self.goal.map(|goal| self.value <= goal)
    }

    fn text(&self) -> String {
        let value = match self.metric {
            "limit_tokens_per_minute" => format!("{:.0}k", self.value / 1_000.0),
            "wait_s" => format!("{:.2}", self.value),
            _ => format!("{:.3}", self.value),
        };
        match (self.goal, self.pass()) {
            (Some(goal), Some(pass)) => {
                format!("{}{value} (<= {goal:.2})", if pass { "" } else { "! " })
            }
            _ => value,
        }
    }
}

impl LoadResult {
    fn worst(&self, figure: impl Fn(&SeedResult) -> f64) -> f64 {
        self.seeds.iter().map(figure).fold(0.0, f64::max)
    }

    fn tally(&self, kind: StrategyKind, figure: impl Fn(&CacheTally) -> f64) -> f64 {
        let index = STRATEGIES.iter().position(|other| *other == kind);
        self.worst(|seed| {
            let tally = index.and_then(|index| seed.tallies.get(index));
            tally.map_or(0.0, &figure)
        })
    }

    /// Returns the worst cost of a strategy.
    pub(super) fn cost(&self, table: &CacheTable, kind: StrategyKind) -> f64 {
        self.tally(kind, |tally| tally.cost(&table.prices))
    }

    /// Returns the figures of a strategy.
    pub(super) fn figures(&self, table: &CacheTable, kind: StrategyKind) -> Vec<Figure> {
        let is_ours = matches!(kind, StrategyKind::Ours | StrategyKind::OursWithGate);
        let most = match self.load {
            Load::OneShot | Load::Stamped => 1.01,
            _ => 1.02,
        };
        let mut figures = vec![Figure {
            metric: "cost",
            value: self.cost(table, kind),
            goal: is_ours.then_some(most),
        }];
        let mut add = |metric, value, goal| {
            figures.push(Figure {
                metric,
                value,
                goal,
            });
        };
        if kind == StrategyKind::OursWithGate {
            // Cheaper reads make the bound smaller, and more stores the cost greater. These goals
            // are for the usual price and one store.
            let goal = match self.load {
                Load::Agents => Some(1.03),
                Load::FanOut => Some(1.08),
                Load::Mix => Some(1.40),
                _ => None,
            };
            let goal = goal.filter(|_| table.prices.read >= 0.1 && table.prices.stores == 1);
            let index = STRATEGIES.iter().position(|other| *other == kind);
            let of_bound = self.worst(|seed| {
                let tally = index.and_then(|index| seed.tallies.get(index));
                tally.map_or(0.0, |tally| tally.cost(&table.prices)) / seed.bound
            });
            add("cost_of_bound", of_bound, goal);
        }
        if self.load == Load::FanOut {
            add(
                "limit_share",
                self.tally(kind, CacheTally::counted_share),
                None,
            );
            let peak = |tally: &CacheTally| tally.peak() as f64;
            add("limit_tokens_per_minute", self.tally(kind, peak), None);
        }
        if kind == StrategyKind::OursWithGate {
            add("wait_s", self.tally(kind, CacheTally::mean_wait), None);
            let share =
                |tally: &CacheTally| tally.waits.len() as f64 / tally.requests.max(1) as f64;
            add("waiting_share", self.tally(kind, share), None);
        }
        figures
    }

    pub(super) fn bound(&self) -> f64 {
        self.worst(|seed| seed.bound)
    }
}

impl CacheTable {
    /// Returns the table as aligned text, with the assumptions and the goal of each figure.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{ASSUMPTIONS}  seeds       {:?}", self.seeds);
        if let Some(first) = self.seeds.first() {
            let seeds = self.seeds.len();
            let _ = writeln!(text, ", again with --seed {first} --seeds {seeds}");
        }
        let length = if self.quick {
            "40 minutes, so figures are noisier"
        } else {
            "4 hours"
        };
        let prices = &self.prices;
        let _ = writeln!(
            text,
            "  prices      read {}, write {} for 5 min and {} for 1 h; least prefix {} tokens; {length}; stores: {}\n",
            prices.read, prices.write_5m, prices.write_1h, prices.least_tokens, prices.stores
        );
        let mut head = vec![format!("cost, r = {}", prices.read)];
        head.extend(STRATEGIES.map(|kind| kind.name().to_owned()));
        head.extend(["bound".to_owned(), "ours / bound".to_owned(), String::new()]);
        let mut grid = vec![head];
        for result in &self.results {
            let mut line = vec![format!("{}  {}", result.load.id(), result.load.name())];
            let figures = STRATEGIES.map(|kind| result.figures(self, kind));
            line.extend(figures.iter().map(|figures| figures[0].text()));
            line.push(format!("{:.3}", result.bound()));
            let last = figures.last().and_then(|figures| figures.get(1));
            line.push(last.map_or(String::new(), Figure::text));
            let falls_short = figures.iter().flatten().any(|it| it.pass() == Some(false));
            line.push(if falls_short { "FALL SHORT" } else { "PASS" }.to_owned());
            grid.push(line);
        }
        text.push_str(&aligned(&grid));
        if let Some(result) = self.results.iter().find(|it| it.load == Load::FanOut) {
            text.push_str(
                "\nThe fan-out and the input limit, to which reads do not count: the share of the input that counts, the\n\
                 most tokens of a minute, the share of the requests that wait and their mean wait in seconds\n",
            );
            let names = ["share", "tokens a minute", "waiting", "wait"];
            let mut grid = vec![vec![String::new()]];
            grid[0].extend(names.map(str::to_owned));
            for kind in STRATEGIES {
                let figures = result.figures(self, kind);
                let shown = [
                    "limit_share",
                    "limit_tokens_per_minute",
                    "waiting_share",
                    "wait_s",
                ];
                let mut line = vec![kind.name().to_owned()];
                line.extend(shown.map(|metric| {
                    let found = figures.iter().find(|figure| figure.metric == metric);
                    found.map_or("-".to_owned(), Figure::text)
                }));
                grid.push(line);
            }
            text.push_str(&aligned(&grid));
        }
        text
    }

    /// Returns the figures as a JSON array of objects with `id, scenario, strategy, metric, value,
    /// goal, pass`. `goal` and `pass` are null for a figure without a goal.
    #[must_use]
    pub fn json(&self) -> String {
        let mut all = Vec::new();
        for result in &self.results {
            let value = |strategy: &str, figure: &Figure| {
                json!({
                    "id": result.load.id(),
                    "scenario": result.load.name(),
                    "strategy": strategy,
                    "metric": figure.metric,
                    "value": figure.value,
                    "goal": figure.goal.map(|goal| format!("<= {goal}")),
                    "pass": figure.pass(),
                })
            };
            for kind in STRATEGIES {
                let figures = result.figures(self, kind);
                all.extend(figures.iter().map(|figure| value(kind.name(), figure)));
            }
            let bound = Figure {
                metric: "cost",
                value: result.bound(),
                goal: None,
            };
            all.push(value("bound", &bound));
        }
        Value::Array(all).to_string()
    }

    /// Returns true if every figure with a goal meets it.
    #[must_use]
    pub fn passed(&self) -> bool {
        let figures = |result: &LoadResult| {
            let figures = STRATEGIES.map(|kind| result.figures(self, kind));
            figures.iter().flatten().all(|it| it.pass() != Some(false))
        };
        self.results.iter().all(figures)
    }
}
