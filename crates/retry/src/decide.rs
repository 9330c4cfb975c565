//! The decision to send a failed call again. A pure function: time, chance and the budget are
//! arguments.

use std::{num::NonZeroU32, time::Duration};

use tokio::time::Instant;
use tower_claude_core::{Class, Kind, Reach, driver::Reroute};

use crate::{
    backoff::Backoff,
    budget::{RetryBudget, RetryPermit},
};

/// The number of unanswered attempts after which a call is given up. The server may have done the
/// work of each, and billed it.
const UNANSWERED: u32 = 2;

/// The most attempts of a call that do not count because the server did not take them. A server
/// that takes nothing does not keep a call for ever.
pub(crate) const MOST_NOT_TAKEN: u32 = 3;

/// The most attempts of a call in all, those that were not sent included. No list of targets is
/// so long.
pub(crate) const MOST_IN_ALL: u32 = 100;

/// The longest wait before an attempt if another model may answer at once.
const MOST_WITH_STAND_IN: Duration = Duration::from_secs(3);

/// The rules of a layer.
#[derive(Clone, Debug)]
pub(crate) struct RetryRules {
    pub(crate) max_attempts: NonZeroU32,
    pub(crate) backoff: Backoff,
    pub(crate) max_retry_after: Duration,
}

impl RetryRules {
    /// Returns true if no attempt follows this one. Attempts at other targets count, so that
    /// targets times attempts never multiply. The first attempt at each target is always made.
    pub(crate) const fn is_last(&self, number: u32, spent: u32) -> bool {
        number.saturating_add(spent) >= self.max_attempts.get()
    }
}

/// An attempt that failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailedAttempt {
    pub(crate) class: Class,
    /// The hash of the host.
    pub(crate) host: u64,
    /// From 1, without the attempts that the server did not take.
    pub(crate) number: u32,
    /// The attempts before this one that the server did not take.
    pub(crate) not_taken: u32,
    /// The attempts that an outer layer has made at other targets.
    pub(crate) spent: u32,
    /// The attempts so far without an answer in time, including this one.
    pub(crate) unanswered: u32,
    /// True if the request can be sent again.
    pub(crate) replayable: bool,
    /// True if the request may create something, so that it must not be processed twice.
    pub(crate) creates: bool,
    /// The pause that an inner limiter imposes.
    pub(crate) paused: Option<Duration>,
    /// The wait before this attempt.
    pub(crate) last_delay: Duration,
    pub(crate) now: Instant,
    pub(crate) deadline: Option<Instant>,
    /// The time until which an inner layer would reject another attempt.
    pub(crate) blocked_until: Option<Instant>,
    /// True if an outer layer may have another model ready.
    pub(crate) has_stand_in: bool,
    /// The way of another attempt, if an inner layer chooses among several targets.
    pub(crate) reroute: Option<Reroute>,
}

