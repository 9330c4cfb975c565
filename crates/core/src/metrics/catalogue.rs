//! The catalogue of metrics: names, labels, units and histogram buckets.

use ::metrics::{Counter, Gauge, Histogram, Label, SharedString, Unit};

use crate::labels::WAIT_BOUNDS;

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MetricKind {
    /// A sum that only grows.
    Counter,
    /// A value that rises and falls.
    Gauge,
    /// A distribution. The recorder decides on its buckets. See [`MetricDefinition::buckets`].
    Histogram,
}

/// The definition of a metric.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct MetricDefinition {
    /// The name for the recorder. An exporter may write dots as underscores.
    pub name: &'static str,
    /// The kind.
    pub kind: MetricKind,
    /// The unit, or `None` for a number without one.
    pub unit: Option<Unit>,
    /// The names of the labels. Every series has all of them.
    pub labels: &'static [&'static str],
    /// The description.
    pub description: &'static str,
    /// The upper bounds that suit a histogram. Empty for other kinds.
    pub buckets: &'static [f64],
}

impl MetricDefinition {
    const fn new(
        kind: MetricKind,
        name: &'static str,
        labels: &'static [&'static str],
        description: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            unit: None,
            labels,
            description,
            buckets: &[],
        }
    }

    const fn counter(
        name: &'static str,
        labels: &'static [&'static str],
        description: &'static str,
    ) -> Self {
        Self::new(MetricKind::Counter, name, labels, description)
    }

    const fn gauge(
        name: &'static str,
        labels: &'static [&'static str],
        description: &'static str,
    ) -> Self {
        Self::new(MetricKind::Gauge, name, labels, description)
    }

    const fn histogram(
        name: &'static str,
        labels: &'static [&'static str],
        description: &'static str,
        buckets: &'static [f64],
    ) -> Self {
        let mut definition = Self::new(MetricKind::Histogram, name, labels, description);
        definition.buckets = buckets;
        definition
    }

    const fn in_unit(mut self, unit: Unit) -> Self {
        self.unit = Some(unit);
        self
    }

    /// Returns the labels with these values, in the order of the definition.
    fn labelled<const N: usize>(&self, values: [SharedString; N]) -> Vec<Label> {
        debug_assert_eq!(self.labels.len(), N, "labels of {}", self.name);
        let names = self.labels.iter().copied();
        names
            .zip(values)
            .map(|(name, value)| Label::new(name, value))
            .collect()
    }

    pub(super) fn counter_of<const N: usize>(&self, values: [SharedString; N]) -> Counter {
        ::metrics::counter!(self.name, self.labelled(values))
    }

    pub(super) fn gauge_of<const N: usize>(&self, values: [SharedString; N]) -> Gauge {
        ::metrics::gauge!(self.name, self.labelled(values))
    }

    pub(super) fn histogram_of<const N: usize>(&self, values: [SharedString; N]) -> Histogram {
        ::metrics::histogram!(self.name, self.labelled(values))
    }

    /// Gives unit and description to the recorder.
    pub(super) fn describe(&self) {
        let (name, text) = (self.name, self.description);
        let unit = self.unit.unwrap_or(Unit::Count);
        match self.kind {
            MetricKind::Counter => ::metrics::describe_counter!(name, unit, text),
            MetricKind::Gauge => ::metrics::describe_gauge!(name, unit, text),
            MetricKind::Histogram => ::metrics::describe_histogram!(name, unit, text),
        }
    }
}

/// Bounds for durations in seconds, by the GenAI conventions.
const DURATIONS: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];

/// Bounds for tokens of one call, by the GenAI conventions.
const TOKENS: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// Bounds for used tokens divided by estimated ones.
const RATIOS: &[f64] = &[
    0.1, 0.25, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0,
];

const SCOPE: &[&str] = &["scope"];
const SCOPE_DIMENSION: &[&str] = &["scope", "dimension"];
const SCOPE_PRIORITY: &[&str] = &["scope", "priority"];

