//! Snapshots of a circuit.

use std::time::Duration;

/// The state of a circuit at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BreakerState {
    /// Admits all calls.
    Closed,
    /// Closed not long ago. Admits a growing share of the calls.
    Ramping,
    /// Rejects all calls.
    Open,
    /// Admits probes. An open circuit whose cool-down is over counts as half-open.
    HalfOpen,
    /// Forced open by manual control. Rejects all calls.
    ForcedOpen,
    /// Forced closed by manual control. Admits all calls and counts nothing.
    ForcedClosed,
}

impl BreakerState {
    /// Returns the name used in logs and metrics.
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

/// The state and the counters of a circuit at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerSnapshot {
    /// The state.
    pub state: BreakerState,
    /// The number of openings in a row, without
    /// [`forget_after`](super::BreakerConfig::with_forget_after) closed between them.
    pub opens: u32,
    /// The number of failures since the last success, up to the number that opens the circuit.
    /// Calls that fail together count once here.
    pub failures: usize,
    /// The rest of the cool-down.
    pub retry_after: Option<Duration>,
    /// The number of probes without an outcome.
    pub probes: usize,
    /// The number of probes that have succeeded since the circuit became half-open.
    pub successes: u32,
}
