//! Bodies in frames of one byte, of comments only, and of nothing: bounded memory, linear work, and
//! no poll that never returns.
//!
//! `TOWER_CLAUDE_FRAMES=33554432 cargo test --release -p tower-claude-tests --test frames` runs it
//! with bodies of 32 MiB.
#![allow(unsafe_code)] // A global allocator cannot be written without.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    convert::Infallible,
    future::ready,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tower::{ServiceExt, service_fn};
use tower_claude::{CacheLayer, RequestBody, cache::Cacheable, recommended};
use tower_claude_tests::{BASE, SECOND, SONNET, post, prompt, request};
use tower_layer::Layer;

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
    static TOTAL: Cell<usize> = const { Cell::new(0) };
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn tally(allocated: usize, freed: usize) {
    // A thread that ends has no cells any more.
    let _ = COUNT.try_with(|count| count.set(count.get() + usize::from(allocated > 0)));
    let _ = TOTAL.try_with(|total| total.set(total.get() + allocated));
    let live = LIVE.try_with(|live| {
        live.set(live.get() + allocated as isize - freed as isize);
        live.get()
    });
    let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.unwrap_or(0))));
}

// SAFETY: every call is handed on to the system's allocator as it is. Counting touches cells of
// this thread and never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        tally(layout.size(), 0);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        tally(0, layout.size());
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        tally(size, layout.size());
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Allocations of this thread while a test runs.
#[derive(Debug)]
struct Usage {
    count: usize,
    total: usize,
    peak: usize,
}

async fn usage<T>(run: impl Future<Output = T>) -> (T, Usage) {
    let before = (COUNT.get(), TOTAL.get(), LIVE.get());
    PEAK.set(before.2);
    let result = run.await;
    let usage = Usage {
        count: COUNT.get() - before.0,
        total: TOTAL.get() - before.1,
        peak: (PEAK.get() - before.2).max(0) as usize,
    };
    (result, usage)
}

/// The bytes of a body.
fn length() -> usize {
    let length = std::env::var("TOWER_CLAUDE_FRAMES").ok();
    length.map_or(512 << 10, |length| length.parse().expect("a number"))
}

const MIB: usize = 1 << 20;

/// A text in frames of one byte, all of which are there.
#[derive(Clone)]
struct Tiny(Bytes);

impl Tiny {
    /// Leaks the text, so that a frame has no memory of its own.
    fn new(text: String) -> Self {
        Self(Bytes::from_static(text.leak().as_bytes()))
    }
}

impl Body for Tiny {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(self.0.split_to(1)))))
    }
}

fn message() -> String {
    let text = "x".repeat(length());
    format!(
        r#"{{"type":"message","content":[{{"type":"text","text":"{text}"}}],"stop_reason":"end_turn","usage":{{"input_tokens":1,"output_tokens":1}}}}"#
    )
}

fn stream() -> String {
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":1}}}\n\n";
    let delta = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n";
    let stop = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    [start, &delta.repeat(length() / delta.len()), stop].concat()
}

fn response<B>(status: u16, media: &str, body: B) -> Response<B> {
    let response = Response::builder().status(status);
    let response = response.header("content-type", media);
    response.body(body).expect("a response")
}

/// Reads a body, and returns the number of its bytes.
async fn drain<B: Body<Data = Bytes, Error = Infallible> + Unpin>(mut body: B) -> usize {
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        read += frame.expect("whole").data_ref().map_or(0, Bytes::len);
    }
    read
}

