//! The rows of the table.

mod rows;
mod special;

use std::time::Duration;

use crate::{
    client::Kind,
    metrics::{Goal, Metric},
    setup::{Party, Setup, Switches},
    units::{HOUR, MINUTE},
    workload::{Quota, Source, When},
    world::{Tally, World},
};

pub(crate) use rows::all;

/// Four saturated processes for so many minutes, with a picture of every second.
pub(crate) fn sampled(kind: Kind, seed: u64, minutes: u64) -> Tally {
    let mut setup = Scene::saturated(4, true).setup(kind);
    setup.seed = seed;
    setup.sample = minutes * MINUTE;
    setup.measured = (minutes * MINUTE).saturating_sub(setup.warm_up) + 1;
    World::new(setup).run()
}

/// A figure of a row, with its goal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) id: &'static str,
    pub(crate) metric: Metric,
    pub(crate) goal: Option<Goal>,
}

/// A strategy in a row.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) label: String,
    /// Held to the goals.
    pub(crate) held: bool,
    pub(crate) is_oracle: bool,
    pub(crate) setup: Setup,
}

/// A situation that all strategies are put in, with the same seeds.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) title: String,
    pub(crate) columns: Vec<Column>,
    pub(crate) lines: Vec<Line>,
}

/// How a situation is described before a strategy is put into it.
#[derive(Clone, Debug)]
struct Scene {
    base: Setup,
    /// The limits that clients are told, as a multiple of the true ones.
    told: f64,
    /// What each client's requests are.
    clients: Vec<Vec<Source>>,
    /// Somebody else on the key, who never paces.
    outsider: Option<Source>,
    /// Weak strategies run so much shorter.
    shorter: u64,
}

impl Scene {
    /// So many processes that share 512 workers (1,024 from 32 processes on), saturated.
    fn saturated(processes: u32, quick: bool) -> Self {
        let workers = if processes >= 32 { 1_024 } else { 512 };
        let source = Source::batch(When::Closed(workers / processes));
        Self {
            base: Setup {
                seed: 0,
                quota: Quota::USUAL,
                burst: Duration::from_secs(60),
                switches: Switches::default(),
                warm_up: 5 * MINUTE,
                measured: if quick { HOUR / 6 } else { HOUR },
                parties: Vec::new(),
                change: None,
                fault: None,
                estimate_error: 0.03,
                probe: false,
                sample: 0,
            },
            told: 1.0,
            clients: vec![vec![source]; processes as usize],
            outsider: None,
            shorter: 1,
        }
    }

    fn setup(&self, kind: Kind) -> Setup {
        let mut setup = self.base.clone();
        let party = |sources: &Vec<Source>| Party {
            kind,
            told: setup.quota.times(self.told),
            sources: sources.clone(),
            counted: true,
        };
        setup.parties = self.clients.iter().map(party).collect();
        if let Some(outsider) = &self.outsider {
            setup.parties.push(Party {
                // The oracle's door knows no strangers: it serves them in turn.
                kind: if kind == Kind::Oracle {
                    kind
                } else {
                    Kind::SdkDefault
                },
                told: setup.quota,
                sources: vec![outsider.clone()],
                counted: false,
            });
        }
        setup
    }

    fn line(&self, kind: Kind) -> Line {
        let mut setup = self.setup(kind);
        let mut label = kind.name().to_owned();
        let weak = !kind.is_ours() && kind != Kind::Oracle;
        if weak && self.shorter > 1 {
            setup.measured = (setup.measured / self.shorter).max(3 * MINUTE);
            setup.warm_up = 3 * MINUTE;
            label.push_str(&format!(" (1/{} length)", self.shorter));
        }
        Line {
            label,
            held: false,
            is_oracle: kind == Kind::Oracle,
            setup,
        }
    }

    /// The lines of a row: the strategy that is held to the goals, under every switch, then the others.
    fn lines(&self, held: Kind, others: &[Kind]) -> Vec<Line> {
        let mut lines = self.switched(Kind::Ours);
        lines.extend(self.switched(held));
        lines.extend(others.iter().map(|kind| self.line(*kind)));
        lines
    }

    /// One strategy, held to the goals, under every switch.
    fn switched(&self, held: Kind) -> Vec<Line> {
        let mut first = self.line(held);
        first.held = true;
        let mut lines = vec![first.clone()];
        let switched = [
            (true, false, "refused cost RPM"),
            (false, true, "headers at response"),
        ];
        for (refused_cost, at_response, name) in switched {
            let mut line = first.clone();
            line.setup.switches = Switches {
                refused_cost,
                at_response,
            };
            line.label = format!("{} · {name}", held.name());
            if self.shorter > 1 {
                line.setup.measured /= 10;
                line.label.push_str(" (1/10 length)");
            }
            lines.push(line);
        }
        lines
    }
}