pub(super) const LIMIT: MetricDefinition = MetricDefinition::gauge(
    "tower_claude_limit_per_minute",
    SCOPE_DIMENSION,
    "The limit per minute that the last response header showed",
);
pub(super) const REMAINING: MetricDefinition = MetricDefinition::gauge(
    "tower_claude_remaining",
    SCOPE_DIMENSION,
    "The remaining requests or tokens that the last response header showed",
);
pub(super) const LEVEL: MetricDefinition = MetricDefinition::gauge(
    "tower_claude_level",
    SCOPE_DIMENSION,
    "The requests or tokens that the limiter may still send at once, negative in debt",
);
pub(super) const CAPACITY: MetricDefinition = MetricDefinition::gauge(
    "tower_claude_capacity",
    SCOPE_DIMENSION,
    "The most requests or tokens that can be sent at once",
);
pub(super) const CHARGED: MetricDefinition = MetricDefinition::counter(
    "tower_claude_charged_total",
    SCOPE_DIMENSION,
    "Requests sent, and tokens that count against a limit, so without cache reads",
);
pub(super) const WAIT: MetricDefinition = MetricDefinition::histogram(
    "tower_claude_wait_seconds",
    SCOPE_PRIORITY,
    "The wait of an admitted request for a limiter",
    &WAIT_BOUNDS,
)
.in_unit(Unit::Seconds);
pub(super) const QUEUE_LENGTH: MetricDefinition = MetricDefinition::gauge(
    "tower_claude_queue_length",
    SCOPE_PRIORITY,
    "Requests that wait for a limiter",
);
pub(super) const ESTIMATED_WAIT: MetricDefinition = MetricDefinition::gauge(
    "tower_claude_estimated_wait_seconds",
    SCOPE_PRIORITY,
    "The estimated wait of a new request behind the queue",
)
.in_unit(Unit::Seconds);
pub(super) const IN_FLIGHT: MetricDefinition = MetricDefinition::gauge(
    "tower_claude_in_flight",
    SCOPE,
    "Requests that were admitted and have not ended",
);
pub(super) const PAUSED: MetricDefinition = MetricDefinition::gauge(
    "tower_claude_paused",
    SCOPE,
    "1 while a limiter admits nothing because of a 429, or else 0",
);
pub(super) const PAUSED_SECONDS: MetricDefinition = MetricDefinition::counter(
    "tower_claude_paused_seconds_total",
    SCOPE,
    "The sum of the pauses after 429s, rounded to whole seconds",
)
.in_unit(Unit::Seconds);
pub(super) const THRESHOLD: MetricDefinition = MetricDefinition::counter(
    "tower_claude_threshold_total",
    SCOPE_DIMENSION,
    "Crossings of the share of a limit that a limiter warns of",
);
pub(super) const ESTIMATE_ERROR: MetricDefinition = MetricDefinition::histogram(
    "tower_claude_estimate_error_ratio",
    SCOPE_DIMENSION,
    "The used tokens of a complete response divided by those charged when its request was sent, \
     at most 10",
    RATIOS,
);
pub(super) const REFUSED: MetricDefinition = MetricDefinition::counter(
    "tower_claude_refused_total",
    &["scope", "reason"],
    "Requests that a layer rejected without sending them",
);
pub(super) const RESPONSES: MetricDefinition = MetricDefinition::counter(
    "tower_claude_responses_total",
    &["scope", "class"],
    "Attempts by the class of their end, and `dropped` if the caller went away",
);
pub(super) const RETRIES: MetricDefinition = MetricDefinition::counter(
    "tower_claude_retries_total",
    &["scope", "class"],
    "Attempts that failed and were followed by another one, by the class of the failure",
);
pub(super) const GAVE_UP: MetricDefinition = MetricDefinition::counter(
    "tower_claude_gave_up_total",
    &["scope", "reason"],
    "Failures after which no attempt followed, by the reason",
);
pub(super) const CIRCUIT_STATE: MetricDefinition = MetricDefinition::gauge(
    "tower_claude_circuit_state",
    &["circuit"],
    "0 if the circuit is closed, 1 while it is probed, 2 if it is open",
);
pub(super) const CIRCUIT_OPENED: MetricDefinition = MetricDefinition::counter(
    "tower_claude_circuit_opened_total",
    &["circuit", "class"],
    "Times that a circuit opened, by the class of the last failure",
);
pub(super) const FALLBACK: MetricDefinition = MetricDefinition::counter(
    "tower_claude_fallback_total",
    &["from", "to", "class"],
    "Requests sent to another model than the one asked for, by the failure of that one",
);
pub(super) const CACHE: MetricDefinition = MetricDefinition::counter(
    "tower_claude_cache_total",
    &["outcome"],
    "Decisions of a cache",
);
pub(super) const BATCH: MetricDefinition = MetricDefinition::counter(
    "tower_claude_batch_total",
    &["outcome", "reason"],
    "Calls that can wait, by the decisions of a batch layer",
);
pub(super) const BATCH_LATENCY: MetricDefinition = MetricDefinition::histogram(
    "tower_claude_batch_latency_seconds",
    &["model"],
    "The time from the creation of a batch until its end was seen",
    &[
        30.0, 60.0, 120.0, 300.0, 600.0, 1_200.0, 1_800.0, 3_600.0, 7_200.0, 14_400.0, 43_200.0,
        86_400.0,
    ],
)
.in_unit(Unit::Seconds);
pub(super) const BATCH_SAVED: MetricDefinition = MetricDefinition::counter(
    "tower_claude_batch_saved_nanodollars_total",
    &["model"],
    "The difference between the price of ordinary calls and that of batches, in 10^-9 USD",
);
pub(super) const UNCOUNTED: MetricDefinition = MetricDefinition::counter(
    "tower_claude_uncounted_total",
    &["reason"],
    "Requests whose tokens were estimated because they could not be counted",
);
pub(super) const STORE_STATE: MetricDefinition = MetricDefinition::gauge(
    "tower_claude_store_state",
    &["layer"],
    "0 while the store of shared state answers, 1 while a layer goes on without it",
);
pub(super) const STORE_LOST: MetricDefinition = MetricDefinition::counter(
    "tower_claude_store_lost_total",
    &["layer", "reason"],
    "Times that the store of shared state stopped answering",
);
pub(super) const PROMPT_CACHE_TOKENS: MetricDefinition = MetricDefinition::counter(
    "tower_claude_prompt_cache_tokens_total",
    &["model", "kind"],
    "Input tokens of requests with markers: plain, read from the prompt cache, or written to it",
);
pub(super) const PROMPT_CACHE_SAVED: MetricDefinition = MetricDefinition::gauge(
    "tower_claude_prompt_cache_saved_dollars",
    &["model"],
    "The savings of all markers so far, less their losses, in USD by the prices of the catalog",
);
pub(super) const PROMPT_CACHE_MISSES: MetricDefinition = MetricDefinition::counter(
    "tower_claude_prompt_cache_misses_total",
    &["model", "cause"],
    "Requests that did not read a prefix of their conversation from the prompt cache",
);
pub(super) const PROMPT_CACHE_OFF: MetricDefinition = MetricDefinition::counter(
    "tower_claude_prompt_cache_off_total",
    &["boundary"],
    "Times that markers at a place were switched off for an hour, because they lost money",
);
pub(super) const ROUTED: MetricDefinition = MetricDefinition::counter(
    "tower_claude_routed_total",
    &["target", "reason"],
    "Attempts by the target that was chosen for them, and the reason",
);
pub(super) const COST: MetricDefinition = MetricDefinition::counter(
    "tower_claude_cost_nanodollars_total",
    &["model"],
    "The cost of the usage in responses, as far as the catalog has its price, in 10^-9 USD",
);

