//! The token counts that Bedrock reports beside a message.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::HeaderMap;
use tower_claude_wire::{Fields, Usage};

/// The token counts and times that Bedrock reports beside a message: in headers, or in the last
/// event of a stream, as `amazon-bedrock-invocationMetrics`.
///
/// The message has a `usage` of its own, which every layer reads. These counts are a second opinion
/// on it. Any of them may be absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvocationMetrics {
    /// Input tokens that were neither read from the prompt cache nor written to it.
    pub input_tokens: Option<u64>,
    /// Output tokens.
    pub output_tokens: Option<u64>,
    /// Input tokens read from the prompt cache.
    pub cache_read_input_tokens: Option<u64>,
    /// Input tokens written to the prompt cache.
    pub cache_write_input_tokens: Option<u64>,
    /// The time until the whole response.
    pub latency: Option<Duration>,
    /// The time until the first byte. Absent in headers.
    pub first_byte_latency: Option<Duration>,
}

impl InvocationMetrics {
    /// Reads the headers of a response: `x-amzn-bedrock-input-token-count` and the like. `None` if
    /// there are none.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let count = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse().ok();
        let metrics = Self {
            input_tokens: count("x-amzn-bedrock-input-token-count"),
            output_tokens: count("x-amzn-bedrock-output-token-count"),
            cache_read_input_tokens: count("x-amzn-bedrock-cache-read-input-token-count"),
            cache_write_input_tokens: count("x-amzn-bedrock-cache-write-input-token-count"),
            latency: count("x-amzn-bedrock-invocation-latency").map(Duration::from_millis),
            first_byte_latency: None,
        };
        (metrics != Self::default()).then_some(metrics)
    }

    /// Reads the object that the last event of a stream contains. A count that is not a whole
    /// number is absent.
    pub(super) fn from_json(object: &[u8]) -> Self {
        let mut metrics = Self::default();
        for field in Fields::open(object).into_iter().flatten().flatten() {
            let number = || serde_json::from_slice(field.value_in(object)).ok();
            match &*field.name {
                "inputTokenCount" => metrics.input_tokens = number(),
                "outputTokenCount" => metrics.output_tokens = number(),
                "cacheReadInputTokenCount" => metrics.cache_read_input_tokens = number(),
                "cacheWriteInputTokenCount" => metrics.cache_write_input_tokens = number(),
                "invocationLatency" => metrics.latency = number().map(Duration::from_millis),
                "firstByteLatency" => {
                    metrics.first_byte_latency = number().map(Duration::from_millis);
                }
                _ => {}
            }
        }
        metrics
    }

    /// Returns true if no count contradicts the usage of the message. A count that one of the two
    /// does not have contradicts nothing.
    #[must_use]
    pub fn agrees_with(&self, usage: &Usage) -> bool {
        let same = |a: Option<u64>, b: Option<u64>| a.zip(b).is_none_or(|(a, b)| a == b);
        same(self.input_tokens, usage.input_tokens)
            && same(self.output_tokens, usage.output_tokens)
            && same(self.cache_read_input_tokens, usage.cache_read_input_tokens)
            && same(
                self.cache_write_input_tokens,
                usage.cache_creation_input_tokens,
            )
    }
}

/// The metrics of a response, in its extensions. A stream reports them in its last event.
///
/// ```
/// use tower_claude_cloud::bedrock::ReportedMetrics;
///
/// # fn read(response: &http::Response<()>) {
/// // After the body was read to its end.
/// let reported = response.extensions().get::<ReportedMetrics>();
/// if let Some(metrics) = reported.and_then(ReportedMetrics::get) {
///     println!("first byte after {:?}", metrics.first_byte_latency);
/// }
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct ReportedMetrics(Arc<OnceLock<InvocationMetrics>>);

impl ReportedMetrics {
    /// Creates the handle of metrics that are known already.
    #[must_use]
    pub fn known(metrics: InvocationMetrics) -> Self {
        let handle = Self::default();
        handle.set(metrics);
        handle
    }

    /// Returns the metrics. `None` as long as the response has not reported them.
    #[must_use]
    pub fn get(&self) -> Option<&InvocationMetrics> {
        self.0.get()
    }

    /// Records the first metrics of a response. Later ones are ignored.
    pub(super) fn set(&self, metrics: InvocationMetrics) {
        let _ = self.0.set(metrics);
    }
}
