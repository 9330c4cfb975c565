//! What a request will use.

use http::request::Parts;
use tower_claude_wire::{ModelCatalog, estimate_tokens};

use crate::{RequestBody, Route};

/// What a request uses of a rate limit, estimated before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cost {
    /// Requests; 1 unless a layer sends several.
    pub requests: u64,
    /// Input tokens that count against the input limit (cache reads do not).
    pub input_tokens: u64,
    /// Output tokens expected, not the most that are allowed.
    pub output_tokens: u64,
    /// The most output tokens the request allows (`max_tokens`), if known.
    pub max_output_tokens: Option<u64>,
    /// What kind of request it is: answers of one kind say what the next will use.
    pub route: Route,
    /// The input was counted, not estimated: it is charged as it is, and no ratio is learned from it.
    pub counted: bool,
}

impl Cost {
    /// One request of this many input tokens and expected output tokens.
    #[must_use]
    pub const fn new(input_tokens: u64, output_tokens: u64) -> Self {
        Self {
            requests: 1,
            input_tokens,
            output_tokens,
            max_output_tokens: None,
            route: Route::NONE,
            counted: false,
        }
    }

    /// The same cost with the most output tokens the request allows.
    #[must_use]
    pub const fn with_max_output_tokens(mut self, max: Option<u64>) -> Self {
        self.max_output_tokens = max;
        self
    }

    /// The same cost of a request of this kind.
    #[must_use]
    pub const fn with_route(mut self, route: Route) -> Self {
        self.route = route;
        self
    }
}

impl Default for Cost {
    /// One request of unknown size: no tokens.
    fn default() -> Self {
        Self::new(0, 0)
    }
}

/// Estimates the cost of a request before it is sent.
///
/// A limiter corrects the estimate: the input by the running ratio of actual to estimated tokens,
/// the output by the running mean of what answers used.
pub trait EstimateCost {
    /// The cost of this request.
    fn estimate(&self, head: &Parts, body: &RequestBody) -> Cost;
}

impl<F> EstimateCost for F
where
    F: Fn(&Parts, &RequestBody) -> Cost,
{
    fn estimate(&self, head: &Parts, body: &RequestBody) -> Cost {
        self(head, body)
    }
}

/// The default estimate: text bytes by the tokenizer generation of the model.
///
/// A body that is not a JSON object, or names no model, costs [`Cost::default`]: one request.
/// Sources: <https://platform.claude.com/docs/en/about-claude/models/overview> (characters per
/// token), <https://platform.claude.com/docs/en/api/rate-limits> (what counts).
#[derive(Clone, Copy, Debug)]
pub struct HeuristicCost {
    expected_output: u64,
}

impl HeuristicCost {
    /// Output tokens expected of the first answers, before a mean is known.
    pub const DEFAULT_EXPECTED_OUTPUT: u64 = 512;

    /// An estimate that expects this many output tokens until answers have been seen.
    #[must_use]
    pub const fn new(expected_output: u64) -> Self {
        Self { expected_output }
    }
}

impl Default for HeuristicCost {
    fn default() -> Self {
        Self::new(Self::DEFAULT_EXPECTED_OUTPUT)
    }
}

impl EstimateCost for HeuristicCost {
    fn estimate(&self, _head: &Parts, body: &RequestBody) -> Cost {
        let Some(peek) = body.peek() else {
            return Cost::default();
        };
        let tokenizer = match body.listed_model() {
            Some(listed) => listed.tokenizer,
            None => match body.model() {
                Some(model) => ModelCatalog::builtin().lookup(model).tokenizer,
                None => return Cost::default(),
            },
        };
        let bytes = peek.system_bytes() + peek.tools_bytes() + peek.messages_bytes();
        let expected = peek
            .max_tokens()
            .map_or(self.expected_output, |max| max.min(self.expected_output));
        Cost::new(estimate_tokens(bytes as u64, tokenizer), expected)
            .with_max_output_tokens(peek.max_tokens())
    }
}