const GENAI: &[&str] = &[
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.request.model",
    "gen_ai.response.model",
];
const GENAI_ERROR: &[&str] = &[
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.request.model",
    "gen_ai.response.model",
    "error.type",
];
const GENAI_TOKEN: &[&str] = &[
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.request.model",
    "gen_ai.response.model",
    "gen_ai.token.type",
];

pub(super) const DURATION: MetricDefinition = MetricDefinition::histogram(
    "gen_ai.client.inference.duration",
    GENAI_ERROR,
    "The time from the arrival of a call until the end of its response, with all attempts",
    DURATIONS,
)
.in_unit(Unit::Seconds);
pub(super) const FIRST_CHUNK: MetricDefinition = MetricDefinition::histogram(
    "gen_ai.client.inference.time_to_first_chunk",
    GENAI,
    "The time from the arrival of a call until its first content",
    DURATIONS,
)
.in_unit(Unit::Seconds);
pub(super) const INPUT: MetricDefinition = MetricDefinition::counter(
    "gen_ai.client.inference.usage.input_tokens",
    GENAI,
    "Input tokens of calls, with those read from the prompt cache and written to it",
);
pub(super) const OUTPUT: MetricDefinition = MetricDefinition::counter(
    "gen_ai.client.inference.usage.output_tokens",
    GENAI,
    "Output tokens of calls",
);
pub(super) const CACHE_READ: MetricDefinition = MetricDefinition::counter(
    "gen_ai.client.inference.usage.cache_read.input_tokens",
    GENAI,
    "Input tokens of calls that were read from the prompt cache",
);
pub(super) const CACHE_WRITE: MetricDefinition = MetricDefinition::counter(
    "gen_ai.client.inference.usage.cache_write.input_tokens",
    GENAI,
    "Input tokens of calls that were written to the prompt cache",
);
pub(super) const CALL_INPUT: MetricDefinition = MetricDefinition::histogram(
    "gen_ai.client.inference.operation.input_tokens",
    GENAI,
    "Input tokens of one call, with those read from the prompt cache and written to it",
    TOKENS,
);
pub(super) const CALL_OUTPUT: MetricDefinition = MetricDefinition::histogram(
    "gen_ai.client.inference.operation.output_tokens",
    GENAI,
    "Output tokens of one call",
    TOKENS,
);
pub(super) const OLD_DURATION: MetricDefinition = MetricDefinition::histogram(
    "gen_ai.client.operation.duration",
    GENAI_ERROR,
    "The older name of `gen_ai.client.inference.duration`",
    DURATIONS,
)
.in_unit(Unit::Seconds);
pub(super) const OLD_TOKENS: MetricDefinition = MetricDefinition::histogram(
    "gen_ai.client.token.usage",
    GENAI_TOKEN,
    "The older name of the tokens of one call, by their type",
    TOKENS,
);

