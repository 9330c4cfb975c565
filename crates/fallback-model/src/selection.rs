//! The choice of the next target. Pure: the time and the state of the targets are arguments.

use std::time::Duration;

use tower_claude_core::{Class, Kind, Reach};

use crate::cooldown::{Signal, Unavailable};

/// The most models that one call may be sent to, including the model asked for.
pub(crate) const MAX_TARGETS: usize = 17;

/// The outcomes that lead to a fallback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Triggers {
    /// A response in which the model declined.
    pub(crate) refusals: bool,
    /// A spend limit.
    pub(crate) spend_limits: bool,
    /// A prompt that is longer than the context window.
    pub(crate) long_prompts: bool,
}

/// The set of models that may do better after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FallbackScope {
    /// No other model would do better.
    None,
    /// Models of another rate group.
    OtherRateGroup,
    /// Models with a larger context window.
    LargerWindow,
    /// Any other model.
    AnyOther,
}

impl Triggers {
    /// Returns the scope of the fallback after the model asked for failed. An invalid request stays
    /// invalid for every model, and credentials and money are the same for all. Another model helps
    /// if the failure reaches the model, and no further.
    pub(crate) const fn scope(self, class: &Class) -> FallbackScope {
        match class.kind {
            Kind::RateLimited | Kind::RampLimited => FallbackScope::OtherRateGroup,
            // The queue of a limiter is longer than the caller waits. Another rate group has its
            // own.
            Kind::Timeout if class.local => FallbackScope::OtherRateGroup,
            Kind::Overloaded
            | Kind::ServerError
            | Kind::Timeout
            | Kind::Transport
            | Kind::Truncated
                if !matches!(class.reach, Reach::Request | Reach::Credential) =>
            {
                FallbackScope::AnyOther
            }
            // Another request takes another stream or connection.
            Kind::Transport if class.is_not_taken() => FallbackScope::AnyOther,
            Kind::TooLarge if self.long_prompts && !class.local => FallbackScope::LargerWindow,
            // The model is missing, closed to this account, or cannot take this request.
            Kind::NotFound
            | Kind::Forbidden
            | Kind::BadRequest
            | Kind::TooLarge
            | Kind::SpendLimit
                if matches!(class.reach, Reach::Model) =>
            {
                FallbackScope::AnyOther
            }
            Kind::ModelRefusal if self.refusals => FallbackScope::AnyOther,
            Kind::SpendLimit if self.spend_limits => FallbackScope::AnyOther,
            _ => FallbackScope::None,
        }
    }

    /// Returns the scope of the fallback after a stand-in failed. The next stand-in may accept what
    /// this one rejected, since the request was not made for it.
    pub(crate) const fn scope_of_stand_in(self, class: &Class) -> FallbackScope {
        match class.kind {
            Kind::BadRequest | Kind::Forbidden | Kind::TooLarge | Kind::SpendLimit
                if !class.local =>
            {
                FallbackScope::AnyOther
            }
            _ => self.scope(class),
        }
    }

    /// Returns the signals that an outcome gives about its target. A local rejection gives none:
    /// the layer that rejected decides when the next request passes, and another try costs nothing.
    pub(crate) const fn signals(self, class: &Class) -> SignalPair {
        if class.local {
            return SignalPair::NONE;
        }
        let retry_after = class.least_cool_down();
        let failure = Signal::Failure { retry_after };
        let (model, group) = match class.kind {
            Kind::Success | Kind::ModelRefusal => (Signal::Success, Signal::Success),
            Kind::RateLimited | Kind::RampLimited if !matches!(class.reach, Reach::Request) => {
                (Signal::Busy { retry_after }, failure)
            }
            // A retired or closed model stays so. Each request that tries it first loses time.
            Kind::NotFound | Kind::Forbidden | Kind::BadRequest
                if matches!(class.reach, Reach::Model) =>
            {
                (failure, Signal::Reachable)
            }
            Kind::Overloaded
            | Kind::ServerError
            | Kind::Timeout
            | Kind::Transport
            | Kind::Truncated => match class.reach {
                Reach::Request | Reach::Credential => (Signal::None, Signal::None),
                _ => (failure, Signal::None),
            },
            Kind::SpendLimit if self.spend_limits && matches!(class.reach, Reach::Credential) => {
                (failure, Signal::None)
            }
            _ => (Signal::Reachable, Signal::Reachable),
        };
        SignalPair { model, group }
    }
}

