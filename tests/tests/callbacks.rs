//! Calls through the whole stack, while observers, stores, bodies and wakers call back into every
//! handle: none of them may run under a lock.
//!
//! The test makes 100,000 calls, and as many as the variable `CALLS` in an optimized build:
//!
//! ```sh
//! CALLS=1000000 cargo test --release -p tower-claude-tests --test callbacks
//! ```
#![forbid(unsafe_code)]

use std::{
    collections::VecDeque,
    future::{Ready, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt, util::BoxCloneSyncService};
use tower_claude::{
    Limiter, Limits, LocalLimiter,
    cache::{CacheHandle, CacheLayer, Cacheable, Entry, Key, MemoryStore, Store},
    circuit_breaker::CircuitBreakerHandle,
    event::Event,
    fallback_model::FallbackHandle,
    recommended,
    retry::RetryHandle,
};
use tower_claude_core::RequestBody;
use tower_claude_tests::{BASE, Broken, SONNET, post, with};
use tower_service::Service;

/// The time without a finished call after which the test fails.
const PATIENCE: Duration = Duration::from_secs(120);
/// The number of tasks that make calls.
const CALLERS: usize = 32;

type Handles = (
    CacheHandle<MemoryStore>,
    CacheHandle<Calling>,
    FallbackHandle,
    RetryHandle,
    CircuitBreakerHandle,
    LocalLimiter,
);

/// The handles of all layers, as foreign code reads them.
#[derive(Clone, Default)]
struct Back(Arc<OnceLock<Handles>>);

impl Back {
    fn call(&self) {
        if let Some((a, b, c, d, e, f)) = self.0.get() {
            let (_, _, _, _) = (a.snapshot(), b.snapshot(), c.snapshot(), d.snapshot());
            let (_, _) = (e.snapshot(), f.snapshot());
        }
    }
}

/// A store that calls back.
#[derive(Clone)]
struct Calling(MemoryStore, Back);

impl Store for Calling {
    type Get = Ready<Option<Entry>>;

    fn get(&self, key: &Key) -> Self::Get {
        self.1.call();
        self.0.get(key)
    }

    fn insert(&self, key: Key, entry: Entry) {
        self.1.call();
        self.0.insert(key, entry);
    }

    fn remove(&self, key: &Key) {
        self.1.call();
        self.0.remove(key);
    }

    fn bytes(&self) -> u64 {
        self.0.bytes()
    }
}

/// A waker that calls back when it wakes and when it is dropped.
struct CallingWaker(Waker, Back);

impl Wake for CallingWaker {
    fn wake(self: Arc<Self>) {
        self.1.call();
        self.0.wake_by_ref();
    }
}

impl Drop for CallingWaker {
    fn drop(&mut self) {
        self.1.call();
    }
}

/// Waits for a wake-up from another task or from this one.
#[derive(Default)]
struct Pause(bool);

impl Pause {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        if fastrand::bool() {
            cx.waker().wake_by_ref();
        } else {
            let waker = cx.waker().clone();
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                waker.wake();
            });
        }
        Poll::Pending
    }
}

enum Step {
    Data(&'static [u8]),
    Pause(Pause),
    Error,
    Panic,
}

/// A body that calls back when it is polled and when it is dropped.
struct CallingBody(VecDeque<Step>, Back);

impl Body for CallingBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.1.call();
        loop {
            let next = match self.0.front_mut() {
                Some(Step::Pause(pause)) => {
                    std::task::ready!(pause.poll(cx));
                    self.0.pop_front();
                    continue;
                }
                Some(Step::Data(data)) => Some(Ok(Frame::data(Bytes::from_static(data)))),
                Some(Step::Error) => Some(Err(Broken("reset"))),
                Some(Step::Panic) => panic!("a panic of the test"),
                None => None,
            };
            self.0.pop_front();
            return Poll::Ready(next);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.1.call();
        self.0.is_empty()
    }
}

impl Drop for CallingBody {
    fn drop(&mut self) {
        self.1.call();
    }
}

/// An inner service that answers, fails and breaks off at random.
#[derive(Clone)]
struct Inner(Back);

impl Inner {
    fn answer(&self, streams: bool) -> Result<Response<CallingBody>, Broken> {
        let (status, mut steps) = match fastrand::u32(..200) {
            0..4 => return Err(Broken("reset")),
            4 => panic!("a panic of the test"),
            5..9 => (529, vec![Step::Data(OVERLOADED)]),
            9 => (404, vec![Step::Data(OVERLOADED)]),
            _ if streams => (200, STREAM.iter().map(|part| Step::Data(part)).collect()),
            _ => (200, vec![Step::Data(MESSAGE)]),
        };
        for _ in 0..fastrand::usize(..3) {
            let at = fastrand::usize(..=steps.len());
            steps.insert(at, Step::Pause(Pause::default()));
        }
        match fastrand::u32(..50) {
            0..4 => steps.truncate(fastrand::usize(..=steps.len())),
            4..9 => steps.insert(fastrand::usize(..=steps.len()), Step::Error),
            9 => steps.insert(fastrand::usize(..=steps.len()), Step::Panic),
            _ => {}
        }
        let kind = match (status, streams) {
            (200, true) => "text/event-stream",
            _ => "application/json",
        };
        let response = Response::builder()
            .status(status)
            .header("content-type", kind);
        let body = CallingBody(steps.into(), self.0.clone());
        Ok(response.body(body).expect("valid"))
    }
}

