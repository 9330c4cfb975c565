//! An upstream service whose responses the test scripts.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tower_claude_cache::{CACHE, CacheLayer, Cacheable};
use tower_claude_core::RequestBody;
use tower_claude_tests::{Alive, BASE, Broken, Guard, Received, post, with};
use tower_service::Service;

pub(crate) use tower_claude_tests::{MINUTE, SECOND, send, settle};

pub(crate) const TTL: Duration = Duration::from_secs(100);

pub(crate) const MESSAGE: &str = r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-5-5","content":[{"type":"text","text":"Hi"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":11,"output_tokens":7}}"#;

pub(crate) const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-sonnet-5-5\",\"content\":[],\"stop_reason\":null,\"usage\":{\"input_tokens\":5,\"output_tokens\":1}}}\n\n";
pub(crate) const CONTENT: &str = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";
pub(crate) const DELTA: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n";
pub(crate) const END: &str = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":9}}\n\n";
pub(crate) const STOP: &str = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
pub(crate) const ERROR: &str = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
pub(crate) const STREAM: [&str; 5] = [START, CONTENT, DELTA, END, STOP];

/// A scripted response of one call: its head first, then its body.
pub(crate) struct Script {
    head: tokio::sync::oneshot::Sender<Result<Response<Pipe>, Broken>>,
    alive: Alive,
}

/// The sender of a body.
pub(crate) type BodySender = UnboundedSender<Result<Frame<Bytes>, Broken>>;

impl Script {
    /// Answers with this head. The body is what the test feeds to the sender.
    pub(crate) fn head(self, status: u16, headers: &[(&str, &str)]) -> BodySender {
        let (sender, frames) = unbounded_channel();
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let body = Pipe(frames, self.alive.guard());
        let _ = self.head.send(Ok(response.body(body).expect("valid")));
        sender
    }

    pub(crate) fn stream(self) -> BodySender {
        self.head(
            200,
            &[
                ("content-type", "text/event-stream"),
                ("request-id", "req_1"),
            ],
        )
    }

    /// Answers with a complete body.
    pub(crate) fn json(self, status: u16, text: &str) {
        feed(
            &self.head(status, &[("content-type", "application/json")]),
            text,
        );
    }

    pub(crate) fn message(self) {
        self.json(200, MESSAGE);
    }

    pub(crate) fn error(self, error: Broken) {
        let _ = self.head.send(Err(error));
    }
}

pub(crate) fn feed(sender: &BodySender, text: &str) {
    let _ = sender.send(Ok(Frame::data(Bytes::copy_from_slice(text.as_bytes()))));
}

/// A body that the test feeds.
#[derive(Debug)]
pub(crate) struct Pipe(
    UnboundedReceiver<Result<Frame<Bytes>, Broken>>,
    #[allow(dead_code)] Guard,
);

impl Body for Pipe {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.0.poll_recv(cx)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}

/// A service that passes each call to the test.
#[derive(Clone)]
pub(crate) struct Upstream {
    calls: Arc<AtomicUsize>,
    to_test: UnboundedSender<Script>,
    alive: Alive,
}

pub(crate) struct Scripts {
    next: Mutex<UnboundedReceiver<Script>>,
    calls: Arc<AtomicUsize>,
    alive: Alive,
}

pub(crate) fn upstream() -> (Upstream, Scripts) {
    let (to_test, next) = unbounded_channel();
    let calls = Arc::new(AtomicUsize::new(0));
    let alive = Alive::new();
    let upstream = Upstream {
        calls: calls.clone(),
        to_test,
        alive: alive.clone(),
    };
    (
        upstream,
        Scripts {
            next: Mutex::new(next),
            calls,
            alive,
        },
    )
}

impl Scripts {
    /// Returns the next call, when it is made.
    pub(crate) async fn next(&self) -> Script {
        std::future::poll_fn(|cx| self.next.lock().expect("not poisoned").poll_recv(cx))
            .await
            .expect("the service is alive")
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Returns the number of live calls and bodies.
    pub(crate) fn alive(&self) -> usize {
        self.alive.count()
    }
}

impl Service<Request<RequestBody>> for Upstream {
    type Response = Response<Pipe>;
    type Error = Broken;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Pipe>, Broken>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<RequestBody>) -> Self::Future {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let (head, answer) = tokio::sync::oneshot::channel();
        let script = Script {
            head,
            alive: self.alive.clone(),
        };
        let _ = self.to_test.send(script);
        let guard = self.alive.guard();
        Box::pin(async move {
            let answer = answer
                .await
                .unwrap_or(Err(Broken("the script was dropped")));
            drop(guard);
            answer
        })
    }
}

pub(crate) fn body(text: &str, stream: bool) -> String {
    format!(
        r#"{{"model":"claude-sonnet-5-5","max_tokens":64,"stream":{stream},"messages":[{{"role":"user","content":"{text}"}}]}}"#
    )
}

pub(crate) fn bare(body: impl Into<RequestBody>) -> Request<RequestBody> {
    with(post(BASE, body), "x-api-key", "sk-ant-secret-key")
}

/// Returns a marked request.
pub(crate) fn marked(text: &str, stream: bool) -> Request<RequestBody> {
    let mut request = bare(body(text, stream));
    request.extensions_mut().insert(Cacheable::new());
    request
}

pub(crate) fn request() -> Request<RequestBody> {
    marked("Hi", false)
}

pub(crate) fn layer() -> CacheLayer {
    CacheLayer::new(TTL)
}

pub(crate) type Got = Received<Broken>;

/// The cache status of a response, or an empty text if the request did not ask for the cache.
pub(crate) trait CacheStatus {
    fn cache_status(&self) -> &str;
}

impl<E> CacheStatus for Received<E> {
    fn cache_status(&self) -> &str {
        self.header(CACHE.as_str())
    }
}

/// Sends a request, and answers the call that it must make with a message that is stored.
pub(crate) async fn filled<S, B>(
    service: &S,
    scripts: &Scripts,
    request: Request<RequestBody>,
) -> Got
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Broken> + Clone,
    B: Body<Data = Bytes, Error = Broken> + Unpin,
{
    let (response, ()) = tokio::join!(send(service, request), async {
        scripts.next().await.message();
    });
    response.expect("an answer")
}
