//! Rows with one process, many processes, and foreign clients.

use super::{BASELINES, Scenario, ScenarioBuilder, column, others, special, unknown};
use crate::{
    client::StrategyKind,
    metrics::{
        Goal::{AtLeast, AtMost},
        Metric,
    },
    options::Options,
    units::HOUR,
    workload::{Quota, Source, When},
};

/// Duration of about a million requests, limited by input.
const LARGE: Quota = Quota([4_000, 7_400_000, 1_500_000]);

/// Returns all selected rows.
pub(crate) fn all(options: &Options) -> Result<Vec<Scenario>, String> {
    let mut rows = vec![alone(options.quick)];
    rows.extend(alone_bound(options.quick));
    rows.extend(many(options.quick));
    rows.extend(stored(options.quick));
    rows.extend(outsiders(options.quick));
    rows.extend(special::changes(options.quick));
    rows.push(special::small_burst(options.quick));
    rows.extend(special::clocks(options.quick));
    rows.extend(special::classes(options.quick));
    rows.extend(unknown::rows(options.quick));
    rows.extend(special::open_loops(options)?);
    rows.retain(|row| row.columns.iter().any(|column| options.wants(column.id)));
    if options.ours {
        for row in &mut rows {
            row.lines.retain(|line| line.has_goals || line.is_oracle);
        }
        rows.retain(|row| row.lines.iter().any(|line| line.has_goals));
    }
    Ok(rows)
}

fn alone(quick: bool) -> Scenario {
    let mut scenario = ScenarioBuilder::saturated(1, quick);
    scenario.base.quota = LARGE;
    scenario.base.measured = if quick { HOUR / 4 } else { 5 * HOUR };
    scenario.base.probe = true;
    scenario.shorter = if quick { 5 } else { 50 };
    // A single process has the complete limit.
    let rest: Vec<StrategyKind> = BASELINES
        .into_iter()
        .filter(|kind| *kind != StrategyKind::StaticShare)
        .collect();
    Scenario {
        title: "one process, saturated, RPM 4000 / ITPM 7.4M / OTPM 1.5M".to_owned(),
        columns: vec![
            column("R1", Metric::RefusedInAll, Some(AtMost(0.0))),
            column("R1", Metric::Refused, None),
            column("R1", Metric::Use, Some(AtLeast(99.0))),
            column("R1", Metric::Answered, None),
            column("R1", Metric::Attempts, None),
            column("R1", Metric::Failed, None),
            column("R26", Metric::DriftInput, Some(AtMost(1_000.0))),
        ],
        lines: scenario.lines(
            StrategyKind::ThisLimiterAlone,
            &others(StrategyKind::ThisLimiterShared, &rest),
        ),
    }
}

/// The drift of the binding limit is checked exactly. A limit that stays full hides the difference.
fn alone_bound(quick: bool) -> Vec<Scenario> {
    let row = |(what, quota, metric, most): (&str, [u64; 3], Metric, f64)| {
        let mut scenario = ScenarioBuilder::saturated(1, quick);
        scenario.base.quota = Quota(quota);
        scenario.base.probe = true;
        Scenario {
            title: format!("one process, saturated, {what}"),
            columns: vec![
                column("R26", metric, Some(AtMost(most))),
                column("R26", Metric::RefusedInAll, Some(AtMost(0.0))),
                column("R26", Metric::Use, Some(AtLeast(99.0))),
            ],
            lines: scenario.lines(
                StrategyKind::ThisLimiterAlone,
                &others(StrategyKind::ThisLimiterShared, &[]),
            ),
        }
    };
    [
        (
            "bound by requests (RPM 150)",
            [150, 450_000, 90_000],
            Metric::DriftRequests,
            1.0,
        ),
        (
            "bound by output (OTPM 60k)",
            [1_000, 450_000, 60_000],
            Metric::DriftOutput,
            1_000.0,
        ),
    ]
    .map(row)
    .into()
}

