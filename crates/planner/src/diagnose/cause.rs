//! The causes, with their explanation and advice.

use serde::Serialize;

use crate::time::SECOND;

/// The shortest wait of a slow call.
pub(crate) const SLOW: i64 = SECOND;

/// The cause of a rejection or of a slow call, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// A spend limit or a billing problem.
    SpendLimit,
    /// The key is invalid, or lacks a permission.
    Key,
    /// Traffic rose too sharply.
    Ramp,
    /// Too many requests at once.
    Concurrency,
    /// The minute had room, but the limit is enforced over a shorter time.
    Burst,
    /// Other users of the same limits.
    OtherConsumer,
    /// The limit on requests is used up.
    RequestsFull,
    /// The limit on input tokens is used up.
    InputFull,
    /// The limit on output tokens is used up.
    OutputFull,
    /// The API is overloaded.
    Overload,
    /// The API failed.
    ServerError,
    /// Clients send failed requests again too often.
    RetryStorm,
    /// The connection failed, or the response was too late.
    Network,
    /// A 429 whose limit does not follow from the record.
    UnknownLimit,
}

impl Cause {
    pub(super) const fn full(dimension: usize) -> Self {
        match dimension {
            0 => Self::RequestsFull,
            1 => Self::InputFull,
            _ => Self::OutputFull,
        }
    }

    /// Returns the name in a few words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SpendLimit => "spend limit",
            Self::Key => "key",
            Self::Ramp => "ramp",
            Self::Concurrency => "concurrency",
            Self::Burst => "burst",
            Self::OtherConsumer => "another consumer on the key",
            Self::RequestsFull => "requests full",
            Self::InputFull => "input tokens full",
            Self::OutputFull => "output tokens full",
            Self::Overload => "overload",
            Self::ServerError => "server error",
            Self::RetryStorm => "client retry storm",
            Self::Network => "network or timeout",
            Self::UnknownLimit => "unknown limit",
        }
    }

    /// Returns the explanation.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::SpendLimit => {
                "A spend limit or the credit balance is used up, and no wait helps before it is raised or renewed."
            }
            Self::Key => "The key is invalid, was revoked, or lacks a permission.",
            Self::Ramp => "Traffic rose faster than the API allows, although the limits had room.",
            Self::Concurrency => "More requests were in flight at once than the API allows.",
            Self::Burst => {
                "The minute had room, but the limit is enforced over a shorter time and a burst was larger than that."
            }
            Self::OtherConsumer => {
                "The shown limits fall faster than this record uses them: something else uses the same limits."
            }
            Self::RequestsFull => {
                "The limit on requests per minute was really used up by this traffic."
            }
            Self::InputFull => {
                "The limit on input tokens per minute was really used up by this traffic."
            }
            Self::OutputFull => {
                "The limit on output tokens per minute was really used up by this traffic."
            }
            Self::Overload => {
                "The API was overloaded for everyone, which no limit of yours changes."
            }
            Self::ServerError => "The API or a proxy failed.",
            Self::RetryStorm => {
                "Clients sent requests again so often that the retries, not the demand, used up the limit."
            }
            Self::Network => "The connection failed, or the client gave up before the response.",
            Self::UnknownLimit => {
                "The API answered 429, and the record does not tell which limit it was."
            }
        }
    }

    /// Returns the advice.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::SpendLimit => {
                "Raise the spend limit or add credit in the Console, and do not retry."
            }
            Self::Key => "Check the key, its workspace and its permissions.",
            Self::Ramp => {
                "Start slowly: `LimiterConfig::with_slow_start`, or spread scheduled work (`plan --what-if spread=10m:tag:T`)."
            }
            Self::Concurrency => {
                "Set a limit on concurrent requests (`Limits::with_concurrency`), and stream long answers."
            }
            Self::Burst => {
                "Pace requests with a shorter burst (`Limits::with_burst`), which needs a lower limit than buying room for bursts."
            }
            Self::OtherConsumer => {
                "Find the other users of the organization's limits (usage by key in the Console), or share one limiter."
            }
            Self::RequestsFull => {
                "Pace requests, join small ones, or plan a higher limit (`plan`)."
            }
            Self::InputFull => {
                "Cache prompts, move work to batches, pace, or plan a higher limit (`plan --what-if cache=0.6`)."
            }
            Self::OutputFull => {
                "Ask for shorter answers, pace, or plan a higher limit (`plan`). A lower max_tokens has no effect."
            }
            Self::Overload => {
                "Retry with backoff, fall back to another model, and break the circuit meanwhile."
            }
            Self::ServerError => {
                "Retry with backoff, and send the request ids to support if it lasts."
            }
            Self::RetryStorm => {
                "Bound retries by a budget, honour retry-after, and let only one layer retry."
            }
            Self::Network => "Raise the client's timeout, stream, and check the path to the API.",
            Self::UnknownLimit => {
                "Record the rate-limit headers and the error code, or give the limits (`--limits`)."
            }
        }
    }
}
