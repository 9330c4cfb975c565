//! A saturated client against a server whose bucket is smaller than the limit says: the limit is used,
//! and hardly a request is rejected.

mod simulator;

use simulator::World;
use tower_claude_limiter::Limits;

fn check(name: &str, world: &World, most_rejected: u32, least_used: f64) {
    for seed in 1..=8 {
        let world = World {
            seed,
            ..world.clone()
        };
        let requests = world.requests;
        let report = world.run();
        println!("{name} seed {seed}: {report:?}");
        assert_eq!(report.answered, requests, "{name} seed {seed}: {report:?}");
        assert!(
            report.rejected <= most_rejected,
            "{name} seed {seed}: {report:?}"
        );
        assert!(
            report.utilisation >= least_used,
            "{name} seed {seed}: {report:?}"
        );
    }
}

#[test]
fn five_seconds_of_burst_nothing_configured() {
    check("learned", &World::default(), 3, 0.97);
}

#[test]
fn configured_limit_but_not_its_burst() {
    let per_minute = |n| std::num::NonZeroU64::new(n).unwrap();
    let limits = Limits::new()
        .with_requests_per_minute(per_minute(60_000))
        .with_input_tokens_per_minute(per_minute(6_000_000));
    let world = World {
        limits,
        ..World::default()
    };
    check("configured", &world, 3, 0.97);
}

#[test]
fn answers_that_take_seconds() {
    let world = World {
        latency_ms: (50.0, 5_000.0),
        ..World::default()
    };
    check("slow", &world, 3, 0.97);
}

#[test]
fn many_small_requests_bound_by_their_number() {
    let world = World {
        requests: 6_000,
        requests_per_minute: 6_000.0,
        input_per_minute: 60_000_000.0,
        ..World::default()
    };
    for seed in 1..=4 {
        let report = World {
            seed,
            ..world.clone()
        }
        .run();
        println!("requests seed {seed}: {report:?}");
        assert!(report.rejected <= 3, "{report:?}");
        let could = 6_000.0 / 60.0 * (report.seconds + 5.0);
        assert!(report.answered as f64 >= 0.97 * could, "{report:?}");
    }
}

#[test]
fn estimates_that_are_half_of_the_truth() {
    let world = World {
        input_bias: 2.0,
        requests: 2_000,
        ..World::default()
    };
    check("biased", &world, 3, 0.97);
}

#[test]
fn headers_taken_when_the_response_leaves() {
    let world = World {
        snapshot_at_response: true,
        ..World::default()
    };
    check("at response", &world, 3, 0.97);
}

#[test]
fn failures_the_server_does_not_charge() {
    let world = World {
        overloaded: 0.25,
        ..World::default()
    };
    check("overloaded", &world, 3, 0.97);
}

#[test]
fn a_burst_after_an_idle_minute() {
    let world = World {
        idle: Some((0, 120_000_000_000)),
        ..World::default()
    };
    check("idle", &world, 3, 0.97);
}

#[test]
fn a_whole_minute_of_burst() {
    let world = World {
        burst_seconds: 60.0,
        requests: 6_000,
        ..World::default()
    };
    check("minute", &world, 3, 0.97);
}