fn many(quick: bool) -> Vec<Scenario> {
    let columns = |id, most, least: Option<f64>, jain: Option<f64>| {
        let big = (id == "R2").then_some(AtMost(1.05));
        vec![
            column(id, Metric::Refused, Some(AtMost(most))),
            column(id, Metric::Use, least.map(AtLeast)),
            column(id, Metric::Jain, jain.map(AtLeast)),
            column("R8", Metric::BigWait, big),
            column("R8", Metric::Attempts, None),
            column("R8", Metric::BigAttempts, None),
            column(id, Metric::Failed, None),
            column(id, Metric::RefusedBefore, None),
        ]
    };
    let kinds = others(StrategyKind::ThisLimiterAlone, &BASELINES);
    let row = |processes, columns| Scenario {
        title: format!("{processes} processes, no common store, saturated"),
        columns,
        lines: ScenarioBuilder::saturated(processes, quick)
            .lines(StrategyKind::ThisLimiterShared, &kinds),
    };
    let bound = |what: &str, quota: Quota| {
        let mut scenario = ScenarioBuilder::saturated(4, quick);
        scenario.base.quota = quota;
        Scenario {
            title: format!("4 processes, no common store, saturated, {what}"),
            columns: columns("R2", 0.1, Some(99.0), Some(0.99)),
            lines: scenario.lines(StrategyKind::ThisLimiterShared, &kinds),
        }
    };
    let mut skewed = ScenarioBuilder::saturated(4, quick);
    for client in &mut skewed.clients {
        client.clear();
    }
    skewed.clients[0].push(Source::batch(When::Closed(512)));
    vec![
        row(4, columns("R2", 0.1, Some(99.0), Some(0.99))),
        bound("bound by requests (RPM 150)", Quota([150, 450_000, 90_000])),
        bound(
            "bound by output (OTPM 60k)",
            Quota([1_000, 450_000, 60_000]),
        ),
        row(16, columns("R2", 1.0, Some(99.0), Some(0.99))),
        Scenario {
            title: "1 of 4 processes active, saturated".to_owned(),
            columns: vec![
                column("R2", Metric::Refused, Some(AtMost(0.1))),
                column("R2", Metric::Use, Some(AtLeast(99.0))),
                column("R2", Metric::Failed, None),
            ],
            lines: skewed.lines(StrategyKind::ThisLimiterShared, &kinds),
        },
        row(64, columns("R3", 150.0, None, None)),
    ]
}

/// Processes that share their limits through a store.
fn stored(quick: bool) -> Vec<Scenario> {
    let kinds = others(
        StrategyKind::ThisLimiterShared,
        &[StrategyKind::StaticShare],
    );
    let row = |title: String, scenario: ScenarioBuilder| {
        let mut lines = scenario.switched(StrategyKind::Redis);
        lines.extend(kinds.iter().map(|kind| scenario.line(*kind)));
        Scenario {
            title: format!("{title}, through a store, saturated"),
            columns: vec![
                column("R37", Metric::RefusedInAll, Some(AtMost(0.0))),
                column("R37", Metric::Refused, Some(AtMost(0.0))),
                column("R37", Metric::Use, Some(AtLeast(99.0))),
                column("R37", Metric::Jain, Some(AtLeast(0.99))),
                column("R37", Metric::Wait, None),
                column("R37", Metric::Failed, None),
            ],
            lines,
        }
    };
    let mut rows: Vec<Scenario> = [4, 16, 64]
        .map(|processes| {
            let scenario = ScenarioBuilder::saturated(processes, quick);
            row(format!("{processes} processes"), scenario)
        })
        .into();
    // As many workers for each process as with 64 processes on one key. In half an hour a process
    // sends about a hundred requests. In less time, the sizes of the last ones and the level at the
    // end would weigh more than 1 %.
    let mut scenario = ScenarioBuilder::saturated(64, quick);
    scenario.base.measured = scenario.base.measured.min(HOUR / 2);
    scenario.base.scopes = 16;
    let process = scenario.clients[0].clone();
    scenario.clients.resize(1_000, process);
    let title = "1,000 processes over 16 scopes (62 or 63 in each, with a server of its own, the \
                 worst counts), half an hour";
    rows.push(row(title.to_owned(), scenario));
    rows
}

fn outsiders(quick: bool) -> Vec<Scenario> {
    let row = |(processes, share): (u32, f64)| {
        let mut scenario = ScenarioBuilder::saturated(processes, quick);
        let rate = Quota::USUAL.per_second() * share;
        scenario.outsider = Some(Source::batch(When::Poisson(rate)));
        let percent = 100.0 * share;
        let who = if processes == 1 {
            "one process".to_owned()
        } else {
            format!("{processes} processes")
        };
        Scenario {
            title: format!("{who} beside a stranger who takes {percent} %, saturated"),
            columns: vec![
                column("R5", Metric::Refused, Some(AtMost(1.0))),
                column("R5", Metric::Use, Some(AtLeast(99.0))),
                column("R5", Metric::Attempts, None),
                column("R5", Metric::Failed, None),
                column("R5", Metric::RefusedBefore, None),
            ],
            lines: scenario.lines(
                StrategyKind::ThisLimiterShared,
                &others(
                    StrategyKind::ThisLimiterAlone,
                    &[StrategyKind::FixedBucket, StrategyKind::AwsAdaptive],
                ),
            ),
        }
    };
    [(1, 0.2), (1, 0.5), (1, 0.8), (4, 0.5)].map(row).into()
}