/// All metrics of this crate and of the limiter.
pub const CATALOGUE: &[&MetricDefinition] = &[
    &LIMIT,
    &REMAINING,
    &LEVEL,
    &CAPACITY,
    &CHARGED,
    &WAIT,
    &QUEUE_LENGTH,
    &ESTIMATED_WAIT,
    &IN_FLIGHT,
    &PAUSED,
    &PAUSED_SECONDS,
    &THRESHOLD,
    &ESTIMATE_ERROR,
    &REFUSED,
    &RESPONSES,
    &RETRIES,
    &GAVE_UP,
    &CIRCUIT_STATE,
    &CIRCUIT_OPENED,
    &FALLBACK,
    &CACHE,
    &BATCH,
    &BATCH_LATENCY,
    &BATCH_SAVED,
    &UNCOUNTED,
    &STORE_STATE,
    &STORE_LOST,
    &PROMPT_CACHE_TOKENS,
    &PROMPT_CACHE_SAVED,
    &PROMPT_CACHE_MISSES,
    &PROMPT_CACHE_OFF,
    &ROUTED,
    &COST,
    &DURATION,
    &FIRST_CHUNK,
    &INPUT,
    &OUTPUT,
    &CACHE_READ,
    &CACHE_WRITE,
    &CALL_INPUT,
    &CALL_OUTPUT,
    &OLD_DURATION,
    &OLD_TOKENS,
];
