//! What a layer must know of a request body.

/// Kind of the request's `thinking` setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Thinking {
    /// `adaptive`
    Adaptive,
    /// `enabled`, with a token budget
    Enabled,
    /// `disabled`
    Disabled,
    /// `between_tools`
    BetweenTools,
    /// A kind this crate does not know.
    Other,
}

/// Top-level facts of a Messages request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peek {}

impl Peek {
    /// Reads the top level of a JSON object in one pass.
    #[must_use]
    pub fn parse(_body: &[u8]) -> Option<Self> {
        None
    }

    /// The `model`, out of the `body` that was parsed.
    #[must_use]
    pub fn model<'a>(&'a self, _body: &'a [u8]) -> Option<&'a str> {
        None
    }

    /// The `max_tokens`.
    #[must_use]
    pub fn max_tokens(&self) -> Option<u64> {
        None
    }

    /// Whether `stream` is `true`.
    #[must_use]
    pub fn stream(&self) -> bool {
        false
    }

    /// Whether `speed` is `"fast"`.
    #[must_use]
    pub fn fast(&self) -> bool {
        false
    }

    /// Kind of `thinking`, if it is set.
    #[must_use]
    pub fn thinking(&self) -> Option<Thinking> {
        None
    }

    /// Whether `tools` is an array with at least one element.
    #[must_use]
    pub fn has_tools(&self) -> bool {
        false
    }

    /// Length of the raw `system` value in bytes, 0 if absent.
    #[must_use]
    pub fn system_bytes(&self) -> usize {
        0
    }

    /// Length of the raw `tools` value in bytes, 0 if absent.
    #[must_use]
    pub fn tools_bytes(&self) -> usize {
        0
    }

    /// Length of the raw `messages` value in bytes, 0 if absent.
    #[must_use]
    pub fn messages_bytes(&self) -> usize {
        0
    }
}
