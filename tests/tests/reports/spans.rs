//! The spans of calls and attempts.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

use http::{HeaderValue, Request};
use http_body_util::BodyExt;
use tower::{Service, ServiceExt};
use tower_claude::recommended;
use tower_claude_circuit_breaker::CircuitBreakerLayer;
use tower_claude_core::RequestBody;
use tower_claude_fake_claude::Fault;
use tower_claude_retry::RetryLayer;
use tower_claude_tests::set_subscriber;
use tower_layer::Layer;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{
    Registry,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

use crate::{
    common::{SONNET, quiet, request, send},
    stacks::client,
};

/// A span that was recorded.
#[derive(Clone, Debug, Default)]
struct Seen {
    name: &'static str,
    parent: Option<u64>,
    fields: BTreeMap<String, String>,
    is_closed: bool,
    events: usize,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = format!("{value:?}");
        self.fields.insert(field.name().to_owned(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let (name, value) = (field.name().to_owned(), value.to_owned());
        self.fields.insert(name, value);
    }
}

/// All spans of the layers in the order of their start.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<BTreeMap<u64, Seen>>>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let span = context.span(id).expect("it is new");
        let mut seen = Seen {
            name: attributes.metadata().name(),
            parent: span.parent().map(|parent| parent.id().into_u64()),
            ..Seen::default()
        };
        attributes.record(&mut seen);
        self.0.lock().unwrap().insert(id.into_u64(), seen);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut spans = self.0.lock().unwrap();
        let seen = spans.get_mut(&id.into_u64()).expect("it was seen");
        values.record(seen);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if event.metadata().target() != "tower_claude" {
            return;
        }
        // Each span around the event counts it.
        let mut spans = self.0.lock().unwrap();
        for span in context.event_scope(event).into_iter().flatten() {
            let seen = spans.get_mut(&span.id().into_u64());
            seen.expect("it was seen").events += 1;
        }
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        let mut spans = self.0.lock().unwrap();
        spans
            .get_mut(&id.into_u64())
            .expect("it was seen")
            .is_closed = true;
    }
}

impl Spans {
    fn start() -> (Self, DefaultGuard) {
        let spans = Self::default();
        let guard = set_subscriber(Registry::default().with(spans.clone()));
        (spans, guard)
    }

    /// Returns the spans of this name with their ids, in the order of their start.
    fn named(&self, name: &str) -> Vec<(u64, Seen)> {
        let spans = self.0.lock().unwrap();
        let all = spans.iter().filter(|(_, seen)| seen.name == name);
        all.map(|(id, seen)| (*id, seen.clone())).collect()
    }

    fn only(&self, name: &str) -> (u64, Seen) {
        let spans = self.named(name);
        assert_eq!(spans.len(), 1, "{spans:#?}");
        spans[0].clone()
    }
}

impl Seen {
    fn get(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }
}

#[tokio::test(start_paused = true)]
async fn call_with_a_retry_is_one_span_with_two_attempts() {
    let fake = quiet();
    fake.inject(Fault::Overloaded);
    let (spans, _guard) = Spans::start();
    let mut service = recommended().layer(client(&fake));
    let mut request = request(SONNET, true);
    let headers = request.headers_mut();
    headers.insert("x-fake-input-tokens", HeaderValue::from_static("500"));
    headers.insert("x-fake-cache-read-tokens", HeaderValue::from_static("300"));
    headers.insert("x-fake-output-tokens", HeaderValue::from_static("7"));
    let outer = tracing::info_span!("handler");
    let outer_id = outer.id().expect("it is enabled").into_u64();
    let response = {
        let _entered = outer.enter();
        service.call(request)
    };
    let response = response.await.expect("it is answered");
    let (_, call) = spans.only("call");
    assert!(!call.is_closed, "its body is not read");
    response.into_body().collect().await.expect("it is whole");

    let (id, call) = spans.only("call");
    assert_eq!(call.parent, Some(outer_id));
    assert!(call.is_closed);
    assert!(call.events >= 3, "a retry and the ends: {call:?}");
    for (field, value) in [
        ("otel.name", format!("chat {SONNET}").as_str()),
        ("otel.kind", "client"),
        ("otel.status_code", ""),
        ("error.type", ""),
        ("gen_ai.request.model", SONNET),
        ("gen_ai.response.model", SONNET),
        ("gen_ai.usage.input_tokens", "500"),
        ("gen_ai.usage.cache_read.input_tokens", "300"),
        ("gen_ai.usage.output_tokens", "7"),
        ("tower_claude.cost_usd", "0.0005"),
        ("http.response.status_code", "200"),
        ("tower_claude.attempts", "2"),
        ("tower_claude.ending", "answered"),
    ] {
        assert_eq!(call.get(field), value, "{field}");
    }
    assert!(call.get("anthropic.request.id").starts_with("req_"));

    let attempts = spans.named("attempt");
    assert_eq!(attempts.len(), 2);
    for (number, (_, attempt)) in attempts.iter().enumerate() {
        assert_eq!(attempt.parent, Some(id));
        assert!(attempt.is_closed);
        let resent = number.to_string();
        assert_eq!(attempt.get("http.request.resend_count"), resent);
    }
    let ends = attempts.iter().map(|(_, attempt)| {
        let of = |field| attempt.get(field);
        (of("http.response.status_code"), of("error.type"))
    });
    let ends: Vec<_> = ends.collect();
    assert_eq!(ends, [("529", "overloaded"), ("200", "")]);
}

