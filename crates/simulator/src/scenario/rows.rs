//! R1 to R28, as the issue numbers them.

use std::{sync::Arc, time::Duration};

use super::{Column, Scenario, Scene};
use crate::{
    client::Kind,
    metrics::{
        Goal::{self, About, AtLeast, AtMost},
        Metric,
    },
    options::Options,
    setup::Fault,
    units::{HOUR, MINUTE},
    workload::{Quota, Source, Trace, When},
};

/// Interactive requests weigh four times batch; where both want all they can get, batch gets a fifth.
const BATCH_SHARE: f64 = 20.0;

/// A million requests in about five hours, bound by input.
const LARGE: Quota = Quota([4_000, 7_400_000, 1_500_000]);

const BASELINES: [Kind; 6] = [
    Kind::SdkDefault,
    Kind::BackoffForever,
    Kind::FixedBucket,
    Kind::StaticShare,
    Kind::AwsAdaptive,
    Kind::HeaderNaive,
];

/// All rows that are wanted.
pub(crate) fn all(options: &Options) -> Result<Vec<Scenario>, String> {
    let mut rows = vec![alone(options.quick)];
    rows.extend(many(options.quick));
    rows.extend(outsiders(options.quick));
    rows.extend(changes(options.quick));
    rows.push(small_burst(options.quick));
    rows.extend(clocks(options.quick));
    rows.extend(classes(options.quick));
    rows.extend(open_loops(options)?);
    rows.retain(|row| row.columns.iter().any(|column| options.wants(column.id)));
    Ok(rows)
}

fn column(id: &'static str, metric: Metric, goal: Option<Goal>) -> Column {
    Column { id, metric, goal }
}

fn others(first: Kind, rest: &[Kind]) -> Vec<Kind> {
    let mut kinds = vec![first];
    kinds.extend(rest);
    kinds.push(Kind::Oracle);
    kinds
}

fn alone(quick: bool) -> Scenario {
    let mut scene = Scene::saturated(1, quick);
    scene.base.quota = LARGE;
    scene.base.measured = if quick { HOUR / 4 } else { 5 * HOUR };
    scene.base.probe = true;
    scene.shorter = if quick { 5 } else { 50 };
    // Alone, its share is the whole.
    let rest: Vec<Kind> = BASELINES
        .into_iter()
        .filter(|kind| *kind != Kind::StaticShare)
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
            column("R26", Metric::DriftRequests, Some(AtMost(1.0))),
            column("R26", Metric::DriftInput, Some(AtMost(1_000.0))),
            column("R26", Metric::DriftOutput, Some(AtMost(1_000.0))),
        ],
        lines: scene.lines(Kind::OursAlone, &others(Kind::OursShared, &rest)),
    }
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
    let kinds = others(Kind::OursAlone, &BASELINES);
    let row = |processes, columns| Scenario {
        title: format!("{processes} processes, no common store, saturated"),
        columns,
        lines: Scene::saturated(processes, quick).lines(Kind::OursShared, &kinds),
    };
    let mut skewed = Scene::saturated(4, quick);
    for client in &mut skewed.clients {
        client.clear();
    }
    skewed.clients[0].push(Source::batch(When::Closed(512)));
    vec![
        row(4, columns("R2", 0.1, Some(99.0), Some(0.99))),
        row(16, columns("R2", 1.0, Some(99.0), Some(0.99))),
        Scenario {
            title: "1 of 4 processes active, saturated".to_owned(),
            columns: vec![
                column("R2", Metric::Refused, Some(AtMost(0.1))),
                column("R2", Metric::Use, Some(AtLeast(99.0))),
                column("R2", Metric::Failed, None),
            ],
            lines: skewed.lines(Kind::OursShared, &kinds),
        },
        row(64, columns("R3", 150.0, None, None)),
    ]
}

fn outsiders(quick: bool) -> Vec<Scenario> {
    let row = |(processes, share): (u32, f64)| {
        let mut scene = Scene::saturated(processes, quick);
        let rate = Quota::USUAL.per_second() * share;
        scene.outsider = Some(Source::batch(When::Poisson(rate)));
        let percent = 100.0 * share;
        Scenario {
            title: format!(
                "{processes} process(es) beside a stranger who takes {percent} %, saturated"
            ),
            columns: vec![
                column("R5", Metric::Refused, Some(AtMost(1.0))),
                column("R5", Metric::Use, Some(AtLeast(99.0))),
                column("R5", Metric::Attempts, None),
                column("R5", Metric::Failed, None),
                column("R5", Metric::RefusedBefore, None),
            ],
            lines: scene.lines(
                Kind::OursShared,
                &others(Kind::OursAlone, &[Kind::FixedBucket, Kind::AwsAdaptive]),
            ),
        }
    };
    [(1, 0.2), (1, 0.5), (1, 0.8), (4, 0.5)].map(row).into()
}

