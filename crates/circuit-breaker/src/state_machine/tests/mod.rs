//! Tests of each setting, random histories beside a slow reference, and every history of a small
//! circuit.

mod reference;
mod search;
mod traces;

use std::{num::NonZeroU32, time::Duration};

use tokio::time::Instant;

use super::{
    Admission, Breaker, BreakerConfig, BreakerState, CircuitOutcome, CircuitOutcomes, FailureRate,
    Origin, Permit, SlowCallRate, Transition,
};
use tower_claude_core::{Class, Kind, Reach};

impl CircuitOutcome {
    /// A failure without a `retry-after`.
    const FAILURE: Self = Self::Failure { retry_after: None };
}

const SECOND: Duration = Duration::from_secs(1);
/// No jitter: exactly the cool-down.
const MIDDLE: f64 = 0.5;

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("not zero")
}

/// A breaker and its clock.
struct Bench {
    breaker: Breaker,
    now: Instant,
    /// The calls that were sent and have no outcome.
    in_flight: u32,
}

impl Bench {
    fn new(config: BreakerConfig) -> Self {
        Self {
            breaker: Breaker::new(config),
            now: Instant::now(),
            in_flight: 0,
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    /// Admits a call that is not sent yet.
    fn admit(&mut self) -> Permit {
        match self.breaker.admit(self.now, MIDDLE) {
            Admission::Pass(permit) => permit,
            Admission::Rejected { retry_after, .. } => panic!("refused for {retry_after:?}"),
        }
    }

    fn send(&mut self, permit: &mut Permit) {
        self.breaker.sent(self.now, permit);
        self.in_flight += 1;
    }

    /// Admits a call and sends it.
    fn permit(&mut self) -> Permit {
        let mut permit = self.admit();
        self.send(&mut permit);
        permit
    }

    fn permit_after(&mut self, time: Duration) -> Permit {
        self.wait(time);
        self.permit()
    }

    fn refused(&mut self) -> Option<Duration> {
        match self.breaker.admit(self.now, MIDDLE) {
            Admission::Pass(_) => panic!("let through"),
            Admission::Rejected { retry_after, .. } => retry_after,
        }
    }

    fn settle(&mut self, permit: Permit, outcome: CircuitOutcome) -> Option<Transition> {
        self.in_flight = self.in_flight.saturating_sub(1);
        let in_flight = self.in_flight;
        self.breaker
            .settle(self.now, permit, outcome, in_flight, MIDDLE)
    }

    fn stream_failed(&mut self, origin: Origin, outcome: CircuitOutcome) -> Option<Transition> {
        self.breaker
            .stream_failed(self.now, origin, outcome, self.in_flight, MIDDLE)
    }

    fn call(&mut self, outcome: CircuitOutcome) -> Option<Transition> {
        let permit = self.permit();
        self.settle(permit, outcome)
    }

    fn fail(&mut self, times: u32) -> Option<Transition> {
        (0..times)
            .map(|_| self.call(CircuitOutcome::FAILURE))
            .last()
            .flatten()
    }

    fn state(&self) -> BreakerState {
        self.breaker.snapshot(self.now).state
    }
}

/// Longer times than recommended, which leave room for steps between them.
fn slow_config() -> BreakerConfig {
    BreakerConfig::new()
        .with_cool_down(30 * SECOND, 300 * SECOND)
        .with_ramp(Some(30 * SECOND))
}

fn default() -> Bench {
    Bench::new(slow_config())
}

fn without_ramp() -> Bench {
    Bench::new(slow_config().with_ramp(None))
}

#[test]
fn five_failures_within_a_minute_open_the_circuit() {
    let mut bench = default();
    assert_eq!(bench.fail(4), None);
    bench.call(CircuitOutcome::Success);
    assert_eq!(bench.fail(4), None);
    let opened = Transition::Opened {
        cool_down: 30 * SECOND,
        opens: 1,
    };
    assert_eq!(bench.fail(1), Some(opened));
    assert_eq!(bench.refused(), Some(30 * SECOND));
    bench.wait(12 * SECOND);
    assert_eq!(bench.refused(), Some(18 * SECOND));

    let mut slow = default();
    for _ in 0..20 {
        slow.call(CircuitOutcome::FAILURE);
        slow.wait(15 * SECOND + Duration::from_millis(1));
    }
    assert_eq!(slow.state(), BreakerState::Closed, "never 5 within 60 s");
    let mut just = default();
    for _ in 0..5 {
        just.call(CircuitOutcome::FAILURE);
        just.wait(15 * SECOND);
    }
    assert_eq!(just.state(), BreakerState::Open, "exactly 60 s");
}

#[test]
fn rate_limits_and_bad_requests_do_not_count() {
    for outcome in [
        CircuitOutcome::Busy { retry_after: None },
        CircuitOutcome::Alive,
        CircuitOutcome::Ignored,
    ] {
        let mut bench = default();
        bench.fail(4);
        for _ in 0..100 {
            assert_eq!(bench.call(outcome), None);
        }
        assert!(bench.fail(1).is_some(), "{outcome:?} broke the row");
    }
}

#[test]
fn failure_rate_over_its_share_opens_the_circuit() {
    let config = slow_config().with_failure_rate(Some(FailureRate::default()));
    let mut bench = Bench::new(config);
    // Half of them, but only 19.
    for round in 0..19 {
        let outcome = if round % 2 == 0 {
            CircuitOutcome::Success
        } else {
            CircuitOutcome::FAILURE
        };
        assert_eq!(bench.call(outcome), None, "{round}");
    }
    let mut later = Bench {
        breaker: bench.breaker.clone(),
        now: bench.now,
        in_flight: 0,
    };
    assert!(bench.call(CircuitOutcome::FAILURE).is_some(), "10 of 20");
    later.wait(30 * SECOND);
    assert_eq!(
        later.call(CircuitOutcome::FAILURE),
        None,
        "the others are too old"
    );
}

#[test]
fn slow_calls_open_the_circuit_and_a_slow_probe_fails() {
    let config = slow_config().with_slow_calls(Some(
        SlowCallRate::new(10 * SECOND).with_share(number(5), 0.8),
    ));
    let mut bench = Bench::new(config);
    let slow = |bench: &mut Bench| {
        let mut permit = bench.admit();
        // The wait before it is sent does not count.
        bench.wait(9 * SECOND);
        bench.send(&mut permit);
        bench.wait(10 * SECOND);
        let now = bench.now;
        let transition = bench.settle(permit, CircuitOutcome::Success);
        bench.now = now;
        transition
    };
    // Side by side, so that they fall into one window.
    let permits: Vec<_> = (0..5).map(|_| bench.permit()).collect();
    bench.wait(10 * SECOND);
    let mut last = None;
    for permit in permits {
        last = bench.settle(permit, CircuitOutcome::Success);
    }
    assert!(matches!(last, Some(Transition::Opened { opens: 1, .. })));
    bench.wait(30 * SECOND);
    assert!(matches!(
        slow(&mut bench),
        Some(Transition::Opened { opens: 2, .. })
    ));
}

#[test]
fn cool_down_doubles_varies_and_respects_retry_after() {
    let config = slow_config();
    let cool = |opens, asked, chance| config.cool_down(opens, asked, chance);
    let seconds = [30, 60, 120, 240, 300, 300];
    for (opens, expected) in (1..).zip(seconds) {
        assert_eq!(cool(opens, None, MIDDLE), expected * SECOND);
    }
    assert_eq!(cool(1, None, 0.0), 24 * SECOND);
    assert_eq!(cool(1, None, 1.0), 36 * SECOND);
    assert_eq!(cool(1, Some(20 * SECOND), 0.0), 24 * SECOND);
    assert_eq!(cool(1, Some(90 * SECOND), 0.0), 90 * SECOND);
    assert_eq!(cool(1, Some(Duration::MAX), 0.0), 3600 * SECOND);
    assert_eq!(cool(u32::MAX, None, MIDDLE), 300 * SECOND);
    assert_eq!(
        cool(1, None, f64::NAN.clamp(0.0, 1.0)),
        cool(1, None, f64::NAN)
    );
}

#[test]
fn half_open_circuit_admits_a_single_probe_and_closes_after_two_successes() {
    let mut bench = default();
    bench.fail(5);
    bench.wait(30 * SECOND);
    let probe = bench.permit();
    assert!(probe.is_probe());
    assert_eq!(bench.refused(), Some(SECOND));
    assert_eq!(bench.settle(probe, CircuitOutcome::Success), None);
    let probe = bench.permit();
    assert_eq!(
        bench.settle(probe, CircuitOutcome::Alive),
        Some(Transition::Closed)
    );
    assert_eq!(bench.state(), BreakerState::Ramping);
    bench.wait(30 * SECOND);
    assert_eq!(bench.state(), BreakerState::Closed);
    // What opened before that was not forgotten: twice as long.
    bench.fail(5);
    assert_eq!(bench.refused(), Some(60 * SECOND));
    bench.wait(60 * SECOND);
    for _ in 0..2 {
        bench.call(CircuitOutcome::Success);
    }
    bench.wait(300 * SECOND);
    bench.fail(5);
    assert_eq!(bench.refused(), Some(30 * SECOND), "forgotten");
}

#[test]
fn probe_with_429_opens_the_circuit() {
    let mut bench = default();
    bench.fail(5);
    bench.wait(30 * SECOND);
    let outcome = CircuitOutcome::Busy {
        retry_after: Some(70 * SECOND),
    };
    let opened = Transition::Opened {
        cool_down: 70 * SECOND,
        opens: 2,
    };
    assert_eq!(bench.call(outcome), Some(opened));
}

#[test]
fn outcome_of_an_older_generation_is_ignored() {
    let mut bench = default();
    let (early, late) = (bench.permit(), bench.permit());
    bench.fail(5);
    assert_eq!(bench.settle(early, CircuitOutcome::Success), None);
    bench.wait(30 * SECOND);
    let probe = bench.permit();
    assert_eq!(
        bench.settle(late, CircuitOutcome::FAILURE),
        None,
        "from before"
    );
    assert_eq!(bench.state(), BreakerState::HalfOpen);
    let origin = probe.origin();
    bench.settle(probe, CircuitOutcome::Success);
    bench.call(CircuitOutcome::Success);
    let late_break = bench.stream_failed(origin, CircuitOutcome::FAILURE);
    assert_eq!(late_break, None);
    assert_eq!(bench.breaker.snapshot(bench.now).failures, 0);
}

/// Returns the origin of a stream whose success was counted before the present row.
fn began(bench: &mut Bench) -> Origin {
    bench.admit().origin()
}

#[test]
fn stream_that_fails_after_its_success_counts_as_a_failure() {
    let mut bench = default();
    for round in 1..=5 {
        // The next stream begins when the last failure is known.
        let origin = began(&mut bench);
        bench.wait(SECOND);
        let transition = bench.stream_failed(origin, CircuitOutcome::FAILURE);
        assert_eq!(transition.is_some(), round == 5);
    }
    bench.wait(30 * SECOND);
    let probe = bench.permit();
    let origin = probe.origin();
    bench.settle(probe, CircuitOutcome::Success);
    let transition = bench.stream_failed(origin, CircuitOutcome::FAILURE);
    assert!(matches!(
        transition,
        Some(Transition::Opened { opens: 2, .. })
    ));
}

#[test]
fn probe_that_is_given_up_frees_its_place() {
    let mut bench = default();
    bench.fail(5);
    bench.wait(30 * SECOND);
    for _ in 0..10 {
        assert_eq!(bench.call(CircuitOutcome::Ignored), None);
    }
    assert_eq!(bench.breaker.snapshot(bench.now).probes, 0);
}

#[test]
fn probe_without_an_outcome_fails_at_the_end_of_its_lease() {
    let mut bench = Bench::new(slow_config().with_attempt_timeout(60 * SECOND));
    bench.fail(5);
    bench.wait(30 * SECOND);
    let mut probe = bench.admit();
    // In a limiter's queue.
    bench.wait(50 * SECOND);
    assert_eq!(bench.refused(), Some(SECOND));
    bench.send(&mut probe);
    bench.wait(60 * SECOND);
    assert_eq!(bench.refused(), Some(SECOND), "it may still come");
    bench.wait(Duration::from_nanos(1));
    match bench.breaker.admit(bench.now, MIDDLE) {
        Admission::Rejected {
            retry_after,
            transition,
        } => {
            assert_eq!(retry_after, Some(60 * SECOND));
            assert!(matches!(
                transition,
                Some(Transition::Opened { opens: 2, .. })
            ));
        }
        Admission::Pass(_) => panic!("the probe has failed"),
    }
    assert_eq!(
        bench.settle(probe, CircuitOutcome::Success),
        None,
        "too late"
    );
    assert_eq!(bench.state(), BreakerState::Open);
}

#[test]
fn probe_that_was_not_sent_loses_its_place_without_a_failure() {
    let mut bench = default();
    bench.fail(5);
    bench.wait(30 * SECOND);
    let probe = bench.admit();
    assert!(bench.breaker.is_valid(&probe));
    bench.wait(601 * SECOND);
    let next = bench.permit();
    assert!(next.is_probe());
    assert!(!bench.breaker.is_valid(&probe) && bench.breaker.is_valid(&next));
    assert_eq!(bench.settle(probe, CircuitOutcome::FAILURE), None);
    assert_eq!(bench.breaker.snapshot(bench.now).opens, 1);
}

#[test]
fn ramp_admits_a_growing_share_of_calls() {
    let mut bench = default();
    bench.fail(5);
    bench.wait(30 * SECOND);
    bench.call(CircuitOutcome::Success);
    bench.call(CircuitOutcome::Success);
    let mut last = 0;
    for (second, expected) in [(0, 10), (10, 40), (20, 70), (29, 97), (30, 100)] {
        let mut at = bench.breaker.clone();
        let now = bench.now + second * SECOND;
        // One passes by the floor; all others by chance.
        let _ = at.admit(now, 0.0);
        let passed = (0..1000)
            .filter(|draw| {
                let chance = f64::from(*draw) / 1000.0;
                matches!(at.admit(now, chance), Admission::Pass(_))
            })
            .count();
        assert!(
            passed.abs_diff(expected * 10) <= 2,
            "{passed} at {second} s"
        );
        assert!(passed >= last);
        last = passed;
    }
    let wait = |bench: &mut Bench, chance| match bench.breaker.admit(bench.now, chance) {
        Admission::Rejected { retry_after, .. } => retry_after,
        Admission::Pass(_) => None,
    };
    assert_eq!(
        wait(&mut bench, 0.55),
        Some(15 * SECOND),
        "when the ramp is there"
    );
}

#[test]
fn ramp_admits_a_call_per_second() {
    let mut bench = default();
    bench.fail(5);
    bench.wait(30 * SECOND);
    bench.call(CircuitOutcome::Success);
    bench.call(CircuitOutcome::Success);
    for _ in 0..30 {
        bench.wait(SECOND);
        assert!(matches!(
            bench.breaker.admit(bench.now, 0.999),
            Admission::Pass(_)
        ));
    }
}

#[test]
fn manual_control_overrides_outcomes() {
    let mut bench = without_ramp();
    let early = bench.permit();
    bench.breaker.force_open();
    assert_eq!(bench.refused(), None, "the end is unknown");
    assert_eq!(bench.settle(early, CircuitOutcome::Success), None);
    bench.wait(10_000 * SECOND);
    assert_eq!(bench.state(), BreakerState::ForcedOpen);
    bench.breaker.force_close();
    bench.fail(100);
    assert_eq!(bench.state(), BreakerState::ForcedClosed);
    bench.breaker.resume_automatic();
    assert_eq!(bench.state(), BreakerState::Closed);
    assert!(bench.fail(5).is_some());
}

#[test]
fn idle_circuit_is_a_circuit_without_relevant_history() {
    let mut bench = default();
    assert!(bench.breaker.is_idle(bench.now));
    assert!(bench.breaker.fast_path_generation().is_some());
    bench.fail(1);
    assert!(!bench.breaker.is_idle(bench.now));
    assert!(bench.breaker.fast_path_generation().is_none());
    bench.wait(61 * SECOND);
    assert!(bench.breaker.is_idle(bench.now));
    bench.fail(5);
    bench.wait(30 * SECOND);
    assert!(!bench.breaker.is_idle(bench.now));
    let probe = bench.permit();
    bench.wait(3600 * SECOND);
    assert!(!bench.breaker.is_idle(bench.now), "a probe is out");
    bench.settle(probe, CircuitOutcome::Success);
    bench.call(CircuitOutcome::Success);
    assert!(!bench.breaker.is_idle(bench.now));
    bench.wait(300 * SECOND);
    assert!(bench.breaker.is_idle(bench.now));
    bench.breaker.force_open();
    bench.wait(3600 * SECOND);
    assert!(!bench.breaker.is_idle(bench.now));
}

#[test]
fn open_circuit_with_zero_forget_after_is_not_idle() {
    let config = slow_config()
        .with_ramp(None)
        .with_forget_after(Duration::ZERO);
    let mut bench = Bench::new(config);
    bench.fail(5);
    assert!(!bench.breaker.is_idle(bench.now), "open");
    bench.wait(30 * SECOND);
    bench.call(CircuitOutcome::Success);
    assert!(!bench.breaker.is_idle(bench.now), "one success of two");
    bench.call(CircuitOutcome::Success);
    assert!(bench.breaker.is_idle(bench.now), "closed");
}

#[test]
fn class_maps_to_circuit_outcomes() {
    let wait = Some(7 * SECOND);
    let of = |kind| {
        let outcomes = CircuitOutcomes::of(&Class::new(kind).with_retry_after(wait));
        (outcomes.availability, outcomes.credential)
    };
    let failure = (
        CircuitOutcome::Failure { retry_after: wait },
        CircuitOutcome::Ignored,
    );
    let broken = (CircuitOutcome::Broken, CircuitOutcome::Ignored);
    let busy = (
        CircuitOutcome::Busy { retry_after: wait },
        CircuitOutcome::Alive,
    );
    let barred = (
        CircuitOutcome::Alive,
        CircuitOutcome::Fatal { retry_after: wait },
    );
    // It can be raised at any time, so it is probed before.
    let spent = (
        CircuitOutcome::Alive,
        CircuitOutcome::Fatal { retry_after: None },
    );
    let alive = (CircuitOutcome::Alive, CircuitOutcome::Alive);
    let success = (CircuitOutcome::Success, CircuitOutcome::Success);
    for (kind, expected) in [
        (Kind::Success, success),
        (Kind::ModelRefusal, success),
        (Kind::RateLimited, busy),
        (Kind::RampLimited, busy),
        (Kind::SpendLimit, spent),
        (Kind::Unauthorized, barred),
        (Kind::Overloaded, failure),
        (Kind::ServerError, failure),
        (Kind::Timeout, failure),
        (Kind::Transport, broken),
        (Kind::Truncated, broken),
        (Kind::Conflict, alive),
        (Kind::BadRequest, alive),
        (Kind::Forbidden, alive),
        (Kind::NotFound, alive),
        (Kind::TooLarge, alive),
    ] {
        assert_eq!(of(kind), expected, "{kind:?}");
        let local = CircuitOutcomes::of(&Class::new(kind).into_local());
        assert_eq!(local, CircuitOutcomes::IGNORED, "{kind:?}");
    }
}

#[test]
fn class_of_one_request_blames_no_circuit() {
    for kind in [
        Kind::Overloaded,
        Kind::ServerError,
        Kind::Timeout,
        Kind::Transport,
    ] {
        let outcomes = CircuitOutcomes::of(&Class::new(kind).with_reach(Reach::Request));
        assert_eq!(outcomes, CircuitOutcomes::IGNORED, "{kind:?}");
    }
    assert_eq!(
        CircuitOutcomes::of(&Class::NOT_TAKEN),
        CircuitOutcomes::IGNORED
    );
    for kind in [Kind::RateLimited, Kind::SpendLimit, Kind::Unauthorized] {
        let outcomes = CircuitOutcomes::of(&Class::new(kind).with_reach(Reach::Request));
        let alive = CircuitOutcome::Alive;
        assert_eq!(
            (outcomes.availability, outcomes.credential),
            (alive, alive),
            "{kind:?}"
        );
    }
    // An account on hold is reported with 403.
    let hold = Class::new(Kind::Forbidden).with_reach(Reach::Credential);
    let fatal = CircuitOutcome::Fatal { retry_after: None };
    assert_eq!(CircuitOutcomes::of(&hold).credential, fatal);
}

/// Sends `calls` at once, and settles them in this order, with `outcome` of each index.
fn burst(bench: &mut Bench, calls: usize, outcome: impl Fn(usize) -> CircuitOutcome) -> u32 {
    let permits: Vec<_> = (0..calls).map(|_| bench.permit()).collect();
    let mut opened = 0;
    for (index, permit) in permits.into_iter().enumerate() {
        opened += u32::from(bench.settle(permit, outcome(index)).is_some());
    }
    opened
}

#[test]
fn connections_that_break_together_count_as_one_failure() {
    for calls in [2, 8, 64] {
        let mut bench = default();
        for wave in 1..=4 {
            assert_eq!(burst(&mut bench, calls, |_| CircuitOutcome::Broken), 0);
            assert_eq!(bench.breaker.snapshot(bench.now).failures, wave);
            bench.wait(SECOND);
        }
        let opened = burst(&mut bench, calls, |_| CircuitOutcome::Broken);
        assert_eq!(opened, 1, "the fifth wave");
    }
}

/// The number of calls that a model has failed when its circuit opens, by the calls at once.
#[test]
fn waves_in_which_all_calls_fail_open_the_circuit_in_the_second_wave_at_the_latest() {
    for (at_once, failed) in [(1, 5), (2, 7), (3, 7), (5, 9), (10, 17), (100, 167)] {
        let mut bench = default();
        let mut count = 0;
        'waves: for _ in 0..5 {
            let wave: Vec<_> = (0..at_once).map(|_| bench.permit()).collect();
            bench.wait(Duration::from_millis(5));
            for permit in wave {
                count += 1;
                if bench.settle(permit, CircuitOutcome::FAILURE).is_some() {
                    break 'waves;
                }
            }
        }
        assert_eq!(count, failed, "{at_once} at once");
    }
}

/// Retries of a burst that met a short outage still reach the server.
#[test]
fn single_wave_of_failures_does_not_open_the_circuit() {
    for calls in [5, 20, 1000] {
        let mut bench = default();
        assert_eq!(burst(&mut bench, calls, |_| CircuitOutcome::FAILURE), 0);
        assert_eq!(bench.state(), BreakerState::Closed);
    }
}

/// The first calls of a burst fail before the last are sent.
#[test]
fn burst_whose_connections_break_while_it_is_sent_counts_once() {
    let doubtful = CircuitOutcome::Doubtful { retry_after: None };
    for outcome in [CircuitOutcome::Broken, doubtful] {
        let mut bench = default();
        let mut calls = std::collections::VecDeque::new();
        for _ in 0..64 {
            bench.wait(Duration::from_millis(1));
            calls.push_back(bench.permit());
            if calls.len() == 3 {
                let first = calls.pop_front().expect("a call");
                assert_eq!(bench.settle(first, outcome), None);
            }
        }
        assert_eq!(bench.breaker.snapshot(bench.now).failures, 1);
    }
    // Calls one after the other are no burst.
    let mut bench = default();
    for _ in 0..4 {
        assert_eq!(bench.call(CircuitOutcome::Broken), None);
    }
    assert!(bench.call(CircuitOutcome::Broken).is_some());
}

#[test]
fn streams_that_break_together_count_as_one_failure() {
    let mut bench = default();
    let origins: Vec<_> = (0..8).map(|_| began(&mut bench)).collect();
    for origin in origins {
        assert_eq!(bench.stream_failed(origin, CircuitOutcome::Broken), None);
    }
    assert_eq!(bench.breaker.snapshot(bench.now).failures, 1);
}

#[test]
fn connection_lost_with_many_calls_counts_once_for_the_failure_rate() {
    let config = slow_config().with_failure_rate(Some(FailureRate::default()));
    let mut bench = Bench::new(config);
    assert_eq!(burst(&mut bench, 40, |_| CircuitOutcome::Broken), 0);
    // Statuses are not of one connection, so each counts for the rate.
    assert_eq!(burst(&mut bench, 40, |_| CircuitOutcome::FAILURE), 1);
}

#[test]
fn quick_failures_of_a_burst_whose_successes_are_slow_do_not_open_the_circuit() {
    let mut bench = default();
    let mut slow: Vec<_> = (0..1000).map(|_| bench.permit()).collect();
    for failed in slow.split_off(990) {
        assert_eq!(bench.settle(failed, CircuitOutcome::FAILURE), None);
        bench.wait(Duration::from_millis(2));
    }
    // The same for calls that are sent one after the other, while those before are pending.
    let mut pending = Vec::new();
    for call in 0..200 {
        let permit = bench.permit();
        bench.wait(Duration::from_millis(5));
        if call % 10 == 0 {
            assert_eq!(bench.settle(permit, CircuitOutcome::FAILURE), None);
        } else {
            pending.push(permit);
        }
    }
    for permit in slow.into_iter().chain(pending) {
        bench.settle(permit, CircuitOutcome::Success);
    }
    assert_eq!(bench.state(), BreakerState::Closed);
    assert_eq!(bench.breaker.snapshot(bench.now).failures, 0);
}

#[test]
fn calls_that_hang_and_fail_one_by_one_open_the_circuit() {
    let mut bench = default();
    let permits: Vec<_> = (0..5).map(|_| bench.permit()).collect();
    bench.wait(600 * SECOND);
    let mut opened = 0;
    for permit in permits {
        opened += u32::from(bench.settle(permit, CircuitOutcome::FAILURE).is_some());
        bench.wait(SECOND);
    }
    assert_eq!(opened, 1);
}

/// A few calls fail quickly among many whose successes take a minute.
#[test]
fn few_failures_among_slow_successes_never_open_the_circuit() {
    let wave = |bench: &mut Bench, calls: usize, share: usize| -> Vec<Permit> {
        let mut wave: Vec<_> = (0..calls).map(|_| bench.permit()).collect();
        for failed in wave.split_off(calls - calls / share) {
            assert_eq!(bench.settle(failed, CircuitOutcome::FAILURE), None);
        }
        wave
    };
    let mut bench = default();
    let mut pending: Vec<_> = (0..11).map(|_| Vec::new()).collect();
    for round in 0..60 {
        // The successes of a minute before.
        for permit in std::mem::take(&mut pending[round % 11]) {
            bench.settle(permit, CircuitOutcome::Success);
        }
        pending[round % 11] = wave(&mut bench, 100, 10);
        bench.wait(6 * SECOND);
    }
    assert_eq!(bench.state(), BreakerState::Closed);
}

/// The failures of a single burst come one after the other, over more than five seconds.
#[test]
fn failures_spread_over_a_burst_of_slow_successes_open_nothing() {
    let mut bench = default();
    let mut burst: Vec<_> = (0..1000).map(|_| bench.permit()).collect();
    for failed in burst.split_off(980) {
        assert_eq!(bench.settle(failed, CircuitOutcome::FAILURE), None);
        bench.wait(SECOND);
    }
    for permit in burst {
        bench.settle(permit, CircuitOutcome::Success);
    }
    assert_eq!(bench.breaker.snapshot(bench.now).failures, 0);
}

#[test]
fn long_calls_of_before_do_not_delay_the_opening() {
    let mut bench = default();
    let long: Vec<_> = (0..100).map(|_| bench.permit()).collect();
    bench.wait(SECOND);
    assert_eq!(bench.fail(4), None);
    assert!(bench.fail(1).is_some());
    drop(long);
}

#[test]
fn calls_in_a_queue_do_not_delay_the_opening() {
    let mut bench = default();
    bench.fail(1);
    let queued: Vec<_> = (0..100).map(|_| bench.admit()).collect();
    assert_eq!(bench.fail(3), None);
    assert!(bench.fail(1).is_some());
    drop(queued);
}

/// 200 calls a second, all of which time out.
#[test]
fn calls_that_time_out_open_the_circuit_soon_after_the_first() {
    for (timeout, most) in [(10, 12), (30, 25), (600, 110)] {
        let mut bench = default();
        let mut pending = std::collections::VecDeque::new();
        let mut opened = None;
        'load: for second in 0..900 {
            for _ in 0..200 {
                pending.push_back((second + timeout, bench.permit()));
            }
            while pending.front().is_some_and(|(due, _)| *due <= second) {
                let (_, permit) = pending.pop_front().expect("a call");
                if bench.settle(permit, CircuitOutcome::FAILURE).is_some() {
                    opened = Some(second - timeout);
                    break 'load;
                }
            }
            bench.wait(SECOND);
        }
        let opened = opened.expect("an opening");
        assert!(opened <= most, "{opened} s after timeouts of {timeout} s");
    }
}

