//! Whether another model is asked, and which. Pure: time and the state of the targets come in as arguments.

use std::time::Duration;

use tokio::time::Instant;
use tower_claude_core::{Class, Kind, breaker::Verdict};

/// The most models that one call may be sent to, the one it asked for included.
pub(crate) const MOST_TARGETS: usize = 17;

/// Which outcomes call for another model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Triggers {
    /// Whether an answer in which the model declined does.
    pub(crate) refusals: bool,
    /// Whether a spend limit does.
    pub(crate) spend_limits: bool,
}

/// Who may serve after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Nobody would do better.
    None,
    /// A model that draws on other limits.
    OtherGroup,
    /// Any other model.
    AnyOther,
}

impl Triggers {
    /// What helps after this outcome. What the request did wrong, it would do wrong everywhere; money and
    /// credentials are the same for all models.
    pub(crate) const fn remedy(self, class: &Class) -> Remedy {
        match class.kind {
            Kind::RateLimited | Kind::RampLimited => Remedy::OtherGroup,
            // A limiter's queue is longer than the caller waits; that of other limits may not be.
            Kind::Timeout if class.local => Remedy::OtherGroup,
            Kind::Overloaded
            | Kind::ServerError
            | Kind::Timeout
            | Kind::Transport
            | Kind::Truncated
            | Kind::NotFound => Remedy::AnyOther,
            Kind::ModelRefusal if self.refusals => Remedy::AnyOther,
            Kind::SpendLimit if self.spend_limits => Remedy::AnyOther,
            _ => Remedy::None,
        }
    }

    /// What helps after a stand-in failed like this: whatever it rejects, the next may take, since the request
    /// was not made for it.
    pub(crate) const fn remedy_of_stand_in(self, class: &Class) -> Remedy {
        match class.kind {
            Kind::BadRequest | Kind::Forbidden | Kind::TooLarge | Kind::SpendLimit
                if !class.local =>
            {
                Remedy::AnyOther
            }
            _ => self.remedy(class),
        }
    }

    /// What this outcome says about the target.
    pub(crate) const fn findings(self, class: &Class) -> Findings {
        match class.kind {
            Kind::SpendLimit if self.spend_limits && !class.local => Findings {
                model: Verdict::Failure {
                    retry_after: class.retry_after,
                },
                group: Verdict::Ignored,
            },
            _ => Findings::of(class),
        }
    }
}

/// What an outcome says about a target, and about the limits it draws on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Findings {
    pub(crate) model: Verdict,
    pub(crate) group: Verdict,
}

impl Findings {
    /// Nothing: the call was given up.
    pub(crate) const NONE: Self = Self {
        model: Verdict::Ignored,
        group: Verdict::Ignored,
    };

    /// What this outcome says. A refusal on this side says nothing: the layer that refused knows better
    /// when to let the next request through, and asking it costs nothing.
    pub(crate) const fn of(class: &Class) -> Self {
        if class.local {
            return Self::NONE;
        }
        let retry_after = class.retry_after;
        let failure = Verdict::Failure { retry_after };
        let (model, group) = match class.kind {
            Kind::Success | Kind::ModelRefusal => (Verdict::Success, Verdict::Success),
            Kind::RateLimited | Kind::RampLimited => (Verdict::Busy { retry_after }, failure),
            // A retired model stays away: asking it first each time would only cost time.
            Kind::NotFound => (failure, Verdict::Alive),
            Kind::Overloaded
            | Kind::ServerError
            | Kind::Timeout
            | Kind::Transport
            | Kind::Truncated => (failure, Verdict::Ignored),
            _ => (Verdict::Alive, Verdict::Alive),
        };
        Self { model, group }
    }
}

/// Why a target cannot be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shut {
    /// When it may be asked again, as far as that is known.
    pub(crate) until: Option<Instant>,
    /// What it failed with.
    pub(crate) why: Class,
}

impl Shut {
    fn sooner_than(&self, other: &Self) -> bool {
        match (self.until, other.until) {
            (Some(one), Some(other)) => one < other,
            (one, _) => one.is_some(),
        }
    }
}

/// Where a call has been, as sets of targets by their number in the order of preference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trail {
    asked: u32,
    ruled_out: u32,
}

impl Trail {
    /// The target was sent the request.
    pub(crate) const fn asks(&mut self, target: usize) {
        self.asked |= 1 << target;
    }

    /// The target is of no use to this call.
    pub(crate) const fn rules_out(&mut self, target: usize) {
        self.ruled_out |= 1 << target;
    }

    /// Whether no target was sent the request yet.
    pub(crate) const fn is_fresh(&self) -> bool {
        self.asked == 0
    }

    /// Whether the target may yet be sent the request.
    pub(crate) const fn is_open_to(&self, target: usize) -> bool {
        (self.asked | self.ruled_out) & (1 << target) == 0
    }
}

/// What is asked about the targets while one is chosen. They are numbered in the order of preference.
pub(crate) trait Targets {
    /// The right to ask a target.
    type Leave;

    /// How many there are.
    fn count(&self) -> usize;
    /// Whether the two draw on the same limits.
    fn share_limits(&self, one: usize, other: usize) -> bool;
    /// The least time in which it has lately answered; zero when that is not known.
    fn quickest(&self, target: usize) -> Duration;
    /// Asks for the right to ask a target.
    fn admit(&mut self, target: usize) -> Result<Self::Leave, Shut>;
}

/// Who is asked next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice<L> {
    /// This one. What kept the first of those passed over away, if any was.
    Ask(usize, L, Option<Shut>),
    /// All are out: this one will be back first. What keeps the first of all away.
    Force(usize, Shut),
    /// Nobody is left.
    Nobody,
}

/// Chooses the first target that is not out, not ruled out, and can still answer in time. When all are out and
/// nobody was asked yet, the one that will be back first.
pub(crate) fn choose<T: Targets>(
    targets: &mut T,
    trail: &Trail,
    remaining: Option<Duration>,
) -> Choice<T::Leave> {
    let mut passed_over: Option<Shut> = None;
    let mut soonest: Option<(usize, Shut)> = None;
    let mut exhausted = 0_u32;
    for target in 0..targets.count() {
        if !trail.is_open_to(target) || exhausted & (1 << target) != 0 {
            continue;
        }
        // The first of a fresh call is the caller's own choice; the deadline is its business.
        let hurried = !(trail.is_fresh() && target == 0);
        if hurried && remaining.is_some_and(|left| left <= targets.quickest(target)) {
            continue;
        }
        match targets.admit(target) {
            Ok(leave) => return Choice::Ask(target, leave, passed_over),
            Err(shut) => {
                if shut.why.is_rate_limit() {
                    for other in target + 1..targets.count() {
                        if targets.share_limits(target, other) {
                            exhausted |= 1 << other;
                        }
                    }
                }
                passed_over.get_or_insert(shut);
                if soonest.is_none_or(|(_, best)| shut.sooner_than(&best)) {
                    soonest = Some((target, shut));
                }
            }
        }
    }
    match (soonest, passed_over) {
        (Some((target, _)), Some(first)) if trail.is_fresh() => Choice::Force(target, first),
        _ => Choice::Nobody,
    }
}
