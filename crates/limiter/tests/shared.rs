//! Several processes on one key, without a common store: the limit is used, hardly a request is
//! refused, and all get the same. And one process alone, whose limits are not what it was told.

mod fleet;

use std::num::{NonZeroU32, NonZeroU64};

use fleet::{Faults, Fleet, Report};
use tower_claude_limiter::{Concurrency, LimiterConfig, Limits, RampUp, Sharing};

const SEEDS: u64 = 2;

fn alone() -> Fleet {
    Fleet {
        workers: 300,
        ..Fleet::default()
    }
}

fn several(pools: usize) -> Fleet {
    Fleet {
        pools,
        workers: 512 / pools,
        ..Fleet::default()
    }
}

/// The true limits times `by`.
fn configured(by: f64) -> Limits {
    let limits = Fleet::default().limits;
    let [requests, input, output] =
        limits.map(|limit| NonZeroU64::new((limit * by) as u64).unwrap());
    Limits::new()
        .with_requests_per_minute(requests)
        .with_input_tokens_per_minute(input)
        .with_output_tokens_per_minute(output)
}

/// Runs the seeds, prints, and checks that nearly all of the limit is used.
fn run(name: &str, fleet: &Fleet, check: impl Fn(&Report)) {
    for seed in 1..=SEEDS {
        let report = Fleet {
            seed,
            ..fleet.clone()
        }
        .run();
        println!("{name} seed {seed}: {report:?}");
        assert!(report.used >= 0.99, "{name} seed {seed}: {report:?}");
        check(&report);
    }
}

#[test]
fn sixteen_processes_for_ten_minutes() {
    run("16", &several(16), |report| {
        assert!(report.answered > 8_000, "{report:?}");
        assert!(report.per_thousand() <= 1.0, "{report:?}");
        assert!(report.jain >= 0.99, "{report:?}");
        assert_eq!(report.shared, 16, "{report:?}");
    });
}

#[test]
fn four_processes_for_ten_minutes() {
    run("4", &several(4), |report| {
        assert!(report.per_thousand() <= 0.1, "{report:?}");
        assert!(report.jain >= 0.99, "{report:?}");
        assert_eq!(report.shared, 4, "{report:?}");
    });
}

#[test]
fn told_that_it_is_shared() {
    let fleet = Fleet {
        config: several(16).config.with_sharing(Sharing::Shared),
        ..several(16)
    };
    run("16 told", &fleet, |report| {
        assert_eq!(report.refused + report.refused_early, 0, "{report:?}");
        assert!(report.jain >= 0.99, "{report:?}");
    });
}

#[test]
fn without_the_price_they_trample_each_other() {
    let fleet = Fleet {
        seconds: 180,
        config: several(4).config.with_sharing(Sharing::Exclusive),
        ..several(4)
    };
    let report = fleet.run();
    println!("4 exclusive: {report:?}");
    assert!(report.per_thousand() > 100.0, "{report:?}");
}

#[test]
fn alone_it_is_never_taken_to_be_shared() {
    for input_error in [0.03, 0.2] {
        for idle in [None, Some((200, 400))] {
            for burst in [60.0, 5.0] {
                for seed in 1..=2 {
                    let fleet = Fleet {
                        seed,
                        input_error,
                        idle,
                        burst,
                        ..alone()
                    };
                    let report = fleet.run();
                    println!("alone {input_error} {idle:?} {burst} {seed}: {report:?}");
                    assert_eq!(report.shared, 0, "{report:?}");
                    assert_eq!(report.refused, 0, "{report:?}");
                    assert!(idle.is_some() || report.used >= 0.99, "{report:?}");
                }
            }
        }
    }
}

#[test]
fn somebody_else_takes_a_part() {
    for external in [0.2, 0.5, 0.8] {
        let fleet = Fleet {
            external,
            ..alone()
        };
        run("external", &fleet, |report| {
            assert!(report.per_thousand() <= 1.0, "{report:?}");
            assert_eq!(report.shared, 1, "{report:?}");
        });
    }
}

