//! Rows with changed limits, small buckets, faulty clocks, priority classes, and loads below the
//! limit.

use std::{sync::Arc, time::Duration};

use super::{BASELINES, Scenario, ScenarioBuilder, column, others};
use crate::{
    client::StrategyKind,
    metrics::{
        Goal::{self, About, AtLeast, AtMost},
        Metric,
    },
    options::Options,
    setup::ClockFault,
    units::MINUTE,
    workload::{Quota, Source, Trace, When},
};

/// By default interactive requests have eight times the weight of batch requests. If both are
/// saturated, batch gets a ninth.
const BATCH_SHARE: f64 = 100.0 / 9.0;

pub(super) fn changes(quick: bool) -> Vec<Scenario> {
    let scenario = ScenarioBuilder::saturated(1, quick);
    let middle = scenario.base.warm_up + scenario.base.measured / 2;
    let row = |title: &str, told: f64, change: Option<f64>| {
        let mut scenario = scenario.clone();
        scenario.told = told;
        let change = change.map(|factor| (middle, scenario.base.quota.times(factor)));
        scenario.base.changes = change.into_iter().collect();
        Scenario {
            title: format!("one process, saturated, {title}"),
            columns: vec![
                column("R6", Metric::RefusedInAll, Some(AtMost(5.0))),
                column("R6", Metric::Use, Some(AtLeast(99.0))),
                column("R6", Metric::Refused, None),
                column("R6", Metric::Failed, None),
            ],
            lines: scenario.lines(
                StrategyKind::ThisLimiterAlone,
                &others(
                    StrategyKind::ThisLimiterShared,
                    &[StrategyKind::FixedBucket, StrategyKind::AwsAdaptive],
                ),
            ),
        }
    };
    vec![
        row("limits halved midway", 1.0, Some(0.5)),
        row("limits doubled midway", 1.0, Some(2.0)),
        row("told half of the limits", 0.5, None),
        row("told twice the limits", 2.0, None),
    ]
}

pub(super) fn small_burst(quick: bool) -> Scenario {
    let mut scenario = ScenarioBuilder::saturated(4, quick);
    scenario.base.burst = Duration::from_secs(6);
    Scenario {
        title: "4 processes, saturated, buckets hold a tenth of the limit".to_owned(),
        columns: vec![
            column("R7", Metric::Refused, Some(AtMost(100.0))),
            column("R7", Metric::Use, None),
            column("R7", Metric::Jain, None),
            column("R7", Metric::BigAttempts, None),
            column("R7", Metric::Failed, None),
        ],
        lines: scenario.lines(
            StrategyKind::ThisLimiterShared,
            &others(StrategyKind::ThisLimiterAlone, &BASELINES),
        ),
    }
}

pub(super) fn clocks(quick: bool) -> Vec<Scenario> {
    let busy = ScenarioBuilder::saturated(1, quick);
    // With short pauses the buckets become full, so the capacity computed from the timestamps
    // matters.
    let mut resting = busy.clone();
    resting.base.burst = Duration::from_secs(10);
    let rate = Quota::USUAL.per_second() * 1.5;
    resting.clients = vec![vec![Source::batch(When::Bursts(rate))]];
    let day = 24 * 60 * 60;
    let at = busy.base.warm_up + busy.base.measured / 3;
    let row = |(title, fault): (&str, ClockFault), scenario: &ScenarioBuilder, how: &str| {
        let mut scenario = scenario.clone();
        scenario.base.fault = Some((at, fault));
        // Late timestamps imply larger buckets than there are, and small buckets give no evidence
        // against it. This is a known limit of the method, so the row has no goal.
        let fooled =
            fault == ClockFault::Reset(30) && scenario.base.burst < Duration::from_secs(60);
        let goal = |goal: Goal| (!fooled).then_some(goal);
        // A saturated client loses the time of its suspension.
        let stands = matches!(fault, ClockFault::Standstill(_) | ClockFault::ClockStop(_));
        let busy = scenario.base.burst == Duration::from_secs(60);
        let used = AtLeast(99.0);
        Scenario {
            title: format!("one process, {how}, {title}"),
            columns: vec![
                // The goal is about the fault. That the buckets are smaller than the limits that
                // the client was told is learned before, from at most a few 429s.
                column("R27", Metric::RefusedAfterFault, goal(AtMost(1.0))),
                column("R27", Metric::RefusedInAll, None),
                // The longest pause that the limiter can compensate.
                column("R27", Metric::Gap, Some(AtMost(300.0))),
                column(
                    "R27",
                    Metric::UseOfOracle,
                    goal(used).filter(|_| !(stands && busy)),
                ),
            ],
            lines: scenario.lines(
                StrategyKind::ThisLimiterAlone,
                &others(StrategyKind::ThisLimiterShared, &[]),
            ),
        }
    };
    let faults = [
        (
            "the server's clock jumps a day ahead",
            ClockFault::Date(day),
        ),
        (
            "the server's clock jumps a day back",
            ClockFault::Date(-day),
        ),
        ("reset stamps 30 s late", ClockFault::Reset(30)),
        ("reset stamps 30 s early", ClockFault::Reset(-30)),
        (
            "the process stands still for 10 minutes",
            ClockFault::Standstill(10 * MINUTE),
        ),
        (
            "the process and its clock stand still for 10 minutes",
            ClockFault::ClockStop(10 * MINUTE),
        ),
    ];
    let saturated = faults.map(|fault| row(fault, &busy, "saturated"));
    let rests = faults.map(|fault| row(fault, &resting, "bursts and small buckets"));
    saturated.into_iter().chain(rests).collect()
}

