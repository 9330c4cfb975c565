//! What the tests of the whole stack share.
#![allow(dead_code, reason = "each test target uses a part")]

use std::{
    num::{NonZeroU32, NonZeroU64},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_claude_core::{
    Class, Kind, RequestBody,
    event::{Event, Observer},
};
use tower_claude_fake_claude::{Attempt, FakeClaude, GroupLimits, HeaderFamily};
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::{Limiter, Limits, LocalLimiter};
use tower_claude_retry::{RetryHandle, RetryLayer};
use tower_claude_token_bucket::TokenBucketLayer;
use tower_layer::Layer;
use tower_service::Service;

/// The three layers as the README stacks them.
pub(crate) type Layers<S> = <RetryLayer as Layer<Bucketed<S>>>::Service;
type Bucketed<S> = <TokenBucketLayer as Layer<Budgeted<S>>>::Service;
type Budgeted<S> = <HeaderBudgetLayer as Layer<S>>::Service;

/// A stack and all its handles.
#[derive(Clone)]
pub(crate) struct Stack<S: Clone> {
    pub(crate) service: Layers<S>,
    pub(crate) limiter: LocalLimiter,
    pub(crate) retry: RetryHandle,
    pub(crate) told: Told,
}

impl<S: Clone> Stack<S> {
    /// The recommended layers over `inner`, with these limits.
    pub(crate) fn new(inner: S, limits: Limits) -> Self {
        Self::with(inner, RetryLayer::new(), TokenBucketLayer::new(limits))
    }

    pub(crate) fn with(inner: S, retry: RetryLayer, bucket: TokenBucketLayer) -> Self {
        let told = Told::default();
        let retry = retry.with_observer(told.clone());
        let bucket = bucket.with_observer(told.clone());
        let budget = HeaderBudgetLayer::over(bucket.limiter()).with_observer(told.clone());
        Self {
            limiter: bucket.limiter(),
            retry: retry.handle(),
            told,
            service: retry.layer(bucket.layer(budget.layer(inner))),
        }
    }

    /// Nothing is held anywhere any more.
    pub(crate) fn assert_idle(&self, what: &str) {
        assert_idle(&self.limiter, what);
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

/// Every event, as `layer decision`.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    pub(crate) fn all(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.all().iter().filter(|told| *told == what).count()
    }
}

impl Observer for Told {
    fn on_event(&self, event: &Event<'_>) {
        let line = match event {
            Event::Admitted { layer, .. } => format!("{layer} admitted"),
            Event::Rejected { layer, .. } => format!("{layer} refused"),
            Event::Paused { layer, .. } => format!("{layer} paused"),
            Event::Headroom { layer, .. } => format!("{layer} headroom"),
            Event::Threshold { layer, .. } => format!("{layer} threshold"),
            Event::Retry { layer, class, .. } => format!("{layer} retry {}", class.kind.as_str()),
            Event::GaveUp { layer, because, .. } => format!("{layer} gave up: {because}"),
            Event::Broken { layer, class } => format!("{layer} broken {}", class.kind.as_str()),
            Event::Unauthorized { layer, .. } => format!("{layer} unauthorized"),
            other => format!("{other:?}"),
        };
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
    }
}

/// What a caller saw.
#[derive(Debug)]
pub(crate) struct Seen<E> {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) class: Option<Class>,
    pub(crate) data: Bytes,
    /// How the body broke off.
    pub(crate) error: Option<E>,
}

impl<E> Seen<E> {
    pub(crate) fn kind(&self) -> Option<Kind> {
        self.class.map(|class| class.kind)
    }

    pub(crate) fn has(&self, text: &str) -> bool {
        self.text().contains(text)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }

    /// The whole of an answer, as the API ends it.
    pub(crate) fn is_whole(&self, stream: bool) -> bool {
        let end = if stream {
            "event: message_stop"
        } else {
            "\"usage\""
        };
        self.status == 200 && self.error.is_none() && self.has(end)
    }
}

/// Sends a request and reads the answer as far as it goes.
pub(crate) async fn send<S, B, R, E>(
    service: &S,
    request: Request<B>,
) -> Result<Seen<R::Error>, S::Error>
where
    S: Service<Request<B>, Response = Response<R>, Error = E> + Clone,
    R: Body<Data = Bytes> + Unpin,
{
    let response = service.clone().oneshot(request).await?;
    Ok(read(response).await)
}

/// Reads an answer as far as it goes.
pub(crate) async fn read<R>(response: Response<R>) -> Seen<R::Error>
where
    R: Body<Data = Bytes> + Unpin,
{
    let (head, mut body) = response.into_parts();
    let mut data = Vec::new();
    let mut error = None;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => data.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
            Err(broken) => {
                error = Some(broken);
                break;
            }
        }
    }
    Seen {
        status: head.status,
        class: head.extensions.get().copied(),
        headers: head.headers,
        data: data.into(),
        error,
    }
}

/// What a request says, as JSON.
pub(crate) fn prompt(stream: bool) -> String {
    format!(
        r#"{{"model":"claude-sonnet-5-5","max_tokens":256,"stream":{stream},"messages":[{{"role":"user","content":"Hi"}}]}}"#
    )
}

/// A Messages request to this base URL.
pub(crate) fn message_to(base: &str, stream: bool) -> Request<RequestBody> {
    Request::post(format!("{base}/v1/messages"))
        .header("x-api-key", "key-a")
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .body(prompt(stream).into())
        .expect("a request")
}

/// A Messages request.
pub(crate) fn message(stream: bool) -> Request<RequestBody> {
    message_to("http://localhost", stream)
}

/// The same request with one more header.
pub(crate) fn with<B>(mut request: Request<B>, name: &'static str, value: &str) -> Request<B> {
    let value = value.parse().expect("a header value");
    request.headers_mut().insert(name, value);
    request
}

/// A request of so many input tokens, which the fake and its estimate agree on.
pub(crate) fn sized(stream: bool, input: u64) -> Request<RequestBody> {
    let input = input.to_string();
    let request = with(message(stream), "x-fake-input-tokens", &input);
    with(request, "x-fake-estimate-tokens", &input)
}

/// A server whose limits nothing reaches.
pub(crate) fn quiet() -> FakeClaude {
    FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .build()
}

/// The same, and it does not tell: limits set by hand stay what they are.
pub(crate) fn silent() -> FakeClaude {
    FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .header_family(HeaderFamily::None)
        .build()
}

pub(crate) fn rpm(limit: u64) -> Limits {
    Limits::new().with_requests_per_minute(NonZeroU64::new(limit).expect("a limit"))
}

pub(crate) fn at_once(limit: u32) -> Limits {
    Limits::new().with_concurrency(NonZeroU32::new(limit).expect("a limit"))
}

/// The statuses the server gave, in order.
pub(crate) fn statuses(log: &[Attempt]) -> Vec<u16> {
    log.iter().map(|attempt| attempt.status).collect()
}
