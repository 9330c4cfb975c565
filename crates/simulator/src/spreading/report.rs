//! The table of the spread, as text and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    RowResult, SpreadTable,
    run::SpreadTally,
    strategy::{STRATEGIES, StrategyKind},
};
use crate::report::aligned;

/// The assumptions of all figures.
const ASSUMPTIONS: &str = "\
The model: three targets that keep the documented rules of limits and prompt caches (this project's fake Claude API),
each with a pool and a cache of its own, and one process. The conversations are invented. What the table proves it
proves about this model, not about the clouds.
  targets     Claude API 300k input tokens a minute, with headers and retry-after; a region of Bedrock 200k, 10 % dearer;
              Vertex 100k; the latter two name no wait and no level; output a fifth; each account is one of its own
  S2          the Claude API answers 529 for 6 minutes, the region of Bedrock has a quarter of its pool for 10
  calls       conversations at random (Poisson, one in 7 s), 70 % agents with 16 turns on average that follow each other
              within seconds, 30 % chats with pauses of minutes; prompts of 5k tokens and more, all marked for 5 minutes
  bound       40 % of the conversations have thinking that is bound to the account of its first answer
  answers     first content after 0.4 s + Exp(0.3 s) + 1 s for 25,000 tokens that are not read, then 80 tokens/s
  failures    each strategy tries another target at once, at most 5 attempts, after all have failed with a backoff; the
              others leave a target out for 5 s after a failure, or for the wait that it asks for
  sticky      stays where the longest prefix was served in the last 5 minutes, else by weight
  ours        the choice of the spread layer with its default settings, which knows no limit at first and estimates
              tokens with an error of up to 20 %
Cost is the price of all answers divided by their price without a cache at 100 %. The time is that to the first content.
A figure is the worst of all seeds. In each seed, ours must cost less than random and weighted, get no more 429s than
either of them, and move no conversation with bound thinking to another account.
";

/// A figure of one run.
struct Figure {
    name: &'static str,
    of: fn(&SpreadTally) -> f64,
    digits: usize,
    /// True if the least value is the worst.
    is_more_better: bool,
}

const FIGURES: [Figure; 7] = [
    Figure {
        name: "cost",
        of: SpreadTally::cost,
        digits: 3,
        is_more_better: false,
    },
    Figure {
        name: "429 per 1,000",
        of: SpreadTally::limited_share,
        digits: 1,
        is_more_better: false,
    },
    Figure {
        name: "p99 s",
        of: SpreadTally::p99,
        digits: 2,
        is_more_better: false,
    },
    Figure {
        name: "cache reads",
        of: SpreadTally::read_share,
        digits: 3,
        is_more_better: true,
    },
    Figure {
        name: "broken",
        of: |tally| tally.broken as f64,
        digits: 0,
        is_more_better: false,
    },
    Figure {
        name: "failed per 1,000",
        of: SpreadTally::failed_share,
        digits: 1,
        is_more_better: false,
    },
    Figure {
        name: "answered",
        of: |tally| tally.answered as f64,
        digits: 0,
        is_more_better: true,
    },
];

impl Figure {
    fn worst(&self, tallies: impl Iterator<Item = f64>) -> f64 {
        if self.is_more_better {
            tallies.fold(f64::INFINITY, f64::min)
        } else {
            tallies.fold(0.0, f64::max)
        }
    }

    /// Returns the goal of ours in one seed: the greatest value that meets it.
    fn goal(&self, seed: &[SpreadTally]) -> Option<f64> {
        let of = |kind: StrategyKind| {
            let at = STRATEGIES.iter().position(|it| *it == kind)?;
            seed.get(at).map(self.of)
        };
        match self.name {
            "cost" | "429 per 1,000" => {
                Some(of(StrategyKind::Random)?.min(of(StrategyKind::Weighted)?))
            }
            "broken" => Some(0.0),
            _ => None,
        }
    }

    /// Returns true if a value meets the goal. A cost must be less.
    fn meets(&self, value: f64, goal: f64) -> bool {
        match self.name {
            "cost" => value < goal,
            _ => value <= goal,
        }
    }
}

impl RowResult {
    fn tallies(&self, strategy: usize) -> impl Iterator<Item = &SpreadTally> {
        self.seeds.iter().filter_map(move |seed| seed.get(strategy))
    }

    fn worst(&self, strategy: usize, figure: &Figure) -> f64 {
        figure.worst(self.tallies(strategy).map(figure.of))
    }

    /// Returns the tightest goal of all seeds, and true if it is met in each of them.
    fn goal(&self, strategy: usize, figure: &Figure) -> Option<(f64, bool)> {
        if STRATEGIES[strategy] != StrategyKind::Ours {
            return None;
        }
        let goals = self.seeds.iter().map(|seed| {
            let goal = figure.goal(seed)?;
            let value = seed.get(strategy).map(figure.of)?;
            Some((goal, figure.meets(value, goal)))
        });
        goals.reduce(|a, b| {
            let ((a, first), (b, second)) = (a?, b?);
            Some((a.min(b), first && second))
        })?
    }
}

impl SpreadTable {
    /// Returns the table as aligned text, with the assumptions and the goals.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{ASSUMPTIONS}  seeds       {:?}", self.seeds);
        if let Some(first) = self.seeds.first() {
            let count = self.seeds.len();
            let _ = writeln!(text, ", again with --seed {first} --seeds {count}");
        }
        if self.quick {
            text.push_str(
                "  quick       30 minutes instead of two hours, so figures are noisier\n",
            );
        }
        for result in &self.results {
            let _ = writeln!(text, "\n{} {}", result.row.id(), result.row.title());
            let mut head = vec![String::new()];
            head.extend(FIGURES.iter().map(|figure| figure.name.to_owned()));
            head.push(String::new());
            let mut grid = vec![head];
            for (strategy, kind) in STRATEGIES.iter().enumerate() {
                let mut line = vec![kind.name().to_owned()];
                let mut verdict = "";
                for figure in &FIGURES {
                    let value = result.worst(strategy, figure);
                    let digits = figure.digits;
                    let mut cell = format!("{value:.digits$}");
                    if let Some((goal, pass)) = result.goal(strategy, figure) {
                        let sign = if figure.name == "cost" { "<" } else { "<=" };
                        let mark = if pass { "" } else { "! " };
                        cell = format!("{mark}{cell} ({sign} {goal:.digits$})");
                        verdict = match (verdict, pass) {
                            ("FALL SHORT", _) | (_, false) => "FALL SHORT",
                            _ => "PASS",
                        };
                    }
                    line.push(cell);
                }
                line.push(verdict.to_owned());
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
            for (strategy, kind) in STRATEGIES.iter().enumerate() {
                for figure in &FIGURES {
                    let goal = result.goal(strategy, figure);
                    all.push(json!({
                        "id": result.row.id(),
                        "scenario": result.row.title(),
                        "strategy": kind.name(),
                        "metric": figure.name,
                        "value": result.worst(strategy, figure),
                        "goal": goal.map(|(goal, _)| format!("<= {goal}")),
                        "pass": goal.map(|(_, pass)| pass),
                    }));
                }
            }
        }
        Value::Array(all).to_string()
    }

    /// Returns true if every figure with a goal meets it in every seed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.results.iter().all(|result| {
            (0..STRATEGIES.len()).all(|strategy| {
                let goals = FIGURES.iter().map(|it| result.goal(strategy, it));
                goals.flatten().all(|(_, pass)| pass)
            })
        })
    }
}