pub(super) fn classes(quick: bool) -> Vec<Scenario> {
    let mut light = ScenarioBuilder::saturated(1, quick);
    let rate = Quota::USUAL.per_second() * 0.1;
    light.clients = vec![vec![
        Source::batch(When::Closed(512)),
        Source::interactive(When::Poisson(rate)),
    ]];
    let mut both = ScenarioBuilder::saturated(1, quick);
    both.clients = vec![vec![
        Source::batch(When::Closed(256)),
        Source::interactive(When::Closed(256)),
    ]];
    let columns = |metric, goal| {
        vec![
            column("R28", metric, Some(goal)),
            column("R28", Metric::RefusedInAll, None),
            column("R28", Metric::Use, None),
        ]
    };
    let kinds = others(
        StrategyKind::ThisLimiterShared,
        &[StrategyKind::FixedBucket],
    );
    vec![
        Scenario {
            title: "interactive requests (a tenth of the limit) beside saturated batch".to_owned(),
            columns: [
                columns(Metric::InteractiveWait, AtMost(2.0)),
                vec![column("R28", Metric::InteractiveWaitMean, None)],
            ]
            .concat(),
            lines: light.lines(StrategyKind::ThisLimiterAlone, &kinds),
        },
        Scenario {
            title: "interactive and batch both saturated, weights 8 to 1".to_owned(),
            columns: columns(Metric::BatchShare, About(BATCH_SHARE, BATCH_SHARE * 0.02)),
            lines: both.lines(StrategyKind::ThisLimiterAlone, &kinds),
        },
    ]
}

/// Rows without goals. Below the limit nearly every strategy does well, so these only show that
/// this limiter does too.
pub(super) fn open_loops(options: &Options) -> Result<Vec<Scenario>, String> {
    let row = |title: &str, when: When| {
        let mut scenario = ScenarioBuilder::saturated(4, options.quick);
        scenario.clients = vec![vec![Source::batch(when)]; 4];
        Scenario {
            title: title.to_owned(),
            columns: vec![
                column("open", Metric::Refused, None),
                column("open", Metric::Use, None),
                column("open", Metric::Wait, None),
                column("open", Metric::Failed, None),
            ],
            lines: scenario.lines(
                StrategyKind::ThisLimiterShared,
                &others(StrategyKind::ThisLimiterAlone, &BASELINES),
            ),
        }
    };
    let rate = Quota::USUAL.per_second() / 4.0;
    let mut rows = vec![
        row(
            "4 processes, independent arrivals at 0.9 of the limit",
            When::Poisson(0.9 * rate),
        ),
        row(
            "4 processes, bursts of a minute at 1.8 times the limit, every other minute",
            When::Bursts(1.8 * rate),
        ),
    ];
    if let Some(path) = &options.trace {
        let trace = Arc::new(Trace::read(path)?);
        let mut traced = row("one process, the trace", When::Trace(trace));
        for line in &mut traced.lines {
            line.setup.clients.truncate(1);
        }
        rows.push(traced);
    }
    for line in rows.iter_mut().flat_map(|row| &mut row.lines) {
        line.has_goals = false;
    }
    Ok(rows)
}
