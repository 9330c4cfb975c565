//! The bound of the usage that a response can truly report.

use http::Request;
use tower_claude_wire::{Model, ModelCatalog, Peek};

use crate::{
    request::{listed_model, requested_model},
    request_body::RequestBody,
};

/// The tokens beyond the bytes of a body that the server may add: the system prompts for its
/// features, or the prompt of a gateway.
const ADDED: u64 = 200_000;

/// The rounds of a request that the server expands. Its tools stop after ten rounds.
const ROUNDS: u64 = 10;

/// The least context window of a model that the catalog does not list.
const UNLISTED_CONTEXT: u64 = 1_000_000;

/// The most tokens that the response to a request can truly report. A limiter charges no more.
///
/// A token is at least one byte, so the input of a plain request is at most the bytes of its body
/// and 200,000 tokens that the server or a gateway may add, and no more than the context window of
/// the model. Images and documents take up to the window. Where the server adds input of its own
/// ([`Peek::expands_at_server`]), the bound is ten windows. The output is at most `max_tokens`, or
/// ten times that. Cache reads are not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UsageBound {
    /// The most input tokens that count against the input limit.
    pub input_tokens: u32,
    /// The most output tokens.
    pub output_tokens: u32,
}

impl UsageBound {
    /// The bound of a request of which nothing is known: ten million input tokens and three million
    /// output tokens.
    pub const UNKNOWN: Self = Self {
        input_tokens: 10_000_000,
        output_tokens: 3_000_000,
    };

    /// Creates a bound of these tokens.
    #[must_use]
    pub const fn new(input_tokens: u32, output_tokens: u32) -> Self {
        Self {
            input_tokens,
            output_tokens,
        }
    }

    /// Returns the bound of a request. [`UNKNOWN`](Self::UNKNOWN) if its body is not buffered or is
    /// no JSON object.
    #[must_use]
    pub fn of(request: &Request<RequestBody>) -> Self {
        let body = request.body();
        let (Some(bytes), Some(peek)) = (body.bytes(), body.peek()) else {
            return Self::UNKNOWN;
        };
        if let Some(model) = listed_model(request) {
            return Self::of_parts(bytes.len(), peek, model);
        }
        let name = requested_model(request).unwrap_or_default();
        Self::of_parts(bytes.len(), peek, &ModelCatalog::builtin().lookup(&name))
    }

    /// Returns the bound of a body of this length for this model.
    pub(crate) fn of_parts(bytes: usize, peek: &Peek, model: &Model) -> Self {
        let rounds = if peek.expands_at_server() { ROUNDS } else { 1 };
        let context = if model.known {
            model.context
        } else {
            model.context.max(UNLISTED_CONTEXT)
        };
        let input = if rounds == 1 && !peek.has_media() {
            context.min(bytes as u64 + ADDED)
        } else {
            context * rounds
        };
        let output = match peek.max_tokens() {
            Some(max) => max.saturating_mul(rounds),
            None => u64::from(Self::UNKNOWN.output_tokens),
        };
        let narrow = |tokens| u32::try_from(tokens).unwrap_or(u32::MAX);
        Self::new(narrow(input), narrow(output))
    }
}

impl Default for UsageBound {
    fn default() -> Self {
        Self::UNKNOWN
    }
}
