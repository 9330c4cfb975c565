//! The kinds of alerts.

use std::{fmt, time::Duration};

/// The urgency of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// Somebody should look at it today.
    Warning,
    /// Calls fail until somebody acts.
    Critical,
}

impl Severity {
    /// Returns the name, as the label `severity` of the rules for Prometheus has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// The kind of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum AlertKind {
    /// The P95 of the used share of a limit was over 80 % in the last hour.
    LimitUseHigh,
    /// The use of a limit is over 50 %, and reaches the limit within an hour if the growth of the
    /// last 30 minutes goes on.
    LimitExhaustionForecast,
    /// The API did not accept a key (401) in the last 5 minutes.
    KeyRejected,
    /// The spend limit was reached in the last 5 minutes.
    SpendLimit,
    /// More than 2 % of the responses of the last 2 minutes were rate limits (429), which retries
    /// hide from users.
    RateLimitedUpstream,
    /// The P95 of the waits for a limiter was over 5 s in the last 2 minutes.
    QueueWait,
    /// The mean ratio of used to estimated tokens was over 1.5 or below 2/3 in the last 5 minutes,
    /// over at least 10 responses.
    EstimateDrift,
    /// A circuit is open.
    CircuitOpen,
    /// Another model than the one asked for gets requests.
    FallbackActive,
    /// A store of shared state does not answer.
    StoreLocal,
}

impl AlertKind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::LimitUseHigh,
        Self::LimitExhaustionForecast,
        Self::KeyRejected,
        Self::SpendLimit,
        Self::RateLimitedUpstream,
        Self::QueueWait,
        Self::EstimateDrift,
        Self::CircuitOpen,
        Self::FallbackActive,
        Self::StoreLocal,
    ];

    /// Returns the name, as the rules for Prometheus have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LimitUseHigh => "ClaudeLimitUseHigh",
            Self::LimitExhaustionForecast => "ClaudeLimitExhaustionForecast",
            Self::KeyRejected => "ClaudeKeyRejected",
            Self::SpendLimit => "ClaudeSpendLimit",
            Self::RateLimitedUpstream => "ClaudeRateLimitedUpstream",
            Self::QueueWait => "ClaudeQueueWait",
            Self::EstimateDrift => "ClaudeEstimateDrift",
            Self::CircuitOpen => "ClaudeCircuitOpen",
            Self::FallbackActive => "ClaudeFallbackActive",
            Self::StoreLocal => "ClaudeStoreLocal",
        }
    }

    /// Returns the urgency.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::KeyRejected | Self::SpendLimit => Severity::Critical,
            _ => Severity::Warning,
        }
    }

    /// Returns the time for which the condition must hold before the alert is raised.
    #[must_use]
    pub const fn holds_for(self) -> Duration {
        let minutes = match self {
            Self::LimitUseHigh => 15,
            Self::LimitExhaustionForecast | Self::EstimateDrift | Self::FallbackActive => 10,
            Self::KeyRejected | Self::SpendLimit => 0,
            Self::RateLimitedUpstream => 1,
            Self::QueueWait | Self::CircuitOpen | Self::StoreLocal => 2,
        };
        Duration::from_secs(60 * minutes)
    }

    /// Returns a sentence about what helps.
    #[must_use]
    pub const fn help(self) -> &'static str {
        match self {
            Self::LimitUseHigh => {
                "Ask for a higher tier, cache prompts, move work to batches, or spread it over the day."
            }
            Self::LimitExhaustionForecast => {
                "Requests will wait, and the lowest priority first. Shed or postpone batch work."
            }
            Self::KeyRejected => "Replace the key. No retry helps.",
            Self::SpendLimit => {
                "Raise the limit in the console. It is probed from time to time and noticed by itself."
            }
            Self::RateLimitedUpstream => {
                "Another client uses the same limits, or the configured limits are too high."
            }
            Self::QueueWait => {
                "The queue is the limit at work. See which dimension binds in the panel of headroom."
            }
            Self::EstimateDrift => {
                "Label requests of different kinds as workloads, or count their tokens before sending."
            }
            Self::CircuitOpen => {
                "The model or the API is down. See the class in tower_claude_circuit_opened_total."
            }
            Self::FallbackActive => "Quality or price may differ.",
            Self::StoreLocal => "Limits hold, but less exactly. Look at the store.",
        }
    }
}

impl fmt::Display for AlertKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
