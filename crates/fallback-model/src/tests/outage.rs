//! One circuit for each model and each pool, made when something fails.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use tokio::time::Instant;
use tower_claude_core::{
    Class, Kind,
    breaker::{BreakerConfig, Transition},
};

use crate::{
    outage::{Leave, Outages, Pool, Turns},
    policy::Findings,
};

const SECOND: Duration = Duration::from_secs(1);

struct Bench {
    outages: Outages,
    config: BreakerConfig,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let failures = NonZeroU32::new(2).unwrap();
        Self {
            outages: Outages::default(),
            config: BreakerConfig::new()
                .with_failures(failures, 60 * SECOND)
                .with_forget_after(100 * SECOND)
                .with_ramp(None),
            now: Instant::now(),
        }
    }

    fn admit(&self, model: &str, credential: u64) -> Result<Leave, Kind> {
        let answer = self.outages.admit(model, &pool(credential), self.now, 0.5);
        answer.map_err(|shut| shut.why.kind)
    }

    fn settle(&self, model: &str, credential: u64, leave: Leave, kind: Kind) -> Turns {
        let (class, model) = (Class::new(kind), Arc::from(model));
        let (found, pool) = (Findings::of(&class), pool(credential));
        let config = &self.config;
        self.outages
            .settle(&model, &pool, leave, found, class, config, self.now, 0.5)
    }

    fn ask(&self, model: &str, credential: u64, kind: Kind) -> Turns {
        let leave = self.admit(model, credential).expect("not out");
        self.settle(model, credential, leave, kind)
    }
}

fn pool(credential: u64) -> Pool {
    Pool {
        credential,
        group: "group".into(),
        fast: false,
    }
}

#[test]
fn a_model_is_out_for_all_and_back_after_two_probes() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask("a", 1, Kind::Overloaded), Turns::default());
    assert!(!bench.outages.is_quiet());
    let turns = bench.ask("a", 2, Kind::ServerError);
    assert!(matches!(turns.model, Some(Transition::Opened { .. })));
    assert_eq!(turns.pool, None);
    assert_eq!(bench.admit("a", 3).unwrap_err(), Kind::ServerError);
    bench.ask("b", 1, Kind::Success);
    bench.now += 40 * SECOND;
    let probe = bench.admit("a", 1).unwrap();
    assert!(probe.is_probe());
    assert!(bench.admit("a", 1).is_err(), "one probe at a time");
    // Given up: the next may try.
    bench.outages.settle(
        &"a".into(),
        &pool(1),
        probe,
        Findings::NONE,
        Class::SUCCESS,
        &bench.config,
        bench.now,
        0.5,
    );
    assert_eq!(bench.ask("a", 1, Kind::Success), Turns::default());
    let turns = bench.ask("a", 1, Kind::BadRequest);
    assert_eq!(turns.model, Some(Transition::Closed));
    // Long after, nothing is left of it.
    bench.now += 200 * SECOND;
    bench.ask("a", 1, Kind::Success);
    assert!(bench.outages.is_quiet());
}

#[test]
fn a_429_is_out_for_one_credential_only() {
    let bench = Bench::new();
    bench.ask("a", 1, Kind::RateLimited);
    let turns = bench.ask("b", 1, Kind::RateLimited);
    assert!(matches!(turns.pool, Some(Transition::Opened { .. })));
    assert_eq!(turns.model, None);
    for model in ["a", "b", "c"] {
        assert_eq!(bench.admit(model, 1).unwrap_err(), Kind::RateLimited);
        assert!(bench.admit(model, 2).is_ok());
    }
}

#[test]
fn what_was_asked_before_the_outage_does_not_end_it() {
    let mut bench = Bench::new();
    let early = Leave::default();
    bench.ask("a", 1, Kind::Overloaded);
    let late = bench.admit("a", 1).unwrap();
    bench.ask("a", 1, Kind::Overloaded);
    bench.now += 40 * SECOND;
    bench.settle("a", 1, early, Kind::Overloaded);
    bench.settle("a", 1, late, Kind::Success);
    // Half-open still, and its probe was not used up.
    assert!(bench.admit("a", 1).unwrap().is_probe());
}

/// Its circuit was forgotten meanwhile, and another made.
#[test]
fn what_was_asked_long_ago_says_nothing_of_today() {
    let mut bench = Bench::new();
    bench.ask("a", 1, Kind::Overloaded);
    let late = bench.admit("a", 1).unwrap();
    bench.now += 200 * SECOND;
    bench.ask("a", 1, Kind::Success);
    assert!(bench.outages.is_quiet());
    bench.ask("a", 1, Kind::Overloaded);
    bench.settle("a", 1, late, Kind::Overloaded);
    assert!(bench.admit("a", 1).is_ok(), "one failure so far");
}

#[test]
fn refusals_on_this_side_count_for_nothing() {
    let bench = Bench::new();
    let class = Class::new(Kind::Overloaded).into_local();
    for _ in 0..5 {
        let (model, pool) = ("a".into(), pool(1));
        let found = Findings::of(&class);
        let config = &bench.config;
        let leave = Leave::default();
        bench
            .outages
            .settle(&model, &pool, leave, found, class, config, bench.now, 0.5);
    }
    assert!(bench.outages.is_quiet());
}

#[test]
fn the_table_is_bounded() {
    let bench = Bench::new();
    for number in 0..3000 {
        bench.ask(&number.to_string(), 1, Kind::Overloaded);
    }
    assert_eq!(bench.outages.models(bench.now).len(), 1024);
    assert!(bench.admit("2999", 1).is_ok());
}
