//! Token usage of a message.

use std::borrow::Cow;

/// Token counts; every field is optional on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Input tokens after the last cache breakpoint.
    pub input_tokens: Option<u64>,
    /// Input tokens written to the prompt cache.
    pub cache_creation_input_tokens: Option<u64>,
    /// Input tokens read from the prompt cache.
    pub cache_read_input_tokens: Option<u64>,
    /// Output tokens, thinking included.
    pub output_tokens: Option<u64>,
    /// The part of the output tokens that was thinking.
    pub thinking_tokens: Option<u64>,
    /// Input plus cache-creation tokens summed over `iterations`.
    pub iterations_input: Option<u64>,
    /// Output tokens summed over `iterations`.
    pub iterations_output: Option<u64>,
}

impl Usage {
    /// Usage of a whole JSON message; `None` if there is none.
    #[must_use]
    pub fn from_message(_body: &[u8]) -> Option<Self> {
        None
    }

    /// Reads a `usage` object.
    #[must_use]
    pub fn from_usage_object(_json: &[u8]) -> Option<Self> {
        None
    }

    /// Takes over every count that `later` knows.
    pub fn merge(&mut self, _later: &Usage) {}

    /// Input tokens that count against the input rate limit.
    #[must_use]
    pub fn limited_input(&self) -> Option<u64> {
        None
    }

    /// Output tokens that count against the output rate limit.
    #[must_use]
    pub fn limited_output(&self) -> Option<u64> {
        None
    }

    /// Whether no count is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Top-level `stop_reason` of a JSON message.
#[must_use]
pub fn stop_reason(_body: &[u8]) -> Option<Cow<'_, str>> {
    None
}
