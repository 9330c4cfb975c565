//! The dimensions of rate limits.

use std::fmt;

/// The quantity that a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Dimension {
    /// Requests per minute.
    Requests,
    /// Input tokens per minute.
    InputTokens,
    /// Output tokens per minute.
    OutputTokens,
    /// The sum of input and output tokens per minute.
    TotalTokens,
    /// Concurrent requests.
    Concurrency,
    /// The sum of input and output tokens per day.
    TokensPerDay,
}

impl Dimension {
    /// Returns the name for logs and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::InputTokens => "input tokens",
            Self::OutputTokens => "output tokens",
            Self::TotalTokens => "total tokens",
            Self::Concurrency => "concurrent requests",
            Self::TokensPerDay => "tokens per day",
        }
    }

    /// Returns the name in one word, for labels of metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::InputTokens => "input_tokens",
            Self::OutputTokens => "output_tokens",
            Self::TotalTokens => "total_tokens",
            Self::Concurrency => "concurrency",
            Self::TokensPerDay => "tokens_per_day",
        }
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
