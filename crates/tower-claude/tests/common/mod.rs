//! What the tests of the recommended stack share.
#![allow(dead_code, reason = "each test target uses a part")]

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_claude::{
    Kind, Limiter, LocalLimiter, Rejection, RequestBody, cache::Cacheable, event::Event,
    event::Observer,
};
use tower_service::Service;

pub(crate) const SONNET: &str = "claude-sonnet-5-5";
pub(crate) const OPUS: &str = "claude-opus-5-5";
pub(crate) const HAIKU: &str = "claude-haiku-5-5";

/// A Messages request to this model.
pub(crate) fn message_to(model: &str, stream: bool) -> Request<RequestBody> {
    let body = format!(
        r#"{{"model":"{model}","max_tokens":256,"stream":{stream},"messages":[{{"role":"user","content":"Hi"}}]}}"#
    );
    Request::post("http://localhost/v1/messages")
        .header("x-api-key", "key-a")
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .body(body.into())
        .expect("a request")
}

/// A Messages request.
pub(crate) fn message(stream: bool) -> Request<RequestBody> {
    message_to(SONNET, stream)
}

/// The same, and the cache may answer it.
pub(crate) fn cacheable(stream: bool) -> Request<RequestBody> {
    let mut request = message(stream);
    request.extensions_mut().insert(Cacheable::new());
    request
}

/// What a caller saw.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) refused: Option<Rejection>,
    pub(crate) text: String,
    pub(crate) broken: bool,
}

impl Seen {
    /// The whole of an answer, as the API ends it.
    pub(crate) fn is_whole(&self) -> bool {
        let ends = self.text.contains("event: message_stop") || self.text.ends_with('}');
        self.status == 200 && !self.broken && self.text.contains("\"usage\"") && ends
    }

    /// The header, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("text"))
    }

    /// What it was refused for, and by whom.
    pub(crate) fn refused_by(&self) -> Option<(&'static str, Kind)> {
        self.refused
            .map(|refused| (refused.by, refused.class().kind))
    }
}

/// Sends a request and reads the answer as far as it goes.
pub(crate) async fn send<S, R>(service: &S, request: Request<RequestBody>) -> Result<Seen, S::Error>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    R: Body<Data = Bytes> + Unpin,
{
    let (head, mut body) = service.clone().oneshot(request).await?.into_parts();
    let mut data = Vec::new();
    let mut broken = false;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => data.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
            Err(_) => {
                broken = true;
                break;
            }
        }
    }
    Ok(Seen {
        status: head.status,
        headers: head.headers,
        refused: head.extensions.get().copied(),
        text: String::from_utf8_lossy(&data).into_owned(),
        broken,
    })
}

/// Every event, as `layer decision`.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was told since this was last asked.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lock())
    }
}

/// How often something was told.
pub(crate) fn count(told: &[String], what: &str) -> usize {
    told.iter().filter(|line| *line == what).count()
}

impl Observer for Told {
    fn on_event(&self, event: &Event<'_>) {
        let line = match event {
            Event::Admitted { layer, .. } => format!("{layer} admitted"),
            Event::Queued { layer, .. } => format!("{layer} queued"),
            Event::Rejected { layer, .. } => format!("{layer} refused"),
            Event::Paused { layer, .. } => format!("{layer} paused"),
            Event::Headroom { layer, .. } => format!("{layer} headroom"),
            Event::Threshold { .. } => return,
            Event::Retry { layer, class, .. } => format!("{layer} retry {}", class.kind.as_str()),
            Event::GaveUp { layer, because, .. } => format!("{layer} gave up: {because}"),
            Event::CircuitOpened { layer, .. } => format!("{layer} opened"),
            Event::CircuitProbe { layer, .. } => format!("{layer} probe"),
            Event::CircuitClosed { layer, .. } => format!("{layer} closed"),
            Event::FellBack { layer, to, .. } => format!("{layer} to {to}"),
            Event::Cache {
                layer, decision, ..
            } => format!("{layer} {}", decision.as_str()),
            other => format!("{other:?}"),
        };
        self.lock().push(line);
    }
}

/// Nothing is in flight, nothing waits, and nothing is reserved.
pub(crate) fn assert_idle(limiter: &LocalLimiter, what: &str) {
    for scope in limiter.snapshot() {
        assert_eq!(scope.in_flight, 0, "in flight after {what}: {scope:?}");
        assert_eq!(scope.queued, 0, "queued after {what}: {scope:?}");
        assert_eq!(
            scope.outstanding_output, 0,
            "reserved after {what}: {scope:?}"
        );
    }
}