/// The next step of a call.
#[derive(Debug)]
pub(crate) enum Decision {
    /// The failure goes to the caller.
    Return { because: &'static str },
    /// The failure goes to the outer layer, which may have another model. Otherwise another attempt
    /// may follow after this wait.
    Postpone { wait: Duration },
    /// Another attempt follows after `delay`.
    Retry {
        delay: Duration,
        permit: RetryPermit,
        /// True if the attempt that failed does not count.
        is_free: bool,
    },
}

impl Decision {
    const fn stop(because: &'static str) -> Self {
        Self::Return { because }
    }
}

/// Decides for a random number in `[0, 1)`. Takes the price of a retry out of `budget`.
pub(crate) fn decide(
    rules: &RetryRules,
    attempt: &FailedAttempt,
    budget: &RetryBudget,
    random: f64,
) -> Decision {
    let class = &attempt.class;
    match attempt.reroute {
        Some(Reroute::AtOnce) => return decide_at_once(rules, attempt, budget),
        Some(Reroute::Nowhere) => return Decision::stop("targets"),
        _ => {}
    }
    // A request that the client cannot send is local as well.
    let is_targets = attempt.reroute.is_some();
    if class.local && class.kind != Kind::BadRequest && !is_targets {
        return Decision::stop("refused");
    }
    // Of several targets, another one than the last may answer when it is asked again.
    if !class.is_retryable() && !is_targets {
        return Decision::stop("not_retryable");
    }
    if attempt.creates && !class.unprocessed {
        return Decision::stop("creates");
    }
    let left = attempt
        .deadline
        .map(|deadline| deadline.saturating_duration_since(attempt.now));
    let blocked = attempt.blocked_until.map_or(Duration::ZERO, |until| {
        until.saturating_duration_since(attempt.now)
    });
    if class.is_not_taken()
        && blocked == Duration::ZERO
        && attempt.not_taken < MOST_NOT_TAKEN
        && attempt.replayable
        && left != Some(Duration::ZERO)
    {
        return Decision::Retry {
            delay: Duration::ZERO,
            permit: RetryPermit::UNCHARGED,
            is_free: true,
        };
    }
    if rules.is_last(attempt.number, attempt.spent) {
        return Decision::stop("attempts");
    }
    if attempt.unanswered >= UNANSWERED {
        return Decision::stop("unanswered");
    }
    if !attempt.replayable {
        return Decision::stop("body");
    }
    let (asked, paused) = match attempt.reroute {
        Some(Reroute::After(wait)) => (wait, None),
        _ => {
            let asked = class.retry_after.max(attempt.paused);
            (asked.unwrap_or_default(), attempt.paused)
        }
    };
    if asked > rules.max_retry_after {
        return Decision::stop("retry_after");
    }
    // `wait` is the time until the next attempt can be sent, `delay` this layer's part of it.
    let (wait, delay) = if paused.is_some() {
        (asked, Duration::ZERO)
    } else if asked > Duration::ZERO {
        let delay = rules.backoff.after(asked, random);
        (delay, delay)
    } else {
        let delay = rules
            .backoff
            .delay(attempt.number, attempt.last_delay, random);
        (delay, delay)
    };
    if wait < blocked && !is_targets {
        return Decision::stop("circuit");
    }
    if attempt.has_stand_in && wait > MOST_WITH_STAND_IN && is_of_model(class) {
        return Decision::Postpone { wait };
    }
    if left.is_some_and(|left| left <= wait) {
        return Decision::stop("deadline");
    }
    match permit(attempt, budget) {
        Some(permit) => Decision::Retry {
            delay,
            permit,
            is_free: false,
        },
        None => Decision::stop("budget"),
    }
}

/// Takes the price of another attempt out of the budget. `None` if it is empty.
fn permit(attempt: &FailedAttempt, budget: &RetryBudget) -> Option<RetryPermit> {
    let class = &attempt.class;
    if class.is_rate_limit() {
        Some(RetryPermit::UNCHARGED)
    } else if is_lost(class) && attempt.number == 1 {
        budget.at(attempt.host).withdraw_together(attempt.now)
    } else {
        budget.at(attempt.host).withdraw(attempt.now)
    }
}

/// Decides for a call that another target can take at once.
///
/// Neither the wait nor the class of the failure concerns the other target. An attempt that was not
/// sent has cost nothing, and does not count.
fn decide_at_once(rules: &RetryRules, attempt: &FailedAttempt, budget: &RetryBudget) -> Decision {
    let class = &attempt.class;
    if attempt.creates && !class.unprocessed {
        return Decision::stop("creates");
    }
    let all = attempt.number.saturating_add(attempt.not_taken);
    let is_free = class.local && all < MOST_IN_ALL;
    if !is_free && rules.is_last(attempt.number, attempt.spent) {
        return Decision::stop("attempts");
    }
    if !is_free && attempt.unanswered >= UNANSWERED {
        return Decision::stop("unanswered");
    }
    if !attempt.replayable {
        return Decision::stop("body");
    }
    let deadline = attempt.deadline;
    if deadline.is_some_and(|deadline| deadline <= attempt.now) {
        return Decision::stop("deadline");
    }
    if is_free {
        return Decision::Retry {
            delay: Duration::ZERO,
            permit: RetryPermit::UNCHARGED,
            is_free,
        };
    }
    match permit(attempt, budget) {
        Some(permit) => Decision::Retry {
            delay: Duration::ZERO,
            permit,
            is_free: false,
        },
        None => Decision::stop("budget"),
    }
}

/// Returns true if another model may do better, and the failure is no rate limit.
const fn is_of_model(class: &Class) -> bool {
    matches!(class.reach, Reach::Model)
        && matches!(
            class.kind,
            Kind::Overloaded
                | Kind::ServerError
                | Kind::Timeout
                | Kind::Transport
                | Kind::Truncated
        )
}

/// Returns true if the connection was lost, possibly with other calls on it.
const fn is_lost(class: &Class) -> bool {
    matches!(class.kind, Kind::Transport | Kind::Truncated)
}
