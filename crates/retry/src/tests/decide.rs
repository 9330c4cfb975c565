use std::{num::NonZeroU32, time::Duration};

use tokio::time::Instant;
use tower_claude_core::{Class, Kind, Reach, driver::Reroute};

use crate::{
    Backoff, Jitter, RetryBudget,
    decide::{Decision, FailedAttempt, RetryRules, decide},
};

const SECOND: Duration = Duration::from_secs(1);

fn rules() -> RetryRules {
    RetryRules {
        max_attempts: NonZeroU32::new(5).expect("not zero"),
        backoff: Backoff::new(SECOND, 60 * SECOND, Jitter::None),
        max_retry_after: 60 * SECOND,
    }
}

fn attempt(kind: Kind) -> FailedAttempt {
    FailedAttempt {
        class: Class::new(kind),
        host: 0,
        number: 1,
        not_taken: 0,
        spent: 0,
        unanswered: 0,
        replayable: true,
        creates: false,
        paused: None,
        last_delay: Duration::ZERO,
        now: Instant::now(),
        deadline: None,
        blocked_until: None,
        has_stand_in: false,
        reroute: None,
    }
}

/// Returns the wait, or the reason why there is none.
fn decided(attempt: &FailedAttempt) -> Result<Duration, &'static str> {
    decided_with(attempt, &RetryBudget::new())
}

fn decided_with(attempt: &FailedAttempt, budget: &RetryBudget) -> Result<Duration, &'static str> {
    match decide(&rules(), attempt, budget, 0.5) {
        Decision::Retry {
            delay, mut permit, ..
        } => {
            permit.mark_sent();
            Ok(delay)
        }
        Decision::Return { because } => Err(because),
        Decision::Postpone { .. } => Err("stand_in"),
    }
}

#[test]
fn transient_kinds_are_retried() {
    use Kind::*;
    for kind in [
        RateLimited,
        RampLimited,
        Overloaded,
        ServerError,
        Timeout,
        Transport,
        Conflict,
        Truncated,
    ] {
        assert_eq!(decided(&attempt(kind)), Ok(SECOND), "{kind:?}");
    }
    for kind in [
        Success,
        SpendLimit,
        BadRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        TooLarge,
        ModelRefusal,
    ] {
        assert_eq!(decided(&attempt(kind)), Err("not_retryable"), "{kind:?}");
    }
}

#[test]
fn local_rejection_is_not_retried() {
    let mut attempt = attempt(Kind::RateLimited);
    attempt.class = attempt.class.into_local().with_should_retry(Some(true));
    assert_eq!(decided(&attempt), Err("refused"));
}

#[test]
fn should_retry_overrules_kind() {
    let mut no = attempt(Kind::Overloaded);
    no.class.should_retry = Some(false);
    assert_eq!(decided(&no), Err("not_retryable"));
    let mut yes = attempt(Kind::BadRequest);
    yes.class.should_retry = Some(true);
    assert_eq!(decided(&yes), Ok(SECOND));
}

#[test]
fn last_attempt_is_not_retried() {
    let mut attempt = attempt(Kind::Overloaded);
    attempt.number = 4;
    assert_eq!(decided(&attempt), Ok(8 * SECOND));
    attempt.number = 5;
    assert_eq!(decided(&attempt), Err("attempts"));
}

#[test]
fn unanswered_attempt_is_retried_once() {
    let mut attempt = attempt(Kind::Timeout);
    attempt.unanswered = 1;
    assert_eq!(decided(&attempt), Ok(SECOND));
    attempt.unanswered = 2;
    assert_eq!(decided(&attempt), Err("unanswered"));
}

#[test]
fn streamed_request_is_not_retried() {
    let mut attempt = attempt(Kind::Overloaded);
    attempt.replayable = false;
    assert_eq!(decided(&attempt), Err("body"));
}

#[test]
fn retry_after_over_maximum_is_not_waited_for() {
    let mut attempt = attempt(Kind::RateLimited);
    attempt.class.retry_after = Some(60 * SECOND);
    assert_eq!(decided(&attempt), Ok(60 * SECOND));
    attempt.class.retry_after = Some(61 * SECOND);
    assert_eq!(decided(&attempt), Err("retry_after"));
    // Nothing asked for: the schedule.
    attempt.class.retry_after = Some(Duration::ZERO);
    assert_eq!(decided(&attempt), Ok(SECOND));
}

#[test]
fn pause_of_limiter_is_not_waited_for_twice() {
    let mut attempt = attempt(Kind::RateLimited);
    attempt.class.retry_after = Some(30 * SECOND);
    attempt.paused = Some(30 * SECOND);
    assert_eq!(decided(&attempt), Ok(Duration::ZERO));
    attempt.deadline = Some(attempt.now + 29 * SECOND);
    assert_eq!(decided(&attempt), Err("deadline"));
    attempt.paused = Some(61 * SECOND);
    assert_eq!(decided(&attempt), Err("retry_after"));
}

