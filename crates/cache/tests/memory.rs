//! Memory use of the frame buffer, counted by the allocator.
#![allow(unsafe_code)] // A global allocator cannot be written without.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    convert::Infallible,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_claude_cache::{CacheLayer, Cacheable};
use tower_claude_core::RequestBody;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is handed on to the system's allocator as it is; counting touches atomics
// only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(memory, layout) }
    }

    // Counted as growth: what is large is moved by its pages, not copied beside itself.
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let live = LIVE.fetch_add(size, Ordering::Relaxed) + size - layout.size();
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// An endless stream of events, each a slice of a much larger buffer, as a client's frames are.
struct Endless {
    begun: bool,
    left: usize,
    length: usize,
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        let kind = if std::mem::replace(&mut self.begun, true) {
            "content_block_delta"
        } else {
            "content_block_start"
        };
        let mut buffer = BytesMut::with_capacity(self.length.max(16 * 1024));
        buffer.extend_from_slice(
            format!("event: {kind}\ndata: {{\"type\":\"{kind}\",\"x\":\"").as_bytes(),
        );
        let filled = self.length.saturating_sub(buffer.len() + 4);
        buffer.resize(buffer.len() + filled, b'x');
        buffer.extend_from_slice(b"\"}\n\n");
        Poll::Ready(Some(Ok(Frame::data(buffer.freeze()))))
    }
}

fn marked() -> Request<RequestBody> {
    let body = r#"{"model":"claude-sonnet-5-5","stream":true,"messages":[]}"#;
    let mut request = Request::post("/v1/messages")
        .body(RequestBody::from(body))
        .expect("a request");
    request.extensions_mut().insert(Cacheable::new());
    request
}

/// Returns the peak memory increase while one reader reads everything and another reader nothing.
async fn peak(limit: usize, length: usize) -> usize {
    let layer = CacheLayer::new(Duration::from_secs(60)).with_entry_limit(limit);
    let service = layer.layer(service_fn(move |_: Request<RequestBody>| async move {
        let left = 3 * limit / length;
        let body = Endless {
            begun: false,
            left,
            length,
        };
        let response = Response::builder().header("content-type", "text/event-stream");
        Ok::<_, Infallible>(response.body(body).expect("valid"))
    }));
    let slow = service.clone().oneshot(marked()).await.expect("a head");
    let mut fast = service.oneshot(marked()).await.expect("a head").into_body();
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let mut read = 0;
    while let Some(frame) = fast.frame().await {
        read += frame.expect("no error").data_ref().map_or(0, Bytes::len);
    }
    let peak = PEAK.load(Ordering::Relaxed) - before;
    assert!(read > 2 * limit, "the fast reader has read everything");
    drop(slow);
    peak
}

/// The only test of this binary, because the count is per process.
#[tokio::test(start_paused = true)]
async fn buffering_takes_at_most_its_limit_plus_five_percent() {
    for (limit, length) in [
        (4 << 20, 150),
        (4 << 20, 1_000),
        (4 << 20, 40_000),
        (1 << 20, 150),
    ] {
        let peak = peak(limit, length).await;
        let share = peak as f64 / limit as f64;
        println!(
            "events of {length} bytes, limit {limit}: peak {peak}, {:.1} % of the limit",
            100.0 * share
        );
        // Plus the frame in flight, whose buffer is the client's.
        assert!(
            peak <= limit + limit / 20 + length.max(16 * 1024),
            "{:.1} % of the limit",
            100.0 * share
        );
        assert!(share > 0.5, "nothing was recorded");
    }
}
