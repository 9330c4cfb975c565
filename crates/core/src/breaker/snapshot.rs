//! A breaker seen from outside.

use std::time::Duration;

use tokio::time::Instant;

use super::{Breaker, automaton::State};

/// What a circuit does at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BreakerState {
    /// Lets calls through.
    Closed,
    /// Closed not long ago: lets a growing share of the calls through.
    Ramping,
    /// Refuses.
    Open,
    /// Lets probes through. An open circuit whose cool-down is over counts as half-open.
    HalfOpen,
    /// Held open by hand.
    ForcedOpen,
    /// Held closed by hand: lets all through and counts nothing.
    ForcedClosed,
}

impl BreakerState {
    /// The name used in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Ramping => "ramping",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
        }
    }
}

/// The state of a breaker at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerSnapshot {
    /// What it does.
    pub state: BreakerState,
    /// Openings in a row, without [`forget_after`](super::BreakerConfig::with_forget_after) closed between them.
    pub opens: u32,
    /// Failures since the last success, as far as they are kept.
    pub failures: usize,
    /// What remains of the cool-down.
    pub retry_after: Option<Duration>,
    /// Probes that are out.
    pub probes: usize,
    /// Probes that have succeeded since the circuit became half-open.
    pub successes: u32,
}

impl Breaker {
    /// The state at `now`.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> BreakerSnapshot {
        let (state, probes, successes) = match &self.state {
            State::Closed {
                ramp: Some(ramp), ..
            } if !ramp.is_over(now) => (BreakerState::Ramping, 0, 0),
            State::Closed { .. } => (BreakerState::Closed, 0, 0),
            State::Open { until } if *until > now => (BreakerState::Open, 0, 0),
            State::Open { .. } => (BreakerState::HalfOpen, 0, 0),
            State::HalfOpen {
                successes, leases, ..
            } => (BreakerState::HalfOpen, leases.len(), *successes),
            State::ForcedOpen => (BreakerState::ForcedOpen, 0, 0),
            State::ForcedClosed => (BreakerState::ForcedClosed, 0, 0),
        };
        BreakerSnapshot {
            state,
            opens: self.opens,
            failures: self.counts.failures(),
            retry_after: self.remaining(now),
            probes,
            successes,
        }
    }
}
