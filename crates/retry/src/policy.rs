//! Whether to try again, and when. Pure: time, chance and the budget come in as arguments.

use std::{num::NonZeroU32, time::Duration};

use tokio::time::Instant;
use tower_claude_core::Class;

use crate::{Backoff, RetryBudget, budget::Payment};

/// The longest `max_retry_after`: longer waits are another program's business.
pub(crate) const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Attempts that got no answer in time before we stop: the work may be done, and paid for, twice
/// already.
const UNANSWERED: u32 = 2;

/// The rules.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) max_attempts: NonZeroU32,
    pub(crate) backoff: Backoff,
    pub(crate) max_retry_after: Duration,
}

impl Policy {
    /// Whether no attempt follows this one. What was spent at other targets counts, so that targets
    /// times attempts never multiply; the first attempt at each is always made.
    pub(crate) const fn is_last(&self, number: u32, spent: u32) -> bool {
        number.saturating_add(spent) >= self.max_attempts.get()
    }
}

/// The attempt that failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) class: Class,
    /// From 1.
    pub(crate) number: u32,
    /// Attempts that a layer outside has already spent on this call, at other targets.
    pub(crate) spent: u32,
    /// Attempts so far, with this one, that got no answer in time.
    pub(crate) unanswered: u32,
    /// Whether the request can be sent again.
    pub(crate) replayable: bool,
    /// The pause that a limiter inside has taken on.
    pub(crate) paced: Option<Duration>,
    /// The wait before this attempt.
    pub(crate) last_delay: Duration,
    pub(crate) now: Instant,
    pub(crate) deadline: Option<Instant>,
}

/// What follows.
#[derive(Debug)]
pub(crate) enum Decision {
    /// The outcome goes up.
    Return { because: &'static str },
    /// Another attempt after `delay`.
    Retry { delay: Duration, payment: Payment },
}

impl Decision {
    const fn stop(because: &'static str) -> Self {
        Self::Return { because }
    }
}

/// Decides, for a random number in `[0, 1)`. Takes the price of a retry out of `budget`.
pub(crate) fn decide(
    policy: &Policy,
    attempt: &Attempt,
    budget: &RetryBudget,
    random: f64,
) -> Decision {
    let class = &attempt.class;
    if !class.is_retryable() {
        return Decision::stop("not_retryable");
    }
    if policy.is_last(attempt.number, attempt.spent) {
        return Decision::stop("attempts");
    }
    if attempt.unanswered >= UNANSWERED {
        return Decision::stop("unanswered");
    }
    if !attempt.replayable {
        return Decision::stop("body");
    }
    let asked = class.retry_after.max(attempt.paced).unwrap_or_default();
    if asked > policy.max_retry_after {
        return Decision::stop("retry_after");
    }
    // `wait` is until the next attempt can be sent, `delay` our own part of it.
    let (wait, delay) = if attempt.paced.is_some() {
        (asked, Duration::ZERO)
    } else if asked > Duration::ZERO {
        let delay = policy.backoff.after(asked, random);
        (delay, delay)
    } else {
        let delay = policy
            .backoff
            .delay(attempt.number, attempt.last_delay, random);
        (delay, delay)
    };
    if attempt
        .deadline
        .is_some_and(|deadline| deadline.saturating_duration_since(attempt.now) <= wait)
    {
        return Decision::stop("deadline");
    }
    let payment = if class.is_rate_limit() {
        Some(Payment::FREE)
    } else {
        budget.withdraw(attempt.now)
    };
    match payment {
        Some(payment) => Decision::Retry { delay, payment },
        None => Decision::stop("budget"),
    }
}