fn changes(quick: bool) -> Vec<Scenario> {
    let scene = Scene::saturated(1, quick);
    let middle = scene.base.warm_up + scene.base.measured / 2;
    let row = |title: &str, told: f64, change: Option<f64>| {
        let mut scene = scene.clone();
        scene.told = told;
        scene.base.change = change.map(|factor| (middle, scene.base.quota.times(factor)));
        Scenario {
            title: format!("one process, saturated, {title}"),
            columns: vec![
                column("R6", Metric::RefusedInAll, Some(AtMost(5.0))),
                column("R6", Metric::Use, Some(AtLeast(99.0))),
                column("R6", Metric::Refused, None),
                column("R6", Metric::Failed, None),
            ],
            lines: scene.lines(
                Kind::OursAlone,
                &others(Kind::OursShared, &[Kind::FixedBucket, Kind::AwsAdaptive]),
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

fn small_burst(quick: bool) -> Scenario {
    let mut scene = Scene::saturated(4, quick);
    scene.base.burst = Duration::from_secs(6);
    Scenario {
        title: "4 processes, saturated, buckets hold a tenth of the limit".to_owned(),
        columns: vec![
            column("R7", Metric::Refused, Some(AtMost(100.0))),
            column("R7", Metric::Use, None),
            column("R7", Metric::Jain, None),
            column("R7", Metric::BigAttempts, None),
            column("R7", Metric::Failed, None),
        ],
        lines: scene.lines(Kind::OursShared, &others(Kind::OursAlone, &BASELINES)),
    }
}

fn clocks(quick: bool) -> Vec<Scenario> {
    let scene = Scene::saturated(1, quick);
    let day = 24 * 60 * 60;
    let at = scene.base.warm_up + scene.base.measured / 3;
    let row = |(title, fault): (&str, Fault)| {
        let mut scene = scene.clone();
        scene.base.fault = Some((at, fault));
        Scenario {
            title: format!("one process, saturated, {title}"),
            columns: vec![
                column("R27", Metric::RefusedInAll, Some(AtMost(1.0))),
                // The longest pause that the limiter makes up.
                column("R27", Metric::Gap, Some(AtMost(300.0))),
                column("R27", Metric::Use, None),
            ],
            lines: scene.lines(Kind::OursAlone, &others(Kind::OursShared, &[])),
        }
    };
    [
        ("the server's clock jumps a day ahead", Fault::Date(day)),
        ("the server's clock jumps a day back", Fault::Date(-day)),
        ("reset stamps 30 s late", Fault::Reset(30)),
        ("reset stamps 30 s early", Fault::Reset(-30)),
        (
            "process and its clock stand still for 10 minutes",
            Fault::Standstill(10 * MINUTE),
        ),
    ]
    .map(row)
    .into()
}

fn classes(quick: bool) -> Vec<Scenario> {
    let mut light = Scene::saturated(1, quick);
    let rate = Quota::USUAL.per_second() * 0.1;
    light.clients = vec![vec![
        Source::batch(When::Closed(512)),
        Source::interactive(When::Poisson(rate)),
    ]];
    let mut both = Scene::saturated(1, quick);
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
    let kinds = others(Kind::OursShared, &[Kind::FixedBucket]);
    vec![
        Scenario {
            title: "interactive requests (a tenth of the limit) beside saturated batch".to_owned(),
            columns: columns(Metric::InteractiveWait, AtMost(2.0)),
            lines: light.lines(Kind::OursAlone, &kinds),
        },
        Scenario {
            title: "interactive and batch both saturated, weights 4 to 1".to_owned(),
            columns: columns(Metric::BatchShare, About(BATCH_SHARE, BATCH_SHARE * 0.02)),
            lines: both.lines(Kind::OursAlone, &kinds),
        },
    ]
}

/// Without goals: below the limit nearly every strategy does well, so these only show that ours does.
fn open_loops(options: &Options) -> Result<Vec<Scenario>, String> {
    let row = |title: &str, when: When| {
        let mut scene = Scene::saturated(4, options.quick);
        scene.clients = vec![vec![Source::batch(when)]; 4];
        Scenario {
            title: title.to_owned(),
            columns: vec![
                column("open", Metric::Refused, None),
                column("open", Metric::Use, None),
                column("open", Metric::Wait, None),
                column("open", Metric::Failed, None),
            ],
            lines: scene.lines(Kind::OursShared, &others(Kind::OursAlone, &BASELINES)),
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
            line.setup.parties.truncate(1);
        }
        rows.push(traced);
    }
    for line in rows.iter_mut().flat_map(|row| &mut row.lines) {
        line.held = false;
    }
    Ok(rows)
}
