//! The kinds of targets, and what they lack.

use tower_claude_wire::{
    Platform,
    cloud::{Dialect, Target},
};

/// The kind of a target: a platform with its dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TargetKind {
    ClaudeApi,
    BedrockMessages,
    InvokeModel,
    Vertex,
}

/// The greatest length of a body on Bedrock. The documents say 20 MB.
const BEDROCK_LIMIT: usize = 20 << 20;
/// The greatest length of a body on Vertex. The documents say 30 MB.
const VERTEX_LIMIT: usize = 30 << 20;

impl TargetKind {
    pub(super) fn of(target: &Target) -> Self {
        match (target.dialect(), target.platform()) {
            (Dialect::InvokeModel, _) => Self::InvokeModel,
            (Dialect::RawPredict, _) => Self::Vertex,
            (Dialect::Messages, Platform::Bedrock) => Self::BedrockMessages,
            _ => Self::ClaudeApi,
        }
    }

    pub(super) const fn is_bedrock(self) -> bool {
        matches!(self, Self::BedrockMessages | Self::InvokeModel)
    }

    /// Returns true if `anthropic_version` is a field of the body.
    pub(super) const fn has_version_in_body(self) -> bool {
        matches!(self, Self::InvokeModel | Self::Vertex)
    }

    /// Returns the greatest length of a body.
    pub(super) const fn body_limit(self) -> Option<usize> {
        match self {
            Self::ClaudeApi => None,
            Self::BedrockMessages | Self::InvokeModel => Some(BEDROCK_LIMIT),
            Self::Vertex => Some(VERTEX_LIMIT),
        }
    }
}

/// Returns the generation in the id of a model: 4 and 5 of `claude-opus-4-5-20251101` and of
/// `claude-3-5-haiku`. `None` for an id without a number, which is that of a new model.
pub(super) fn generation(id: &str) -> Option<(u32, u32)> {
    let parts = id.strip_prefix("claude-")?.split('-');
    let is_number = |part: &&str| part.len() <= 2 && part.bytes().all(|b| b.is_ascii_digit());
    let mut numbers = parts
        .skip_while(|part| !is_number(part))
        .take_while(is_number);
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next().and_then(|minor| minor.parse().ok());
    Some((major, minor.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::generation;

    #[test]
    fn generation_is_read_from_the_id() {
        for (id, expected) in [
            ("claude-opus-5-5", Some((5, 5))),
            ("claude-opus-5", Some((5, 0))),
            ("claude-haiku-4-5-20251001", Some((4, 5))),
            ("claude-opus-4-20250514", Some((4, 0))),
            ("claude-3-5-sonnet-20241022", Some((3, 5))),
            ("claude-3-haiku-20240307", Some((3, 0))),
            ("claude-mythos-preview", None),
            ("claude-", None),
            ("", None),
            ("gpt-5", None),
        ] {
            assert_eq!(generation(id), expected, "{id}");
        }
    }
}