impl Service<Request<RequestBody>> for Inner {
    type Response = Response<CallingBody>;
    type Error = Broken;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Broken>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.0.call();
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let (inner, mut pauses) = (self.clone(), fastrand::u32(..3));
        let bytes = request.body().bytes().cloned().unwrap_or_default();
        let streams = bytes.windows(13).any(|text| text == b"\"stream\":true");
        Box::pin(async move {
            while pauses > 0 {
                let mut pause = Pause::default();
                poll_fn(|cx| pause.poll(cx)).await;
                inner.0.call();
                pauses -= 1;
            }
            inner.answer(streams)
        })
    }
}

const MESSAGE: &[u8] = br#"{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-5-5","content":[{"type":"text","text":"Hi"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}"#;
const OVERLOADED: &[u8] =
    br#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
const STREAM: [&[u8]; 4] = [
    b"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-sonnet-5-5\",\"content\":[],\"stop_reason\":null,\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n\n",
    b"event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
    b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n",
    b"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":1}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
];

/// A request that few others equal, so that calls are shared and stored.
fn request() -> Request<RequestBody> {
    let (prompt, streams) = (fastrand::u32(..4), fastrand::bool());
    let body = format!(
        r#"{{"model":"{SONNET}","max_tokens":8,"stream":{streams},"messages":[{{"role":"user","content":"{prompt}"}}]}}"#
    );
    let mut request = with(post(BASE, body), "x-api-key", "key");
    let ttl = Duration::from_micros(fastrand::u64(..300));
    request
        .extensions_mut()
        .insert(Cacheable::new().with_ttl(ttl));
    request
}

/// Makes one call, with wakers that call back. A call in eight is dropped at any poll.
async fn call<S, B>(service: S, back: Back)
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Broken> + Clone,
    B: Body<Data = Bytes, Error = Broken> + Unpin,
{
    let mut polls = match fastrand::u32(..8) {
        0 => fastrand::u32(1..6),
        _ => u32::MAX,
    };
    let mut calling = pin!(async {
        if let Ok(response) = service.oneshot(request()).await {
            tower_claude_tests::read(response.into_body()).await;
        }
    });
    poll_fn(|cx| {
        polls -= 1;
        let waker = Waker::from(Arc::new(CallingWaker(cx.waker().clone(), back.clone())));
        let calling = calling.as_mut().poll(&mut Context::from_waker(&waker));
        if polls == 0 { Poll::Ready(()) } else { calling }
    })
    .await;
}

/// Makes calls, and sends a message for each that has ended.
async fn calls(calls: usize, ended: mpsc::Sender<()>) {
    let back = Back::default();
    let observing = back.clone();
    let observer = move |_: &Event<'_>| observing.call();
    let minutely = 60_000_000.try_into().expect("not 0");
    let limits = Limits::unlimited().with_requests_per_minute(minutely);
    let cache = CacheLayer::default().with_observer(observer.clone());
    let cache = cache.with_stale_if_error(Duration::ZERO);
    // The inner cache is reached by the outer cache's misses.
    let stack = recommended()
        .with_limits(limits)
        .with_fallback(["claude-haiku-4-5"])
        .with_cache(cache.clone())
        .with_observer(observer);
    let outer = cache.with_store(Calling(MemoryStore::default(), back.clone()));
    let handles = (
        stack.cache().handle(),
        outer.handle(),
        stack.fallback().handle(),
        stack.retry().handle(),
        stack.breaker().handle(),
        stack.bucket().handle(),
    );
    assert!(back.0.set(handles).is_ok());
    let inner = Inner(back.clone());
    // Once in a task of its own, and once in the tasks of its callers.
    let inline = outer.layer(stack.layer(inner.clone()));
    let detached = outer.clone().detached().layer(stack.layer(inner));
    let services = [
        BoxCloneSyncService::new(inline),
        BoxCloneSyncService::new(detached),
    ];
    let (left, mut callers) = (Arc::new(AtomicUsize::new(calls)), JoinSet::new());
    for number in 0..CALLERS {
        let (left, back, ended) = (left.clone(), back.clone(), ended.clone());
        let service = services[usize::from(number % 4 == 0)].clone();
        callers.spawn(async move {
            let more = |left: usize| left.checked_sub(1);
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
                .is_ok()
            {
                // In a task of its own, because it may panic.
                let _ = tokio::spawn(call(service.clone(), back.clone())).await;
                let _ = ended.send(());
            }
        });
    }
    callers.join_all().await;
}

#[test]
fn callbacks_into_every_handle_never_hang() {
    let count = std::env::var("CALLS").ok();
    let count = count.map_or(100_000, |count| count.parse().expect("a number"));
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<&str>();
        if !text.is_some_and(|text| text.contains("of the test")) {
            print(info);
        }
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .expect("a runtime");
    let (ended, ends) = mpsc::channel();
    let calling = runtime.spawn(calls(count, ended));
    let mut done = 0;
    loop {
        match ends.recv_timeout(PATIENCE) {
            Ok(()) => done += 1,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                // Its threads are stuck, so it cannot be dropped.
                std::mem::forget(runtime);
                panic!("no progress after {done} of {count} calls");
            }
        }
    }
    runtime.block_on(calling).expect("no panic");
    assert_eq!(done, count);
}
