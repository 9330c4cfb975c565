use std::time::Duration;

use serde_json::Value;

use crate::{
    Options,
    client::StrategyKind,
    event_queue::EventQueue,
    metrics::{Goal, Metric},
    scenario::{self, Column, Line, Scenario},
    setup::{ClientSpec, Enforcement, HeaderMode, ServerOptions, Setup},
    simulation::{Server, Simulation, Tally},
    units::{MINUTE, SECOND},
    workload::{Quota, Source, Trace, When},
};

const KINDS: [StrategyKind; 10] = [
    StrategyKind::ThisLimiterShared,
    StrategyKind::ThisLimiterAlone,
    StrategyKind::Redis,
    StrategyKind::SdkDefault,
    StrategyKind::BackoffForever,
    StrategyKind::FixedBucket,
    StrategyKind::StaticShare,
    StrategyKind::AwsAdaptive,
    StrategyKind::HeaderNaive,
    StrategyKind::Oracle,
];

/// Three processes with 120 workers in all, four minutes after a minute of warm-up.
fn setup(kind: StrategyKind, seed: u64) -> Setup {
    let party = ClientSpec {
        kind,
        told: Quota::USUAL,
        sources: vec![Source::batch(When::Closed(40))],
        counted: true,
    };
    Setup {
        seed,
        quota: Quota::USUAL,
        burst: Duration::from_secs(30),
        switches: ServerOptions::default(),
        warm_up: MINUTE,
        measured: 4 * MINUTE,
        clients: vec![party; 3],
        scopes: 1,
        changes: Vec::new(),
        enforcement: Enforcement::default(),
        headers: HeaderMode::default(),
        fault: None,
        input: None,
        estimate_error: 0.03,
        probe: false,
        sample: 0,
    }
}

fn counts(tally: &Tally) -> (u64, u64, u64, Vec<u64>) {
    let Tally {
        admitted,
        refused,
        failed,
        tokens,
        ..
    } = tally;
    (*admitted, *refused, *failed, tokens.clone())
}

#[test]
fn events_are_in_order_of_time_then_of_insertion() {
    let mut events = EventQueue::new();
    for (at, event) in [(5, 'c'), (3, 'a'), (5, 'd'), (3, 'b'), (9, 'e')] {
        events.add(at, event);
    }
    let mut seen = Vec::new();
    while let Some(event) = events.next(9) {
        seen.push((events.now(), event));
        if event == 'a' {
            events.add(1, 'A'); // in the past: it happens now, after the events of this time
        }
    }
    assert_eq!(seen, [(3, 'a'), (3, 'b'), (3, 'A'), (5, 'c'), (5, 'd')]);
}

#[test]
fn same_seed_gives_the_same_run() {
    for kind in KINDS {
        let run = |seed| counts(&Simulation::new(setup(kind, seed)).run());
        assert_eq!(run(7), run(7), "{kind:?}");
        assert_ne!(run(7), run(8), "{kind:?}");
    }
}

#[test]
fn use_is_at_most_the_allowance() {
    for kind in KINDS {
        let tally = Simulation::new(setup(kind, 3)).run();
        // Half a minute's stock on top of four minutes' refill, and a debt of output at most.
        for used in tally.used {
            assert!(used <= 1.0 + 0.5 / 4.0 + 0.05, "{kind:?}: {:?}", tally.used);
        }
        assert!(tally.admitted > 100, "{kind:?}: {}", tally.admitted);
    }
}

#[test]
fn oracle_uses_the_limit_without_rejections() {
    for (refused_cost, at_response) in [(false, false), (true, true)] {
        let mut setup = setup(StrategyKind::Oracle, 1);
        setup.switches = ServerOptions {
            refused_cost,
            at_response,
        };
        let tally = Simulation::new(setup).run();
        assert_eq!(tally.refused + tally.refused_before + tally.failed, 0);
        let used = tally.used.into_iter().fold(0.0, f64::max);
        assert!(used > 0.97, "{:?}", tally.used);
    }
}

#[test]
fn processes_over_store_use_the_limit_without_rejections() {
    for seed in 1..=3 {
        let mut setup = setup(StrategyKind::Redis, seed);
        setup.burst = Duration::from_secs(60);
        let tally = Simulation::new(setup).run();
        assert_eq!(tally.refused + tally.refused_before + tally.failed, 0);
        assert!(
            Metric::Use.of(&tally, None) >= Some(99.0),
            "{:?}",
            tally.used
        );
        assert!(
            Metric::Jain.of(&tally, None) >= Some(0.99),
            "{:?}",
            tally.tokens
        );
    }
}

#[test]
fn clients_belong_to_scopes_in_turn() {
    let mut setup = setup(StrategyKind::Redis, 1);
    for (index, client) in setup.clients.iter_mut().enumerate() {
        client.told = Quota([index as u64; 3]);
    }
    setup.scopes = 2;
    let of = |setup: Setup| {
        let told = setup.clients.iter().map(|client| client.told.0[0]);
        (setup.seed, told.collect())
    };
    let scopes: Vec<(u64, Vec<u64>)> = setup.of_scopes().map(of).collect();
    assert_eq!(scopes, [(1, vec![0, 2]), ((1 << 32) + 1, vec![1])]);
}

#[test]
fn unpaced_client_is_rejected_and_static_share_is_not() {
    let refused = |kind| Simulation::new(setup(kind, 1)).run().refused;
    assert!(refused(StrategyKind::SdkDefault) > 1_000);
    assert!(refused(StrategyKind::BackoffForever) > 100);
    assert!(refused(StrategyKind::StaticShare) < 20);
}