#[tokio::test(start_paused = true)]
async fn several_drivers_make_one_span_for_each_attempt() {
    let fake = quiet();
    fake.inject(Fault::Overloaded);
    fake.inject(Fault::ServerError);
    let (spans, _guard) = Spans::start();
    let breaker = CircuitBreakerLayer::new();
    let inner = breaker.layer(RetryLayer::new().layer(breaker.layer(client(&fake))));
    let service = RetryLayer::new().layer(inner);
    let seen = send(&service, request(SONNET, true)).await;
    assert_eq!(seen.expect("it is answered").status, 200);
    let (id, call) = spans.only("call");
    assert!(call.is_closed);
    assert_eq!(call.get("tower_claude.attempts"), "3");
    let attempts = spans.named("attempt");
    let numbers: Vec<_> = attempts
        .iter()
        .map(|(_, attempt)| attempt.get("http.request.resend_count"))
        .collect();
    assert_eq!(numbers, ["0", "1", "2"]);
    for (_, attempt) in &attempts {
        assert_eq!((attempt.parent, attempt.is_closed), (Some(id), true));
        assert_ne!(attempt.get("tower_claude.ending"), "");
    }
}

#[tokio::test(start_paused = true)]
async fn client_runs_in_the_span_of_its_attempt() {
    let fake = quiet();
    let (spans, _guard) = Spans::start();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let client = {
        let (client, seen) = (client(&fake), seen.clone());
        tower::service_fn(move |request: Request<RequestBody>| {
            let current = || tracing::Span::current().id().map(|id| id.into_u64());
            seen.lock().unwrap().push(current());
            let (mut client, seen) = (client.clone(), seen.clone());
            async move {
                seen.lock().unwrap().push(current());
                client.call(request).await
            }
        })
    };
    let service = recommended().layer(client);
    send(&service, request(SONNET, false))
        .await
        .expect("it is answered");
    let (id, _) = spans.only("attempt");
    assert_eq!(*seen.lock().unwrap(), [Some(id), Some(id)]);
    assert_eq!(
        tracing::Span::current().id(),
        None,
        "no span is left entered"
    );
}

#[tokio::test(start_paused = true)]
async fn dropped_body_and_dropped_call_close_their_spans() {
    let fake = quiet();
    let (spans, _guard) = Spans::start();
    let service = recommended().layer(client(&fake));
    let response = service.clone().oneshot(request(SONNET, true)).await;
    drop(response.expect("it is answered"));
    for name in ["call", "attempt"] {
        let (_, span) = spans.only(name);
        assert!(span.is_closed, "{name}");
        assert_eq!(span.get("tower_claude.ending"), "dropped", "{name}");
    }
    fake.inject(Fault::SlowHead(std::time::Duration::from_secs(60)));
    let call = service.oneshot(request(SONNET, true));
    let second = std::time::Duration::from_secs(1);
    assert!(tokio::time::timeout(second, call).await.is_err());
    for name in ["call", "attempt"] {
        let last = spans.named(name).pop().expect("there are two");
        assert!(last.1.is_closed, "{name}");
        assert_eq!(last.1.get("tower_claude.ending"), "dropped", "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn model_name_of_a_caller_is_escaped() {
    let fake = quiet();
    let (spans, _guard) = Spans::start();
    let service = RetryLayer::new().layer(client(&fake));
    let mut request = request(SONNET, false);
    let body = r#"{"model":"a\nb\u001b[31m","max_tokens":5,"messages":[]}"#;
    *request.body_mut() = RequestBody::from(body);
    send(&service, request).await.expect("it is answered");
    for (_, span) in [spans.only("call"), spans.only("attempt")] {
        let model = span.get("gen_ai.request.model");
        assert!(model.starts_with("a\\nb"), "{model:?}");
        assert!(!model.contains('\u{1b}'), "{model:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn rejected_call_has_a_span_and_no_attempt_that_was_sent() {
    let fake = quiet();
    let (spans, _guard) = Spans::start();
    let breaker = CircuitBreakerLayer::new();
    let service = RetryLayer::new().layer(breaker.layer(client(&fake)));
    let down = Fault::Overloaded;
    for _ in 0..40 {
        fake.inject(down.clone());
    }
    let mut refused = None;
    for _ in 0..20 {
        send(&service, request(SONNET, false))
            .await
            .expect("it is a response");
        let (id, call) = spans.named("call").pop().expect("it was called");
        assert!(call.is_closed);
        if call.get("tower_claude.attempts") == "0" {
            refused = Some((id, call));
            break;
        }
    }
    let (id, call) = refused.expect("the circuit opens");
    assert_eq!(call.get("tower_claude.ending"), "failed");
    assert_eq!(call.get("otel.status_code"), "ERROR");
    for (_, attempt) in spans.named("attempt") {
        assert!(attempt.is_closed);
        if attempt.parent == Some(id) {
            assert_eq!(attempt.get("tower_claude.ending"), "not_sent");
        }
    }
}