#[tokio::test(start_paused = true)]
async fn responses_of_one_byte_frames_take_bounded_memory() {
    for (status, media, text) in [
        (200, "application/json", message()),
        (200, "text/event-stream", stream()),
        (529, "application/json", message()),
        (400, "text/plain", message()),
        (
            200,
            "text/event-stream",
            ": comment\n\n".repeat(length() / 11),
        ),
    ] {
        let (whole, body) = (text.len(), Tiny::new(text));
        let service = service_fn(move |_: Request<RequestBody>| {
            ready(Ok::<_, Infallible>(response(status, media, body.clone())))
        });
        let service = recommended().layer(service);
        let call = async {
            let answer = service
                .oneshot(request(SONNET, false))
                .await
                .expect("a response");
            drain(answer.into_body()).await
        };
        let (read, usage) = usage(call).await;
        // A rest of one event may follow the end of a message.
        assert!(read >= whole - 1, "{status} {media}: {read} of {whole}");
        // 64 KiB are held, and one event is parsed.
        assert!(usage.peak < 2 * MIB, "{status} {media}: {usage:?}");
        assert!(
            usage.count < 5 * (2_000 + whole / 64),
            "{status} {media}: {usage:?}"
        );
        assert!(
            usage.total < 10 * (MIB + whole),
            "{status} {media}: {usage:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn request_of_one_byte_frames_takes_memory_in_proportion_to_its_bytes() {
    let text = prompt(SONNET, false).replace("Hi", &"x".repeat(length()));
    let whole = text.len();
    let service = service_fn(move |request: Request<RequestBody>| {
        let sent = request.into_body().bytes().map(Bytes::len);
        assert_eq!(sent, Some(whole));
        let answer = Tiny::new(message_of_one_word());
        ready(Ok::<_, Infallible>(response(
            200,
            "application/json",
            answer,
        )))
    });
    let service = recommended().layer(service);
    let request: Request<Tiny> = post(BASE, Tiny::new(text));
    let (answer, usage) = usage(service.oneshot(request)).await;
    assert_eq!(answer.expect("a response").status(), 200);
    assert!(usage.peak < 2 * MIB + 4 * whole, "{usage:?}");
    assert!(usage.count < 2_000 + whole / 32, "{usage:?}");
    assert!(usage.total < MIB + 16 * whole, "{usage:?}");
}

fn message_of_one_word() -> String {
    r#"{"type":"message","content":[],"stop_reason":"end_turn","usage":{"input_tokens":1}}"#.into()
}

#[tokio::test(start_paused = true)]
async fn shared_response_of_one_byte_frames_takes_memory_in_proportion_to_its_bytes() {
    for (media, text) in [
        ("application/json", message()),
        ("text/event-stream", stream()),
    ] {
        let (whole, body) = (text.len(), Tiny::new(text));
        let service = service_fn(move |_: Request<RequestBody>| {
            ready(Ok::<_, Infallible>(response(200, media, body.clone())))
        });
        let service = CacheLayer::new(100 * SECOND).layer(service);
        let marked = || {
            let mut request = request(SONNET, false);
            request.extensions_mut().insert(Cacheable::new());
            request
        };
        let call = async {
            let calls = [0, 1].map(|_| service.clone().oneshot(marked()));
            let [first, second] = calls;
            let (first, second) = tokio::join!(first, second);
            let [first, second] = [first, second].map(|answer| answer.expect("a response"));
            tokio::join!(drain(first.into_body()), drain(second.into_body()))
        };
        let (read, usage) = usage(call).await;
        assert_eq!(read, (whole, whole), "{media}");
        assert!(usage.peak < MIB + 8 * whole, "{media}: {usage:?}");
        // A waiting reader registers for each frame.
        assert!(usage.count < 5_000 + 2 * whole, "{media}: {usage:?}");
        assert!(usage.total < MIB + 400 * whole, "{media}: {usage:?}");
    }
}

/// A body of empty frames that never ends, and is never pending.
#[derive(Clone)]
struct Empty;

impl Body for Empty {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::new()))))
    }
}

/// Polls a future that cannot end. Each poll must return.
async fn assert_yields<F: Future>(future: F, what: &str) {
    let mut future = pin!(future);
    let cx = &mut Context::from_waker(Waker::noop());
    for _ in 0..100 {
        assert!(future.as_mut().poll(cx).is_pending(), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn endless_empty_frames_let_other_tasks_run() {
    for (status, media) in [
        (200, "application/json"),
        (200, "text/event-stream"),
        (500, "application/json"),
        (200, "text/plain"),
    ] {
        let service = service_fn(move |_: Request<RequestBody>| {
            ready(Ok::<_, Infallible>(response(status, media, Empty)))
        });
        let stack = recommended().layer(service);
        assert_yields(stack.oneshot(request(SONNET, false)), media).await;
    }
    let service = service_fn(move |_: Request<RequestBody>| {
        ready(Ok::<_, Infallible>(response(
            200,
            "application/json",
            Empty,
        )))
    });
    let mut marked = request(SONNET, false);
    marked.extensions_mut().insert(Cacheable::new());
    let cache = CacheLayer::new(100 * SECOND).layer(service);
    let call = async {
        let answer = cache.oneshot(marked).await.expect("a response");
        drain(answer.into_body()).await
    };
    assert_yields(call, "cache").await;
    let stack = recommended().layer(service);
    let request: Request<Empty> = post(BASE, Empty);
    assert_yields(stack.oneshot(request), "request").await;
}
