use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tower_claude_core::{Class, Kind, Reach};

use crate::health::{Availability, HealthTable, ModelAtTarget};

const SECOND: Duration = Duration::from_secs(1);

struct Probe {
    table: HealthTable,
    group: Arc<str>,
    model: Arc<str>,
    now: Instant,
}

impl Probe {
    fn new() -> Self {
        Self {
            table: HealthTable::default(),
            group: "group".into(),
            model: "model".into(),
            now: Instant::now(),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn fail(&mut self, class: Class) {
        self.fail_sent(class, self.now);
    }

    fn fail_sent(&mut self, class: Class, sent: Instant) {
        let place = ModelAtTarget {
            target: 0,
            caller: 0,
            group: &self.group,
            model: &self.model,
        };
        self.table.on_failure(place, &class, sent, self.now, 0.0);
    }

    fn succeed(&mut self, sent: Instant) {
        let place = ModelAtTarget {
            target: 0,
            caller: 0,
            group: &self.group,
            model: &self.model,
        };
        self.table.on_success(place, sent, self.now);
    }

    fn state(&self) -> Availability {
        self.state_of(&self.model)
    }

    fn state_of(&self, model: &Arc<str>) -> Availability {
        let place = ModelAtTarget {
            target: 0,
            caller: 0,
            group: &self.group,
            model,
        };
        self.table.availability(place, self.now)
    }

    fn is_open(&self) -> bool {
        self.state() == Availability::Open
    }

    /// Returns the time until the target may be asked again.
    fn left(&self) -> Duration {
        match self.state() {
            Availability::Unavailable(unavailable) => {
                unavailable.until.saturating_duration_since(self.now)
            }
            _ => Duration::ZERO,
        }
    }

    fn probe(&mut self) -> u64 {
        let place = ModelAtTarget {
            target: 0,
            caller: 0,
            group: &self.group,
            model: &self.model,
        };
        self.table.begin_probe(place, self.now)
    }
}

#[test]
fn third_failure_in_a_row_begins_a_cool_down() {
    let mut health = Probe::new();
    let class = Class::new(Kind::ServerError);
    health.fail(class);
    health.fail(class);
    assert!(health.is_open());
    health.fail(class);
    assert_eq!(health.left(), 5 * SECOND);
    // Another model of the target is not concerned.
    assert_eq!(health.state_of(&"other".into()), Availability::Open);
}

#[test]
fn success_between_failures_begins_the_count_anew() {
    let mut health = Probe::new();
    let class = Class::new(Kind::Overloaded);
    for _ in 0..10 {
        health.fail(class);
        health.fail(class);
        health.pass(SECOND);
        health.succeed(health.now);
        assert!(health.is_open());
    }
}

#[test]
fn failures_that_are_far_apart_begin_no_cool_down() {
    let mut health = Probe::new();
    for _ in 0..10 {
        health.fail(Class::new(Kind::Timeout));
        health.pass(61 * SECOND);
    }
    assert!(health.is_open());
}

#[test]
fn wait_of_the_server_holds_for_the_group() {
    let mut health = Probe::new();
    let wait = Some(20 * SECOND);
    health.fail(Class::new(Kind::RateLimited).with_retry_after(wait));
    assert_eq!(health.left(), 20 * SECOND);
    assert!(matches!(
        health.state_of(&"other".into()),
        Availability::Unavailable(unavailable) if unavailable.is_explicit && unavailable.must_wait()
    ));
    // A shorter wait, reported by a request of the same time, does not shorten it.
    health.fail(Class::new(Kind::RateLimited).with_retry_after(Some(SECOND)));
    assert_eq!(health.left(), 20 * SECOND);
    health.fail(Class::new(Kind::RateLimited).with_retry_after(Some(30 * SECOND)));
    assert_eq!(health.left(), 30 * SECOND);
}

#[test]
fn wait_of_a_year_is_bounded_by_an_hour() {
    let mut health = Probe::new();
    let wait = Some(Duration::from_secs(365 * 24 * 3_600));
    health.fail(Class::new(Kind::RateLimited).with_retry_after(wait));
    assert_eq!(health.left(), 3_600 * SECOND);
    let mut health = Probe::new();
    health.fail(Class::new(Kind::RateLimited).with_retry_after(Some(Duration::MAX)));
    assert_eq!(health.left(), 3_600 * SECOND);
}

#[test]
fn pauses_without_advice_double_up_to_thirty_seconds() {
    let mut health = Probe::new();
    let mut pauses = Vec::new();
    for _ in 0..7 {
        let sent = health.now;
        health.fail_sent(Class::new(Kind::RateLimited), sent);
        pauses.push(health.left().as_secs());
        health.pass(health.left());
        assert_eq!(health.state(), Availability::Probe);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
}

#[test]
fn burst_of_429s_of_one_moment_is_one_pause() {
    let mut health = Probe::new();
    let sent = health.now;
    for _ in 0..100 {
        health.pass(Duration::from_millis(1));
        health.fail_sent(Class::new(Kind::RateLimited), sent);
    }
    assert!(health.left() <= SECOND);
}

#[test]
fn one_request_probes_and_its_success_opens_the_target() {
    let mut health = Probe::new();
    for _ in 0..3 {
        health.fail(Class::new(Kind::ServerError));
    }
    health.pass(5 * SECOND);
    assert_eq!(health.state(), Availability::Probe);
    health.probe();
    assert!(matches!(
        health.state(),
        Availability::Unavailable(unavailable) if unavailable.is_probed && !unavailable.must_wait()
    ));
    let sent = health.now;
    health.pass(SECOND);
    health.succeed(sent);
    assert!(health.is_open());
}

#[test]
fn failed_probe_begins_a_longer_cool_down() {
    let mut health = Probe::new();
    for _ in 0..3 {
        health.fail(Class::new(Kind::ServerError));
    }
    let mut lengths = Vec::new();
    for _ in 0..6 {
        lengths.push(health.left().as_secs());
        health.pass(health.left());
        health.probe();
        health.fail(Class::new(Kind::ServerError));
    }
    assert_eq!(lengths, [5, 10, 20, 40, 80, 120]);
}

#[test]
fn probe_whose_end_never_comes_makes_way_for_another() {
    let mut health = Probe::new();
    for _ in 0..3 {
        health.fail(Class::new(Kind::Timeout));
    }
    health.pass(5 * SECOND);
    health.probe();
    health.pass(60 * SECOND);
    assert_eq!(health.state(), Availability::Probe);
}

#[test]
fn dropped_probe_makes_way_at_once() {
    let mut health = Probe::new();
    for _ in 0..3 {
        health.fail(Class::new(Kind::Timeout));
    }
    health.pass(5 * SECOND);
    let probe = health.probe();
    health.table.end_probe(0, probe);
    assert_eq!(health.state(), Availability::Probe);
}

#[test]
fn success_of_a_request_from_before_the_failures_shows_nothing() {
    let mut health = Probe::new();
    let sent = health.now;
    health.pass(SECOND);
    for _ in 0..3 {
        health.fail(Class::new(Kind::ServerError));
    }
    health.pass(SECOND);
    health.succeed(sent);
    assert_eq!(health.left(), 4 * SECOND);
}

#[test]
fn rejected_credential_closes_all_models() {
    let mut health = Probe::new();
    health.fail(Class::new(Kind::Unauthorized));
    assert!(health.is_open());
    health.fail(Class::new(Kind::Unauthorized));
    assert!(matches!(
        health.state_of(&"other".into()),
        Availability::Unavailable(_)
    ));
}

#[test]
fn invalid_requests_close_nothing() {
    let mut health = Probe::new();
    for kind in [
        Kind::BadRequest,
        Kind::TooLarge,
        Kind::NotFound,
        Kind::Forbidden,
    ] {
        for _ in 0..10 {
            health.fail(Class::new(kind));
        }
    }
    assert!(health.is_open());
    // Unless another target has served the model.
    health.fail(Class::new(Kind::NotFound).with_reach(Reach::Model));
    assert_eq!(health.left(), 300 * SECOND);
}

#[test]
fn names_of_callers_do_not_grow_the_table_for_ever() {
    let mut health = Probe::new();
    for number in 0..5_000 {
        health.model = format!("model-{number}").into();
        for _ in 0..3 {
            health.fail(Class::new(Kind::ServerError));
        }
        health.pass(Duration::from_millis(1));
    }
    assert!(health.table.len() <= 1_024);
    // The latest is kept.
    assert!(!health.is_open());
}
