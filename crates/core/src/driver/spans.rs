//! The spans of calls and attempts.

use std::mem::ManuallyDrop;

use tracing::{Level, Span, field::Empty, span::EnteredSpan};

use crate::{
    class::{Class, Kind},
    endpoint::Endpoint,
    event::{AttemptEnd, CallEnd, Ending},
    readable_duration::millis,
    text::escaped,
};

/// The target of all spans, so that a filter can select them alone.
const TARGET: &str = "tower_claude::span";

/// A guard of a span that is entered, if there is one.
// Boxed, so that a call without spans has one pointer to look at. Dropped by hand, because the
// compiler calls a function to drop it otherwise, even if there is no span.
pub(super) struct Entered(Option<ManuallyDrop<Box<EnteredSpan>>>);

impl Entered {
    pub(super) const NONE: Self = Self(None);

    #[cold]
    pub(super) fn new(span: Option<Span>) -> Self {
        Self(span.map(|span| ManuallyDrop::new(Box::new(span.entered()))))
    }

    #[cold]
    #[inline(never)]
    fn exit(&mut self) {
        drop(self.0.take().map(ManuallyDrop::into_inner));
    }
}

impl Drop for Entered {
    #[inline(always)]
    fn drop(&mut self) {
        if self.0.is_some() {
            self.exit();
        }
    }
}

/// Returns true if a subscriber gets the spans.
pub(super) fn are_enabled() -> bool {
    tracing::enabled!(target: TARGET, Level::DEBUG)
}

/// Returns the operation by the GenAI conventions. They have none for other endpoints.
const fn operation(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Messages => "chat",
        _ => endpoint.as_str(),
    }
}

/// Returns the span of a call, from its arrival to the end of its body.
#[cold]
pub(super) fn of_call(endpoint: Endpoint, model: Option<&str>) -> Span {
    if !are_enabled() {
        return Span::none();
    }
    let operation = operation(endpoint);
    let model = model.map(escaped);
    let model = model.as_deref();
    let name = match model {
        Some(model) => format!("{operation} {model}"),
        None => operation.to_owned(),
    };
    tracing::debug_span!(
        target: TARGET,
        "call",
        otel.name = name,
        otel.kind = "client",
        otel.status_code = Empty,
        gen_ai.operation.name = operation,
        gen_ai.provider.name = "anthropic",
        gen_ai.request.model = model,
        gen_ai.response.model = Empty,
        gen_ai.response.time_to_first_chunk = Empty,
        gen_ai.usage.input_tokens = Empty,
        gen_ai.usage.output_tokens = Empty,
        gen_ai.usage.cache_read.input_tokens = Empty,
        gen_ai.usage.cache_creation.input_tokens = Empty,
        http.response.status_code = Empty,
        anthropic.request.id = Empty,
        error.r#type = Empty,
        tower_claude.ending = Empty,
        tower_claude.attempts = Empty,
        tower_claude.wait_ms = Empty,
        tower_claude.cost_usd = Empty,
        tower_claude.scope = Empty,
    )
}

/// Returns the span of an attempt, from sending to the end of its body. `resent` is the number of
/// attempts before it.
#[cold]
pub(super) fn of_attempt(call: &Span, model: Option<&str>, resent: u32) -> Span {
    let model = model.map(escaped);
    tracing::debug_span!(
        target: TARGET,
        parent: call,
        "attempt",
        otel.kind = "client",
        otel.status_code = Empty,
        gen_ai.request.model = model.as_deref(),
        http.request.resend_count = resent,
        http.response.status_code = Empty,
        anthropic.request.id = Empty,
        error.r#type = Empty,
        tower_claude.ending = Empty,
        tower_claude.wait_ms = Empty,
    )
}

/// Records the fields that attempts and calls have in common.
fn record_end(
    span: &Span,
    ending: Ending,
    class: &Class,
    status: Option<http::StatusCode>,
    request_id: Option<&str>,
) {
    span.record("tower_claude.ending", ending.as_str());
    if let Some(status) = status {
        span.record("http.response.status_code", status.as_u16());
    }
    if let Some(id) = request_id {
        span.record("anthropic.request.id", &*escaped(id));
    }
    if class.kind != Kind::Success {
        span.record("error.type", class.kind.as_str());
        span.record("otel.status_code", "ERROR");
    }
}

#[cold]
pub(super) fn record_attempt(span: &Span, end: &AttemptEnd<'_>) {
    if span.is_disabled() {
        return;
    }
    span.record("tower_claude.wait_ms", millis(end.wait));
    record_end(span, end.ending, &end.class, end.status, end.request_id);
}

/// Records that an inner layer has rejected the request, or that it was dropped in a queue.
#[cold]
pub(super) fn record_unsent(span: &Span) {
    span.record("tower_claude.ending", "not_sent");
}

#[cold]
pub(super) fn record_call(span: &Span, end: &CallEnd<'_>) {
    if span.is_disabled() {
        return;
    }
    span.record("tower_claude.attempts", end.attempts);
    span.record("tower_claude.wait_ms", millis(end.wait));
    if let Some(scope) = end.scope {
        span.record("tower_claude.scope", tracing::field::display(scope));
    }
    if let Some(model) = end.model {
        span.record("gen_ai.response.model", &*escaped(model));
    }
    if let Some(first) = end.first_content {
        span.record("gen_ai.response.time_to_first_chunk", first.as_secs_f64());
    }
    let usage = end.usage;
    if !usage.is_empty() {
        let read = usage.cache_read_input_tokens.unwrap_or(0);
        let written = usage.cache_creation_input_tokens.unwrap_or(0);
        // The convention counts all input, the rate limit only what is not read from the cache.
        span.record("gen_ai.usage.input_tokens", usage.total_input());
        span.record(
            "gen_ai.usage.output_tokens",
            usage.limited_output().unwrap_or(0),
        );
        span.record("gen_ai.usage.cache_read.input_tokens", read);
        span.record("gen_ai.usage.cache_creation.input_tokens", written);
    }
    if let Some(bill) = end.bill {
        span.record("tower_claude.cost_usd", bill.cost.dollars());
    }
    record_end(span, end.ending, &end.class, end.status, end.request_id);
}
