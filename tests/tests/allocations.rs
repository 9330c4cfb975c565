//! Allocations of a call through the layers, and of parsing.
#![allow(unsafe_code)] // A global allocator cannot be written without.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    pin::pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower_claude::PromptCacheLayer;
use tower_claude_core::RequestBody;
use tower_claude_fallback_model::FallbackModelLayer;
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::Limits;
use tower_claude_retry::RetryLayer;
use tower_claude_token_bucket::TokenBucketLayer;
use tower_claude_wire::{Peek, RateLimits, StreamState};
use tower_layer::Layer;
use tower_service::Service;

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is handed on to the system's allocator as it is; counting touches a cell of
// this thread and never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        tally(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        tally(size);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(memory, layout, size) }
    }
}

fn tally(size: usize) {
    let _ = BYTES.try_with(|bytes| bytes.set(bytes.get() + size));
    // A thread that ends has no cell any more.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

/// Allocations of this thread while `run` runs.
fn allocations<R>(run: impl FnOnce() -> R) -> u64 {
    let before = COUNT.with(Cell::get);
    black_box(run());
    COUNT.with(Cell::get) - before
}

const MESSAGE: &[u8] = br#"{"id":"msg_01","type":"message","role":"assistant","model":"claude-sonnet-5-5","content":[{"type":"text","text":"Hello!"}],"stop_reason":"end_turn","usage":{"input_tokens":50,"cache_read_input_tokens":1800,"output_tokens":503}}"#;

const REQUEST: &str = r#"{"model":"claude-sonnet-5-5","max_tokens":1024,"system":"Answer briefly.","messages":[{"role":"user","content":"Hello"}]}"#;

fn answer_headers() -> HeaderMap {
    [
        ("date", "Sun, 22 Nov 2026 10:00:00 GMT"),
        ("content-type", "application/json"),
        ("request-id", "req_011CSHoEeqs5C35K2UUqR7Fy"),
        ("anthropic-ratelimit-requests-limit", "1000000"),
        ("anthropic-ratelimit-requests-remaining", "999000"),
        ("anthropic-ratelimit-requests-reset", "2026-11-22T10:00:01Z"),
        ("anthropic-ratelimit-input-tokens-limit", "1000000000"),
        ("anthropic-ratelimit-input-tokens-remaining", "999000000"),
        (
            "anthropic-ratelimit-input-tokens-reset",
            "2026-11-22T10:00:01Z",
        ),
        ("anthropic-ratelimit-output-tokens-limit", "1000000000"),
        ("anthropic-ratelimit-output-tokens-remaining", "999000000"),
        (
            "anthropic-ratelimit-output-tokens-reset",
            "2026-11-22T10:00:01Z",
        ),
    ]
    .into_iter()
    .map(|(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    })
    .collect()
}

/// Has its answer ready: the one `Response` that the next call takes.
#[derive(Clone)]
struct Answer(std::sync::Arc<std::sync::Mutex<Option<Response<Full<Bytes>>>>>);

impl Answer {
    fn new() -> Self {
        Self(std::sync::Arc::default())
    }

    fn prepare(&self) {
        let mut response = Response::new(Full::new(Bytes::from_static(MESSAGE)));
        *response.headers_mut() = answer_headers();
        *self.0.lock().expect("not poisoned") = Some(response);
    }
}

impl<B> Service<Request<B>> for Answer {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<B>) -> Self::Future {
        let response = self.0.lock().expect("not poisoned").take();
        ready(Ok(response.expect("prepared before the call")))
    }
}

/// As a server or client has it: names known, values slices of one shared buffer.
fn request() -> Request<()> {
    const HEADERS: [(&str, &str); 3] = [
        ("x-api-key", "sk-ant-api03-0123456789"),
        ("anthropic-version", "2023-06-01"),
        ("content-type", "application/json"),
    ];
    const PATH: &str = "/v1/messages";
    let mut text = PATH.to_owned();
    text.extend(HEADERS.map(|(_, value)| value));
    let buffer = Bytes::from(text);
    let path = buffer.slice(..PATH.len());
    let mut request = Request::new(());
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_maybe_shared(path).expect("a valid path");
    let mut at = PATH.len();
    for (name, value) in HEADERS {
        let slice = buffer.slice(at..at + value.len());
        at += value.len();
        let value = HeaderValue::from_maybe_shared(slice).expect("a valid value");
        request
            .headers_mut()
            .insert(HeaderName::from_static(name), value);
    }
    request
}

