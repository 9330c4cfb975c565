//! Rows with limits that no header tells, servers that are stricter than their headers, and limits
//! of few requests.

use std::time::Duration;

use super::{Scenario, ScenarioBuilder, column};
use crate::{
    client::StrategyKind,
    metrics::{
        Goal::{self, AtLeast, AtMost},
        Metric,
    },
    setup::{Enforcement, HeaderMode},
    units::MINUTE,
    workload::{Quota, Source, When},
};

/// Tokens per minute that no row reaches.
const PLENTY: u64 = 100_000_000;

/// Returns limits on requests only.
fn requests(per_minute: u64) -> Quota {
    Quota([per_minute, PLENTY, PLENTY])
}

pub(super) fn rows(quick: bool) -> Vec<Scenario> {
    let base = |quota: Quota| {
        let mut scenario = ScenarioBuilder::saturated(1, quick);
        scenario.base.quota = quota;
        scenario
    };
    let untold = |quota: Quota| {
        let mut scenario = base(quota);
        scenario.told = 0.0;
        scenario.base.headers = HeaderMode::Silent;
        scenario
    };
    let second = Enforcement::HiddenBucket(Duration::from_secs(1));
    let rated = |id, title: &str, scenario: &ScenarioBuilder, most: f64, least: f64| {
        row(id, title, scenario, Metric::Refused, AtMost(most), least)
    };
    let mut rows = Vec::new();

    for (quota, title) in [
        (requests(300), "300 requests a minute"),
        (Quota::USUAL, "bound by input"),
    ] {
        let title = format!("one process, no headers, no configured limits, {title}, saturated");
        rows.push(rated("R29", &title, &untold(quota), 20.0, 90.0));
    }
    let mut windows = untold(requests(300));
    windows.base.enforcement = Enforcement::FixedWindow;
    let title = "one process, no headers, windows of a minute, 300 requests, saturated";
    rows.push(rated("R29", title, &windows, 20.0, 90.0));
    windows.base.enforcement = Enforcement::SlidingWindow;
    let title = "one process, no headers, a sliding minute, 300 requests, saturated";
    rows.push(rated("R29", title, &windows, 20.0, 90.0));
    let mut told_twice = untold(requests(300));
    told_twice.told = 2.0;
    let title = "one process, no headers, told twice the limit of 300 requests, saturated";
    rows.push(rated("R29", title, &told_twice, 20.0, 90.0));

    for (limit, told) in [(60, 1.0), (60, 0.0), (1_000, 1.0)] {
        let mut strict = base(requests(limit));
        strict.base.enforcement = second;
        strict.told = told;
        let mut title = format!("{limit} a minute enforced each second, headers of a minute");
        if told == 0.0 {
            strict.base.headers = HeaderMode::Silent;
            title = format!("{limit} a minute enforced each second, no headers");
        }
        let title = format!("one process, {title}, saturated");
        rows.push(rated("R30", &title, &strict, 20.0, 90.0));
    }

    for (kind, title) in [
        (Enforcement::FixedWindow, "windows of a minute"),
        (Enforcement::SlidingWindow, "a sliding minute"),
    ] {
        let mut windows = base(requests(300));
        windows.base.enforcement = kind;
        let title = format!("one process, {title} of 300 requests, saturated");
        rows.push(rated("R31", &title, &windows, 20.0, 90.0));
    }

    for silent in [false, true] {
        let mut scenario = if silent {
            untold(requests(300))
        } else {
            base(Quota::USUAL)
        };
        let base = &mut scenario.base;
        let factors = [0.5, 2.0, 0.25, 1.0];
        let times = (1..).map(|number| number * 5 * MINUTE);
        let times = times.take_while(|at| *at < base.warm_up + base.measured);
        let changes = times.zip(factors.into_iter().cycle());
        base.changes = changes
            .map(|(at, factor)| (at, base.quota.times(factor)))
            .collect();
        let title = "one process, limits change every five minutes";
        if !silent {
            rows.push(rated(
                "R32",
                &format!("{title}, saturated"),
                &scenario,
                20.0,
                90.0,
            ));
            continue;
        }
        // Only 429s and their absence show a change, and a raised limit is found slowly. A faster
        // rise costs more 429s where the limit stays.
        let title = format!("{title}, no headers, saturated");
        rows.push(without_goals(rated("R32", &title, &scenario, 0.0, 0.0)));
    }

    for is_silent in [false, true] {
        for limit in [1, 5, 50] {
            let title = format!("one process, {limit} a minute");
            if !is_silent {
                let (title, most) = (format!("{title}, saturated"), AtMost(5.0));
                let scenario = base(requests(limit));
                rows.push(row(
                    "R33",
                    &title,
                    &scenario,
                    Metric::RefusedInAll,
                    most,
                    90.0,
                ));
                continue;
            }
            // A limit that only 429s show cannot be learned from five of them, and a few are many
            // among the successes of a slow one.
            let title = format!("{title}, no headers, saturated");
            let silent = rated("R33", &title, &untold(requests(limit)), 20.0, 90.0);
            rows.push(if limit < 50 {
                without_goals(silent)
            } else {
                silent
            });
        }
    }

    let mut large = base(Quota([1_000, 10_000, 90_000]));
    large.base.input = Some(8_000);
    let title = "one process, requests as large as a bucket, saturated";
    let none = AtMost(5.0);
    rows.push(row("R34", title, &large, Metric::RefusedInAll, none, 90.0));

    let mut nothing = base(requests(300));
    nothing.base.headers = HeaderMode::NothingRemains;
    let title = "one process, headers always show that nothing remains, saturated";
    rows.push(rated("R35", title, &nothing, 20.0, 90.0));

    let mut beside = untold(requests(300));
    beside.outsider = Some(Source::batch(When::Closed(4)));
    let title = "no headers, beside a plain SDK of 4 workers, saturated";
    let mut beside = rated("R36", title, &beside, 0.0, 90.0);
    beside.columns[0].goal = None;
    rows.push(beside);
    rows
}

fn without_goals(mut row: Scenario) -> Scenario {
    for column in &mut row.columns {
        column.goal = None;
    }
    row
}

fn row(
    id: &'static str,
    title: &str,
    scenario: &ScenarioBuilder,
    metric: Metric,
    most: Goal,
    least: f64,
) -> Scenario {
    let mut lines = scenario.switched(StrategyKind::ThisLimiter);
    lines.push(scenario.line(StrategyKind::SdkDefault));
    lines.push(scenario.line(StrategyKind::Oracle));
    Scenario {
        title: title.to_owned(),
        columns: vec![
            column(id, metric, Some(most)),
            column(id, Metric::UseOfOracle, Some(AtLeast(least))),
            column(id, Metric::Use, None),
            column(id, Metric::RefusedBefore, None),
            column(id, Metric::Answered, None),
        ],
        lines,
    }
}