#[test]
fn pending_calls_delay_the_opening_but_do_not_prevent_it() {
    let mut bench = default();
    bench.fail(1);
    let hung: Vec<_> = (0..100).map(|_| bench.permit()).collect();
    assert_eq!(bench.fail(20), None);
    bench.wait(40 * SECOND);
    assert_eq!(bench.fail(5), None);
    bench.wait(40 * SECOND);
    assert!(bench.fail(1).is_some(), "no success in 80 s");
    drop(hung);
}

/// As when its caller keeps it and does not poll it.
#[test]
fn another_probe_is_admitted_after_a_minute_without_an_outcome() {
    let mut bench = without_ramp();
    bench.fail(5);
    bench.wait(30 * SECOND);
    let kept = [bench.admit(), bench.permit_after(61 * SECOND)];
    assert_eq!(bench.refused(), Some(SECOND), "one more, not all");
    bench.wait(61 * SECOND);
    assert_eq!(bench.call(CircuitOutcome::Success), None);
    assert_eq!(
        bench.call(CircuitOutcome::Success),
        Some(Transition::Closed)
    );
    for permit in kept {
        assert_eq!(bench.settle(permit, CircuitOutcome::FAILURE), None);
    }
}

#[test]
fn second_doubtful_401_in_a_row_opens_the_circuit() {
    let doubtful = CircuitOutcome::Doubtful { retry_after: None };
    let mut bench = default();
    assert_eq!(burst(&mut bench, 8, |_| doubtful), 0, "together");
    bench.call(CircuitOutcome::Success);
    assert_eq!(bench.call(doubtful), None, "not in a row");
    bench.wait(600 * SECOND);
    assert!(bench.call(doubtful).is_some(), "in a row, however late");
}