/// The allocations of one call and its whole answer, warmed up. Request and answer are built
/// outside, all but the `RequestBody`: what it allocates, then or when it is first looked into, is
/// the layers' doing.
fn of_one_call<S, B>(answer: &Answer, mut service: S) -> u64
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes, Error = Infallible>,
{
    let mut one = || {
        answer.prepare();
        let request = request();
        let call = async {
            let request = request.map(|()| RequestBody::from(REQUEST));
            let Ok(response) = service.call(request).await;
            assert_eq!(response.status(), 200);
            let mut body = pin!(response.into_body());
            let mut length = 0;
            while let Some(Ok(frame)) = body.frame().await {
                length += frame.data_ref().map_or(0, Bytes::len);
            }
            assert_eq!(length, MESSAGE.len());
        };
        allocations(|| call.now_or_never().expect("nothing waits"))
    };
    for _ in 0..64 {
        one();
    }
    // Now and then something grows; what every call pays is what counts.
    (0..16).map(|_| one()).min().unwrap_or_default()
}

fn within(what: &str, count: u64, most: u64) {
    println!("{what}: {count} allocations, at most {most} wanted");
    assert!(
        count <= most,
        "{what}: {count} allocations, at most {most} wanted"
    );
}

fn limits() -> Limits {
    let million = const { std::num::NonZeroU64::new(1_000_000).expect("not 0") };
    let billion = const { std::num::NonZeroU64::new(1_000_000_000).expect("not 0") };
    Limits::new()
        .with_requests_per_minute(million)
        .with_input_tokens_per_minute(billion)
        .with_output_tokens_per_minute(billion)
}

#[test]
fn bare_service_allocates_the_body_of_the_request_only() {
    let answer = Answer::new();
    within("floor", of_one_call(&answer, answer.clone()), 1);
}

#[test]
fn a_call_through_all_three_layers() {
    let answer = Answer::new();
    let bucket = TokenBucketLayer::new(limits());
    let budget = HeaderBudgetLayer::over(bucket.limiter());
    let stack = RetryLayer::new().layer(bucket.layer(budget.layer(answer.clone())));
    within("three together", of_one_call(&answer, stack), THREE);
}

/// Nothing is cached, no call waits and none fails.
#[test]
fn a_call_through_all_six_layers() {
    let answer = Answer::new();
    let stack = tower_claude::recommended()
        .with_limits(limits())
        .with_fallback(["claude-opus-5-5", "claude-haiku-5-5"])
        .layer(answer.clone());
    within("all six", of_one_call(&answer, stack), SIX);
}

/// A prompt that is too short for the prompt cache costs nothing more.
#[test]
fn a_short_prompt_through_the_prompt_cache() {
    let answer = Answer::new();
    let stack = tower_claude::recommended()
        .with_limits(limits())
        .with_fallback(["claude-opus-5-5", "claude-haiku-5-5"])
        .with_prompt_cache()
        .layer(answer.clone());
    within(
        "all six and the prompt cache",
        of_one_call(&answer, stack),
        SIX,
    );
    let alone = PromptCacheLayer::new().layer(answer.clone());
    // The parsed request and the record of the call.
    within("prompt-cache", of_one_call(&answer, alone), 2);
}

#[test]
fn a_call_through_each_layer_alone() {
    let answer = Answer::new();
    let bucket = TokenBucketLayer::new(limits()).layer(answer.clone());
    within("token-bucket", of_one_call(&answer, bucket), LIMITER);
    let budget = HeaderBudgetLayer::new().layer(answer.clone());
    within("header-budget", of_one_call(&answer, budget), LIMITER);
    let retry = RetryLayer::new().layer(answer.clone());
    within("retry", of_one_call(&answer, retry), RETRY);
    let fallback = FallbackModelLayer::new(["claude-haiku-5-5"]).layer(answer.clone());
    within(
        "fallback-model",
        of_one_call(&answer, fallback),
        RETRY + KEPT,
    );
    let none = FallbackModelLayer::new(["claude-sonnet-5-5"]).layer(answer.clone());
    // The parsed request and the record of the call.
    within("fallback-model, nobody else", of_one_call(&answer, none), 2);
}

#[test]
fn fallback_around_retry() {
    let answer = Answer::new();
    let stack = FallbackModelLayer::new(["claude-haiku-5-5"])
        .layer(RetryLayer::new().layer(answer.clone()));
    within(
        "fallback-model and retry",
        of_one_call(&answer, stack),
        RETRY + KEPT,
    );
}

/// An event stream of this many deltas, in frames that are there already.
#[derive(Clone)]
struct Events(u64);

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}}\n\nevent: content_block_start\ndata: {}\n\n";
        const DELTA: &str =
            "event: content_block_delta\ndata: {\"delta\":{\"text\":\"lantern\"}}\n\n";
        let text = if self.0 % 2 == 1 { START } else { DELTA };
        // Odd only before the start.
        match self.0 {
            0 => return Poll::Ready(None),
            n if n % 2 == 1 => self.0 -= 1,
            _ => self.0 -= 2,
        }
        Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(
            text.as_bytes(),
        )))))
    }
}