#[test]
fn wait_past_deadline_gives_up() {
    let mut attempt = attempt(Kind::Overloaded);
    attempt.deadline = Some(attempt.now + SECOND);
    assert_eq!(decided(&attempt), Err("deadline"));
    attempt.deadline = Some(attempt.now + SECOND + Duration::from_millis(1));
    assert_eq!(decided(&attempt), Ok(SECOND));
    attempt.deadline = Some(attempt.now);
    assert_eq!(decided(&attempt), Err("deadline"));
}

#[test]
fn empty_budget_stops_all_but_rate_limits() {
    let budget = RetryBudget::new()
        .with_initial(1)
        .with_refill_per_second(0.0);
    assert_eq!(
        decided_with(&attempt(Kind::RateLimited), &budget),
        Ok(SECOND)
    );
    assert_eq!(
        decided_with(&attempt(Kind::RampLimited), &budget),
        Ok(SECOND)
    );
    assert_eq!(
        decided_with(&attempt(Kind::Overloaded), &budget),
        Ok(SECOND)
    );
    assert_eq!(
        decided_with(&attempt(Kind::Overloaded), &budget),
        Err("budget")
    );
    assert_eq!(
        decided_with(&attempt(Kind::RateLimited), &budget),
        Ok(SECOND)
    );
}

#[test]
fn attempts_at_other_targets_count() {
    for (spent, number, goes_on) in [
        (0, 4, true),
        (3, 1, true),
        (4, 1, false),
        (9, 1, false),
        (1, 4, false),
    ] {
        let attempt = FailedAttempt {
            spent,
            number,
            ..attempt(Kind::Overloaded)
        };
        let expected = if goes_on { None } else { Some("attempts") };
        assert_eq!(decided(&attempt).err(), expected, "{spent} + {number}");
    }
}

#[test]
fn attempt_that_was_not_taken_is_sent_again_at_once_and_free() {
    let empty = RetryBudget::new()
        .with_initial(0)
        .with_refill_per_second(0.0);
    let mut attempt = attempt(Kind::Transport);
    attempt.class = Class::NOT_TAKEN;
    attempt.creates = true;
    for not_taken in 0..3 {
        attempt.not_taken = not_taken;
        assert_eq!(decided_with(&attempt, &empty), Ok(Duration::ZERO));
    }
    attempt.not_taken = 3;
    assert_eq!(decided(&attempt), Ok(SECOND), "as any other failure");
    assert_eq!(decided_with(&attempt, &empty), Err("budget"));
    attempt.not_taken = 0;
    attempt.deadline = Some(attempt.now);
    assert_eq!(decided(&attempt), Err("deadline"));
    attempt.deadline = None;
    attempt.replayable = false;
    assert_eq!(decided(&attempt), Err("body"));
}

#[test]
fn request_that_creates_is_retried_only_if_it_was_not_processed() {
    use Kind::*;
    for kind in [ServerError, Timeout, Transport, Conflict, Truncated] {
        let mut attempt = attempt(kind);
        attempt.creates = true;
        assert_eq!(decided(&attempt), Err("creates"), "{kind:?}");
        attempt.class = attempt.class.into_unprocessed();
        assert_eq!(decided(&attempt), Ok(SECOND), "{kind:?}");
    }
    for kind in [RateLimited, RampLimited, Overloaded] {
        let mut attempt = attempt(kind);
        attempt.creates = true;
        assert_eq!(decided(&attempt), Ok(SECOND), "{kind:?}");
    }
}

#[test]
fn connections_lost_together_are_charged_once() {
    let budget = RetryBudget::new().with_refill_per_second(0.0);
    let start = Instant::now();
    let lost = |kind, now, number| FailedAttempt {
        now,
        number,
        ..attempt(kind)
    };
    for kind in [Kind::Transport, Kind::Truncated] {
        for _ in 0..40 {
            decided_with(&lost(kind, start, 1), &budget).expect("a retry");
        }
    }
    assert_eq!(budget.thousandths(start), 9000);
    // Lost later, and a second retry: each pays.
    let later = start + SECOND;
    for (now, number) in [(later, 1), (later, 2)] {
        decided_with(&lost(Kind::Transport, now, number), &budget).expect("a retry");
    }
    assert_eq!(budget.thousandths(later), 7000);
    // Other failures that come together.
    for _ in 0..7 {
        decided_with(&attempt(Kind::Overloaded), &budget).expect("a retry");
    }
    assert_eq!(budget.thousandths(later), 0);
    let much_later = lost(Kind::Transport, later + SECOND, 1);
    assert_eq!(decided_with(&much_later, &budget), Err("budget"));
}

#[test]
fn open_circuit_is_not_waited_for_in_vain() {
    for class in [Class::new(Kind::Overloaded), Class::NOT_TAKEN] {
        let mut attempt = attempt(Kind::Overloaded);
        attempt.class = class;
        attempt.blocked_until = Some(attempt.now + 10 * SECOND);
        assert_eq!(decided(&attempt), Err("circuit"));
        attempt.blocked_until = Some(attempt.now + SECOND);
        assert_eq!(decided(&attempt), Ok(SECOND), "it is over by then");
    }
}

