//! Handles of the metrics of one scope and of one pair of models.

use std::sync::{Arc, OnceLock};

use ::metrics::{Counter, Gauge, Histogram, SharedString};
use tower_claude_wire::Usage;

use super::{catalogue, names::GenAiNames};
use crate::{
    class::Kind,
    dimension::Dimension,
    event::CallEnd,
    labels::{ESTIMATED, LIMITED, OTHER},
    priority::Priority,
};

/// The word for an attempt whose caller went away, beside the kinds.
const DROPPED: &str = "dropped";

const ANTHROPIC: &str = "anthropic";

/// The handles of a scope.
pub(super) struct ScopeHandles {
    pub(super) label: Arc<str>,
    /// By the number of the kind, then dropped attempts.
    responses: Vec<Counter>,
    dropped: Counter,
    requests: Counter,
    input: Counter,
    output: Counter,
    waits: [OnceLock<Histogram>; 3],
    /// Of input and output.
    estimates: [OnceLock<Histogram>; 2],
    pub(super) paused_seconds: Counter,
    /// Limit and remaining amount of requests, input and output.
    gauges: [OnceLock<(Gauge, Gauge)>; 3],
}

impl ScopeHandles {
    /// Registers the counters of a scope, so that the first failure is an increase.
    pub(super) fn new(label: Arc<str>) -> Self {
        let scope = || SharedString::from_shared(label.clone());
        let response =
            |class| catalogue::RESPONSES.counter_of([scope(), SharedString::const_str(class)]);
        let charged = |of: Dimension| {
            catalogue::CHARGED.counter_of([scope(), SharedString::const_str(of.label())])
        };
        Self {
            responses: Kind::ALL.map(|kind| response(kind.as_str())).into(),
            dropped: response(DROPPED),
            requests: charged(Dimension::Requests),
            input: charged(Dimension::InputTokens),
            output: charged(Dimension::OutputTokens),
            waits: Default::default(),
            estimates: Default::default(),
            paused_seconds: catalogue::PAUSED_SECONDS.counter_of([scope()]),
            gauges: Default::default(),
            label,
        }
    }

    pub(super) fn scope(&self) -> SharedString {
        SharedString::from_shared(self.label.clone())
    }

    /// Records an attempt. `kind` is absent if the caller went away.
    pub(super) fn on_attempt(&self, kind: Option<Kind>, usage: &Usage) {
        match kind {
            Some(kind) => self.responses[kind as usize].increment(1),
            None => self.dropped.increment(1),
        }
        self.requests.increment(1);
        self.input.increment(usage.limited_input().unwrap_or(0));
        self.output.increment(usage.limited_output().unwrap_or(0));
    }

    pub(super) fn wait(&self, of: Priority) -> &Histogram {
        self.waits[of as usize].get_or_init(|| {
            let priority = SharedString::const_str(of.label());
            catalogue::WAIT.histogram_of([self.scope(), priority])
        })
    }

    /// Records the used part of estimates of input and output.
    pub(super) fn on_estimates(&self, ratios: [Option<f64>; 2]) {
        for ((histogram, ratio), of) in self.estimates.iter().zip(ratios).zip(ESTIMATED) {
            if let Some(ratio) = ratio {
                let histogram = histogram.get_or_init(|| {
                    let of = SharedString::const_str(of.label());
                    catalogue::ESTIMATE_ERROR.histogram_of([self.scope(), of])
                });
                histogram.record(ratio);
            }
        }
    }

    /// Records a level that headers show.
    pub(super) fn on_gauge(&self, index: usize, gauge: &tower_claude_wire::Gauge) {
        let (Some(limit), Some(remaining)) = (gauge.limit, gauge.remaining) else {
            return;
        };
        let (limits, left) = self.gauges[index].get_or_init(|| {
            let of = LIMITED[index].label();
            let labels = || [self.scope(), SharedString::const_str(of)];
            let limits = catalogue::LIMIT.gauge_of(labels());
            (limits, catalogue::REMAINING.gauge_of(labels()))
        });
        limits.set(limit as f64);
        left.set(remaining as f64);
    }
}