/// Frames are handed on and nothing of them is kept.
#[test]
fn stream_through_all_six_layers_allocates_nothing_per_event() {
    let of_events = |events: u64| {
        let api = tower::service_fn(move |_: Request<RequestBody>| {
            let response = Response::builder().header("content-type", "text/event-stream");
            ready(Ok::<_, Infallible>(
                response.body(Events(events * 2 + 1)).expect("a response"),
            ))
        });
        let mut stack = tower_claude::recommended()
            .with_limits(limits())
            .with_fallback(["claude-opus-5-5", "claude-haiku-5-5"])
            .layer(api);
        let request = request().map(|()| RequestBody::from(REQUEST));
        let response = stack.call(request).now_or_never().expect("nothing waits");
        let Ok(response) = response;
        let mut body = pin!(response.into_body());
        // The frames that were held and the first report to the limiter.
        for _ in 0..100 {
            body.frame().now_or_never().expect("nothing waits");
        }
        let mut frames = 0;
        let count = allocations(|| {
            while let Some(Some(_)) = body.frame().now_or_never() {
                frames += 1;
            }
        });
        assert!(frames + 110 > events, "{frames}");
        count
    };
    of_events(1_000);
    within("a stream of 100,000 events", of_events(100_000), 8);
}

/// A JSON response of 32 MiB in one frame is parsed where it is, and in many frames the first 4 MiB
/// are kept for its usage.
#[test]
fn long_json_response_through_all_six_layers_is_not_copied_as_a_whole() {
    const LENGTH: usize = 32 << 20;
    const MIB: usize = 1 << 20;
    let text = "a".repeat(LENGTH);
    let text = format!(r#"{{"content":[{{"type":"text","text":"{text}"}}],"usage":{{}}}}"#);
    let whole = Bytes::from(text);
    for (frame, most) in [(whole.len(), MIB), (64 << 10, 16 * MIB)] {
        let whole = whole.clone();
        let api = tower::service_fn(move |_: Request<RequestBody>| {
            let response = Response::builder().header("content-type", "application/json");
            let rest = Pieces(whole.clone(), frame);
            ready(Ok::<_, Infallible>(
                response.body(rest).expect("a response"),
            ))
        });
        let mut stack = tower_claude::recommended()
            .with_limits(limits())
            .with_fallback(["claude-opus-5-5", "claude-haiku-5-5"])
            .layer(api);
        let request = request().map(|()| RequestBody::from(REQUEST));
        let before = BYTES.get();
        let Ok(response) = stack.call(request).now_or_never().expect("nothing waits");
        let mut body = pin!(response.into_body());
        let mut length = 0;
        while let Some(Some(Ok(frame))) = body.frame().now_or_never() {
            length += frame.data_ref().map_or(0, Bytes::len);
        }
        assert!(length > LENGTH, "{length}");
        let bytes = BYTES.get() - before;
        println!("32 MiB in frames of {frame}: {bytes} bytes");
        assert!(bytes <= most, "{bytes} bytes in frames of {frame}");
    }
}

/// A body in frames of this length at most.
struct Pieces(Bytes, usize);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        let length = self.1.min(self.0.len());
        let frame = self.0.split_to(length);
        Poll::Ready((length > 0).then(|| Ok(http_body::Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

// What they take. The goal for all six is 8.
const SIX: u64 = 4;
const THREE: u64 = 5;
const LIMITER: u64 = 3;
const RETRY: u64 = 3;
/// The request that both keep, or a second copy of it.
const KEPT: u64 = 2;

#[test]
fn parsing_a_plain_body_allocates_nothing() {
    let count = allocations(|| Peek::parse(REQUEST.as_bytes()).expect("a JSON object"));
    within("Peek::parse", count, 0);
}

#[test]
fn reading_rate_limit_headers_allocates_nothing() {
    let headers = answer_headers();
    let count = allocations(|| RateLimits::from_headers(&headers));
    within("RateLimits::from_headers", count, 0);
}

#[test]
fn observing_whole_events_allocates_nothing() {
    let delta = b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" and the lantern was lit\"}}\n\n";
    let mut state = StreamState::new();
    state.feed(b"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":25}}}\n\n");
    let count = allocations(|| {
        for _ in 0..100 {
            state.feed(delta);
        }
    });
    within("StreamState::feed", count, 0);
    assert!(state.delta_bytes() > 0);
}