#[test]
fn long_wait_with_a_stand_in_is_postponed() {
    for kind in [
        Kind::Overloaded,
        Kind::ServerError,
        Kind::Timeout,
        Kind::Transport,
    ] {
        let with_stand_in = |number, wait| FailedAttempt {
            number,
            class: Class::new(kind).with_retry_after(wait),
            has_stand_in: true,
            ..attempt(kind)
        };
        assert_eq!(decided(&with_stand_in(1, None)), Ok(SECOND));
        assert_eq!(decided(&with_stand_in(2, None)), Ok(2 * SECOND));
        assert_eq!(decided(&with_stand_in(3, None)), Err("stand_in"));
        assert_eq!(
            decided(&with_stand_in(1, Some(5 * SECOND))),
            Err("stand_in")
        );
    }
    // A limiter waits for these, and a stand-in may share the limit.
    let limited = FailedAttempt {
        number: 3,
        has_stand_in: true,
        ..attempt(Kind::RateLimited)
    };
    assert_eq!(decided(&limited), Ok(4 * SECOND));
}

fn rerouted(way: Reroute, class: Class) -> FailedAttempt {
    FailedAttempt {
        class,
        reroute: Some(way),
        ..attempt(class.kind)
    }
}

#[test]
fn other_target_gets_the_call_at_once_whatever_the_failed_one_asked_for() {
    let asked = Some(3_600 * SECOND);
    for class in [
        Class::new(Kind::RateLimited).with_retry_after(asked),
        Class::new(Kind::Overloaded).with_should_retry(Some(false)),
        Class::new(Kind::Unauthorized),
        Class::new(Kind::SpendLimit),
        Class::new(Kind::Overloaded).into_local(),
    ] {
        let mut failed = rerouted(Reroute::AtOnce, class);
        failed.blocked_until = Some(failed.now + 60 * SECOND);
        failed.has_stand_in = true;
        failed.paused = Some(60 * SECOND);
        assert_eq!(decided(&failed), Ok(Duration::ZERO), "{class:?}");
    }
}

#[test]
fn other_target_is_not_asked_beyond_the_limits_of_a_call() {
    let overloaded = Class::new(Kind::Overloaded);
    let failed = rerouted(Reroute::AtOnce, overloaded);
    let with = |change: fn(&mut FailedAttempt)| {
        let mut failed = failed;
        change(&mut failed);
        decided(&failed)
    };
    assert_eq!(with(|it| it.number = 5), Err("attempts"));
    assert_eq!(with(|it| it.unanswered = 2), Err("unanswered"));
    assert_eq!(with(|it| it.replayable = false), Err("body"));
    assert_eq!(with(|it| it.deadline = Some(it.now)), Err("deadline"));
    assert_eq!(
        with(|it| (it.creates, it.class) = (true, Class::new(Kind::Timeout))),
        Err("creates")
    );
    let budget = RetryBudget::new();
    let spent = (0..100).map(|_| decided_with(&failed, &budget));
    assert!(spent.into_iter().any(|it| it == Err("budget")));
}

#[test]
fn attempt_that_was_not_sent_does_not_count_for_the_other_targets() {
    let rejected = Class::new(Kind::Overloaded).into_local();
    for number in [5, 20] {
        let failed = FailedAttempt {
            number,
            ..rerouted(Reroute::AtOnce, rejected)
        };
        let decision = decide(&rules(), &failed, &RetryBudget::new(), 0.5);
        assert!(matches!(decision, Decision::Retry { is_free: true, .. }));
    }
    // A policy that always reports another target ends as well.
    let failed = FailedAttempt {
        not_taken: 100,
        number: 5,
        ..rerouted(Reroute::AtOnce, rejected)
    };
    assert_eq!(decided(&failed), Err("attempts"));
}

#[test]
fn tried_targets_are_asked_again_after_the_wait_of_the_soonest() {
    let class = Class::new(Kind::RateLimited).with_retry_after(Some(3_600 * SECOND));
    let after = |wait| decided(&rerouted(Reroute::After(wait), class));
    assert!(after(7 * SECOND).is_ok_and(|wait| wait >= 7 * SECOND));
    assert_eq!(after(61 * SECOND), Err("retry_after"));
    // Nothing is asked for, so the usual delay applies.
    assert_eq!(after(Duration::ZERO), Ok(SECOND));
    // The last target cannot serve the call, an earlier one can.
    let unauthorized = Class::new(Kind::Unauthorized).with_reach(Reach::Credential);
    let failed = rerouted(Reroute::After(Duration::ZERO), unauthorized);
    assert_eq!(decided(&failed), Ok(SECOND));
}

#[test]
fn call_that_no_target_can_serve_is_given_up() {
    let failed = rerouted(Reroute::Nowhere, Class::new(Kind::Overloaded));
    assert_eq!(decided(&failed), Err("targets"));
}