#[test]
fn levels_of_this_limiter_are_compared_with_the_server() {
    let mut setup = setup(StrategyKind::ThisLimiterAlone, 1);
    setup.clients.truncate(1);
    setup.probe = true;
    let drift = Simulation::new(setup).run().drift.expect("it has levels");
    assert!(drift[0] <= 1.0, "{drift:?}");
}

#[test]
fn changed_limits_keep_the_levels_up_to_the_capacity() {
    let mut setup = setup(StrategyKind::Oracle, 1);
    (setup.quota, setup.burst) = (Quota([100, 60_000, 6_000]), Duration::from_secs(60));
    let mut server = Server::new(&setup, false);
    server.admit(0, 50_000).expect("it fits");
    server.stream_starts(0);
    server.stream_ends(10 * SECOND); // 800 tokens, while 1,000 are refilled
    let before = server.gauges(10 * SECOND);
    assert_eq!(before.input_tokens.level, 20_000);
    server.change(10 * SECOND, Quota([50, 30_000, 3_000]));
    let after = server.gauges(10 * SECOND);
    assert_eq!(after.input_tokens.level, 20_000);
    assert_eq!(after.requests.level, 50);
    assert_eq!(after.output_tokens.level, 3_000);
    assert_eq!(server.gauges(20 * SECOND).input_tokens.level, 25_000);
    assert_eq!(server.produced, 800);
}

#[test]
fn figure_is_of_the_worst_seed() {
    let values = [99.0, 100.0, 98.0];
    let least = Some(Goal::AtLeast(99.0));
    assert_eq!(Metric::Use.worst(&values, least), Some(98.0));
    assert_eq!(Metric::Use.worst(&values, None), Some(98.0));
    assert_eq!(Metric::Refused.worst(&values, None), Some(100.0));
    let about = Goal::About(99.9, 0.5);
    assert_eq!(Metric::BatchShare.worst(&values, Some(about)), Some(98.0));
    assert!(!about.met(98.0) && about.met(100.0));
    assert_eq!(Metric::Use.worst(&[], least), None);
}

#[test]
fn fairness_uses_tokens_of_counted_clients() {
    let even = Tally {
        tokens: vec![5, 5, 5, 5],
        ..Tally::default()
    };
    let one = Tally {
        tokens: vec![9, 0, 0, 0],
        ..Tally::default()
    };
    assert_eq!(Metric::Jain.of(&even, None), Some(1.0));
    assert_eq!(Metric::Jain.of(&one, None), Some(0.25));
    let mut setup = setup(StrategyKind::ThisLimiterShared, 1);
    setup.clients[2].counted = false;
    assert_eq!(Simulation::new(setup).run().tokens.len(), 2);
}

#[test]
fn json_has_goals_only_for_lines_with_goals() {
    let line = |kind, has_goals| Line {
        label: format!("{kind:?}"),
        has_goals,
        is_oracle: false,
        setup: setup(kind, 0),
    };
    let scenarios = [Scenario {
        title: "small".to_owned(),
        columns: vec![Column {
            id: "R0",
            metric: Metric::Use,
            goal: Some(Goal::AtLeast(1_000.0)),
        }],
        lines: vec![
            line(StrategyKind::Oracle, true),
            line(StrategyKind::FixedBucket, false),
        ],
    }];
    let tallies = crate::runner::run(&scenarios, &[1, 2]);
    let table = crate::Table {
        rows: crate::report::rows(&scenarios, &tallies),
        seeds: vec![1, 2],
        quick: false,
    };
    assert!(!table.passed(), "nobody uses ten times the limit");
    assert!(table.text().contains("FALL SHORT"));
    let json: Value = serde_json::from_str(&table.json()).expect("it is JSON");
    assert_eq!(json[0]["goal"], ">= 1000");
    assert_eq!(json[0]["pass"], false);
    assert_eq!(json[1]["strategy"], "FixedBucket");
    assert!(json[1]["goal"].is_null() && json[1]["pass"].is_null());
    assert!(json[1]["value"].as_f64().is_some_and(|value| value > 50.0));
}

#[test]
fn every_documented_row_exists() {
    let rows = scenario::rows::all(&Options::default()).expect("no trace to read");
    for id in [
        "R1", "R2", "R3", "R5", "R6", "R7", "R8", "R26", "R27", "R28",
    ] {
        let held = rows.iter().any(|row| {
            let goal = row
                .columns
                .iter()
                .any(|column| column.id == id && column.goal.is_some());
            goal && row.lines.iter().filter(|line| line.has_goals).count() == 6
        });
        assert!(held, "{id}");
    }
    let stored = rows.iter().filter(|row| row.columns[0].id == "R37");
    assert_eq!(stored.count(), 4, "rows over a store");
    let options = Options {
        only: Some("R99".to_owned()),
        ..Options::default()
    };
    assert!(crate::table(&options).is_err());
}

#[test]
fn trace_is_replayed_repeatedly() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../examples/data/azure-llm-code-2023.csv"
    );
    let trace = Trace::read(path.as_ref()).expect("the example's trace");
    assert_eq!(trace.sizes(0), (4_808, 10));
    let source = Source::batch(When::Trace(trace.into()));
    let mut rng = fastrand::Rng::with_seed(1);
    let mut at = |index| source.next(0, index, &mut rng).expect("it never ends");
    assert_eq!((at(0), at(1) / 1_000_000), (0, 52));
    assert!(
        at(8_819) > at(8_818),
        "the next round comes after the first"
    );
    assert!(Trace::read("nowhere.csv".as_ref()).is_err());
}

#[test]
fn chart_is_complete_svg() {
    let svg = crate::picture(1);
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
    assert_eq!(svg.matches("<path ").count(), 21);
}