#[test]
fn somebody_else_beside_sixteen_that_estimate_badly() {
    let fleet = Fleet {
        external: 0.2,
        input_error: 0.2,
        ..several(16)
    };
    run("16 external", &fleet, |report| {
        assert!(report.per_thousand() <= 1.0, "{report:?}");
        assert!(report.jain >= 0.99, "{report:?}");
    });
}

#[test]
fn told_half_or_twice_the_limit() {
    for by in [0.5, 2.0] {
        for start in [alone(), several(4)] {
            let fleet = Fleet {
                configured: configured(by),
                ..start
            };
            run("misconfigured", &fleet, |report| {
                assert!(report.refused + report.refused_early <= 5, "{report:?}");
            });
        }
    }
}

#[test]
fn limits_halved_and_doubled_on_the_way() {
    for by in [0.5, 2.0] {
        for start in [alone(), several(4), several(16)] {
            let fleet = Fleet {
                scale: Some((300, by)),
                workers: start.workers * 2,
                ..start
            };
            run("scaled", &fleet, |report| {
                assert!(report.refused <= 5, "{report:?}");
            });
        }
    }
}

#[test]
fn stamps_that_are_off_and_a_clock_that_jumps() {
    let faults = [(30.0, 0.0), (-30.0, 0.0), (0.0, 86_400.0), (0.0, -86_400.0)];
    for (reset_skew, date_jump) in faults {
        for (start, pools) in [(1.0, 1), (0.1, 1), (1.0, 4)] {
            let fleet = Fleet {
                start,
                faults: Faults {
                    reset_skew,
                    date_jump,
                },
                ..several(pools)
            };
            run("stamps", &fleet, |report| {
                assert!(report.refused <= 1, "{report:?}");
                assert!(report.jain >= 0.99, "{report:?}");
            });
        }
    }
}

/// 300 callers, ten at once: all that is to be had is ten in service.
fn crowd() -> Fleet {
    Fleet {
        concurrency: 10,
        workers: 300,
        config: LimiterConfig::new().with_concurrency(Concurrency::Adaptive),
        ..Fleet::default()
    }
}

#[test]
fn a_hidden_limit_on_requests_at_once_is_found() {
    for seed in 1..=SEEDS {
        let report = Fleet { seed, ..crowd() }.run();
        println!("hidden {seed}: {report:?}");
        // The first crowd cannot know.
        assert!(report.refused_early <= 300, "{report:?}");
        assert!(report.refused <= 6, "{report:?}");
        assert!(report.in_service >= 9.5, "{report:?}");
        assert_eq!(report.shared, 0, "{report:?}");
    }
}

#[test]
fn four_share_a_hidden_limit_on_requests_at_once() {
    for seed in 1..=SEEDS {
        let fleet = Fleet {
            seed,
            pools: 4,
            workers: 75,
            concurrency: 40,
            ..crowd()
        };
        let report = fleet.run();
        println!("hidden for four {seed}: {report:?}");
        assert!(report.per_thousand() <= 10.0, "{report:?}");
        assert!(report.in_service >= 36.0, "{report:?}");
    }
}

#[test]
fn a_known_limit_on_requests_at_once_is_kept() {
    let most = NonZeroU32::new(10).unwrap();
    let fleet = Fleet {
        config: LimiterConfig::new().with_concurrency(Concurrency::Fixed(most)),
        ..crowd()
    };
    let report = fleet.run();
    assert_eq!(report.refused + report.refused_early, 0, "{report:?}");
}

#[test]
fn a_slow_start_after_rest_holds_a_burst_back() {
    let fleet = |ramp_up| Fleet {
        idle: Some((200, 400)),
        seconds: 405,
        warm_up: 400,
        config: alone().config.with_ramp_up(ramp_up),
        ..alone()
    };
    let (at_once, slowly) = (fleet(None).run(), fleet(Some(RampUp::new())).run());
    println!("{at_once:?} {slowly:?}");
    assert_eq!(slowly.refused, 0, "{slowly:?}");
    assert!(slowly.answered > 0, "{slowly:?}");
    assert!(slowly.in_service < at_once.in_service / 2.0);
}