/// The handles of the calls that ask for one model and are answered by one.
pub(super) struct ModelHandles {
    operation: [SharedString; 4],
    duration: Option<Histogram>,
    first_chunk: Histogram,
    input: Counter,
    output: Counter,
    cache_read: Counter,
    cache_write: Counter,
    call_input: Histogram,
    call_output: Histogram,
    old: Option<(Histogram, Histogram, Histogram)>,
    names: GenAiNames,
}

impl ModelHandles {
    pub(super) fn new(asked: Arc<str>, served: Arc<str>, names: GenAiNames) -> Self {
        let fixed = |text| SharedString::const_str(text);
        let [asked, served] = [asked, served].map(SharedString::from_shared);
        let operation = [fixed("chat"), fixed(ANTHROPIC), asked, served];
        let of = || operation.clone();
        let with = |last| {
            let [a, b, c, d] = of();
            [a, b, c, d, SharedString::const_str(last)]
        };
        let is_new = names != GenAiNames::Old;
        let counter = |metric: &catalogue::MetricDefinition| match is_new {
            true => metric.counter_of(of()),
            false => Counter::noop(),
        };
        let histogram = |metric: &catalogue::MetricDefinition| match is_new {
            true => metric.histogram_of(of()),
            false => Histogram::noop(),
        };
        Self {
            duration: is_new.then(|| catalogue::DURATION.histogram_of(with(""))),
            first_chunk: histogram(&catalogue::FIRST_CHUNK),
            input: counter(&catalogue::INPUT),
            output: counter(&catalogue::OUTPUT),
            cache_read: counter(&catalogue::CACHE_READ),
            cache_write: counter(&catalogue::CACHE_WRITE),
            call_input: histogram(&catalogue::CALL_INPUT),
            call_output: histogram(&catalogue::CALL_OUTPUT),
            old: (names != GenAiNames::New).then(|| {
                (
                    catalogue::OLD_DURATION.histogram_of(with("")),
                    catalogue::OLD_TOKENS.histogram_of(with("input")),
                    catalogue::OLD_TOKENS.histogram_of(with("output")),
                )
            }),
            names,
            operation,
        }
    }

    /// Records a call. `error` is the kind of its failure, or empty.
    pub(super) fn on_call(&self, end: &CallEnd<'_>, error: &'static str) {
        let seconds = end.duration.as_secs_f64();
        if error.is_empty() {
            if let Some(duration) = &self.duration {
                duration.record(seconds);
            }
            if let Some((duration, ..)) = &self.old {
                duration.record(seconds);
            }
        } else {
            let [a, b, c, d] = self.operation.clone();
            let labels = [a, b, c, d, SharedString::const_str(error)];
            if self.duration.is_some() {
                let duration = catalogue::DURATION.histogram_of(labels.clone());
                duration.record(seconds);
            }
            if self.names != GenAiNames::New {
                catalogue::OLD_DURATION.histogram_of(labels).record(seconds);
            }
        }
        if let Some(first) = end.first_content {
            self.first_chunk.record(first.as_secs_f64());
        }
        let usage = end.usage;
        if usage.is_empty() {
            return;
        }
        let read = usage.cache_read_input_tokens.unwrap_or(0);
        let written = usage.cache_creation_input_tokens.unwrap_or(0);
        // The convention counts all input, the rate limit only what is not read from the cache.
        let input = usage.total_input();
        let output = usage.limited_output().unwrap_or(0);
        self.input.increment(input);
        self.output.increment(output);
        self.cache_read.increment(read);
        self.cache_write.increment(written);
        self.call_input.record(input as f64);
        self.call_output.record(output as f64);
        if let Some((_, inputs, outputs)) = &self.old {
            inputs.record(input as f64);
            outputs.record(output as f64);
        }
    }
}

/// Returns the label value of a reason in one word.
pub(super) fn word(text: &'static str) -> SharedString {
    SharedString::const_str(if text.is_empty() { OTHER } else { text })
}