/// The signals that an outcome gives about a model and about its rate group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SignalPair {
    pub(crate) model: Signal,
    pub(crate) group: Signal,
}

impl SignalPair {
    pub(crate) const NONE: Self = Self {
        model: Signal::None,
        group: Signal::None,
    };
}

/// The targets that a call has tried or excluded, as bit sets of their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TriedTargets {
    tried: u32,
    excluded: u32,
}

impl TriedTargets {
    /// Records that the target was sent the request.
    pub(crate) const fn mark_tried(&mut self, target: usize) {
        self.tried |= 1 << target;
    }

    /// Records that the target is of no use to this call.
    pub(crate) const fn exclude(&mut self, target: usize) {
        self.excluded |= 1 << target;
    }

    /// Returns true if no target was sent the request yet.
    pub(crate) const fn is_empty(&self) -> bool {
        self.tried == 0
    }

    /// Returns true if the target may still be sent the request.
    pub(crate) const fn is_open(&self, target: usize) -> bool {
        (self.tried | self.excluded) & (1 << target) == 0
    }
}

/// The targets among which one is chosen, numbered in the order of preference.
pub(crate) trait Targets {
    /// A permit for a call to a target.
    type Permit;

    /// Returns the number of targets.
    fn count(&self) -> usize;
    /// Returns true if the two targets draw on the same limits.
    fn share_limits(&self, one: usize, other: usize) -> bool;
    /// Returns the least time of the target's recent responses, or zero if it is not known.
    fn min_latency(&self, target: usize) -> Duration;
    /// Admits a call to a target.
    fn admit(&mut self, target: usize) -> Result<Self::Permit, Unavailable>;
}

/// The target that is used next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Selection<P> {
    /// An available target, and the reason why the first of those before it was skipped.
    Use(usize, P, Option<Unavailable>),
    /// No target is available, and this one is the soonest to be. With the reason of the first
    /// target.
    UseSoonest(usize, Unavailable),
    /// No target is left.
    None,
}

/// Selects the first target that is available, not excluded, and fast enough for the deadline. If
/// none is available and the call was not sent yet, selects the target that is the soonest to be.
pub(crate) fn select<T: Targets>(
    targets: &mut T,
    tried: &TriedTargets,
    remaining: Option<Duration>,
) -> Selection<T::Permit> {
    let mut first_skipped: Option<Unavailable> = None;
    let mut soonest: Option<(usize, Unavailable)> = None;
    let mut exhausted = 0_u32;
    for target in 0..targets.count() {
        if !tried.is_open(target) || exhausted & (1 << target) != 0 {
            continue;
        }
        // The model asked for is the caller's own choice, and so is the deadline.
        let checks_time = !(tried.is_empty() && target == 0);
        if checks_time && remaining.is_some_and(|left| left <= targets.min_latency(target)) {
            continue;
        }
        match targets.admit(target) {
            Ok(permit) => return Selection::Use(target, permit, first_skipped),
            Err(unavailable) => {
                if unavailable.why.is_rate_limit() {
                    for other in target + 1..targets.count() {
                        if targets.share_limits(target, other) {
                            exhausted |= 1 << other;
                        }
                    }
                }
                first_skipped.get_or_insert(unavailable);
                if soonest.is_none_or(|(_, best)| unavailable.until < best.until) {
                    soonest = Some((target, unavailable));
                }
            }
        }
    }
    match (soonest, first_skipped) {
        (Some((target, _)), Some(first)) if tried.is_empty() => {
            Selection::UseSoonest(target, first)
        }
        _ => Selection::None,
    }
}
