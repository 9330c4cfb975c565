//! The rows of the table.

pub(crate) mod rows;
mod special;
mod unknown;

use std::time::Duration;

use crate::{
    client::StrategyKind,
    metrics::{Goal, Metric},
    setup::{ClientSpec, Enforcement, HeaderMode, ServerOptions, Setup},
    simulation::{Simulation, Tally},
    units::{HOUR, MINUTE},
    workload::{Quota, Source, When},
};

/// The strategies to compare with.
const BASELINES: [StrategyKind; 6] = [
    StrategyKind::SdkDefault,
    StrategyKind::BackoffForever,
    StrategyKind::FixedBucket,
    StrategyKind::StaticShare,
    StrategyKind::AwsAdaptive,
    StrategyKind::HeaderNaive,
];

/// Runs four saturated processes for `minutes`, with a sample of every second.
pub(crate) fn sampled(kind: StrategyKind, seed: u64, minutes: u64) -> Tally {
    let mut setup = ScenarioBuilder::saturated(4, true).setup(kind);
    setup.seed = seed;
    setup.sample = minutes * MINUTE;
    setup.measured = (minutes * MINUTE).saturating_sub(setup.warm_up) + 1;
    Simulation::new(setup).run()
}

/// A metric of a row, with its goal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) id: &'static str,
    pub(crate) metric: Metric,
    pub(crate) goal: Option<Goal>,
}

fn column(id: &'static str, metric: Metric, goal: Option<Goal>) -> Column {
    Column { id, metric, goal }
}

/// Returns the strategies beside this limiter: the first, the rest and the oracle.
fn others(first: StrategyKind, rest: &[StrategyKind]) -> Vec<StrategyKind> {
    let mut kinds = vec![first];
    kinds.extend(rest);
    kinds.push(StrategyKind::Oracle);
    kinds
}

/// A strategy in a scenario.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) label: String,
    /// True if the goals apply to this strategy.
    pub(crate) has_goals: bool,
    pub(crate) is_oracle: bool,
    pub(crate) setup: Setup,
}

/// A situation in which all strategies run with the same seeds.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) title: String,
    pub(crate) columns: Vec<Column>,
    pub(crate) lines: Vec<Line>,
}

/// A builder for the setups of a scenario, without the strategy.
#[derive(Clone, Debug)]
struct ScenarioBuilder {
    base: Setup,
    /// Configured limits of the clients, as a multiple of the actual ones. 0 for none.
    told: f64,
    /// Request sources of each client.
    clients: Vec<Vec<Source>>,
    /// Requests of a foreign client with the same key, which does not pace.
    outsider: Option<Source>,
    /// Divisor of the duration for weak strategies.
    shorter: u64,
}

impl ScenarioBuilder {
    /// Creates a saturated scenario. The processes share 512 workers, or 1,024 from 32 processes
    /// on.
    fn saturated(processes: u32, quick: bool) -> Self {
        let workers = if processes >= 32 { 1_024 } else { 512 };
        let source = Source::batch(When::Closed(workers / processes));
        Self {
            base: Setup {
                seed: 0,
                quota: Quota::USUAL,
                burst: Duration::from_secs(60),
                switches: ServerOptions::default(),
                warm_up: 5 * MINUTE,
                measured: if quick { HOUR / 6 } else { HOUR },
                clients: Vec::new(),
                scopes: 1,
                changes: Vec::new(),
                enforcement: Enforcement::default(),
                headers: HeaderMode::default(),
                fault: None,
                input: None,
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

    fn setup(&self, kind: StrategyKind) -> Setup {
        let mut setup = self.base.clone();
        let party = |sources: &Vec<Source>| ClientSpec {
            kind,
            told: setup.quota.times(self.told),
            sources: sources.clone(),
            counted: true,
        };
        setup.clients = self.clients.iter().map(party).collect();
        if let Some(outsider) = &self.outsider {
            setup.clients.push(ClientSpec {
                // The oracle's queue has the requests of all clients.
                kind: if kind == StrategyKind::Oracle {
                    kind
                } else {
                    StrategyKind::SdkDefault
                },
                told: setup.quota,
                sources: vec![outsider.clone()],
                counted: false,
            });
        }
        setup
    }

    fn line(&self, kind: StrategyKind) -> Line {
        let mut setup = self.setup(kind);
        let mut label = kind.name().to_owned();
        let weak = !kind.is_this_limiter() && kind != StrategyKind::Oracle;
        if weak && self.shorter > 1 {
            setup.measured = (setup.measured / self.shorter).max(3 * MINUTE);
            setup.warm_up = 3 * MINUTE;
            label.push_str(&format!(" (1/{} length)", self.shorter));
        }
        Line {
            label,
            has_goals: false,
            is_oracle: kind == StrategyKind::Oracle,
            setup,
        }
    }

    /// Returns the lines of a row: the strategy with goals and all server options, then the others.
    fn lines(&self, kind: StrategyKind, others: &[StrategyKind]) -> Vec<Line> {
        let mut lines = self.switched(StrategyKind::ThisLimiter);
        lines.extend(self.switched(kind));
        lines.extend(others.iter().map(|kind| self.line(*kind)));
        lines
    }

    /// Returns the lines of one strategy with goals, for all server options.
    fn switched(&self, kind: StrategyKind) -> Vec<Line> {
        let mut first = self.line(kind);
        first.has_goals = true;
        let mut lines = vec![first.clone()];
        let switched = [
            (true, false, "refused cost RPM"),
            (false, true, "headers at response"),
        ];
        for (refused_cost, at_response, name) in switched {
            let mut line = first.clone();
            line.setup.switches = ServerOptions {
                refused_cost,
                at_response,
            };
            line.label = format!("{} · {name}", kind.name());
            if self.shorter > 1 {
                line.setup.measured /= 10;
                line.label.push_str(" (1/10 length)");
            }
            lines.push(line);
        }
        lines
    }
}
