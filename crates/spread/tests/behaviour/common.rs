//! Several clouds with scripted responses.

use std::{
    collections::{HashMap, VecDeque},
    future::{Ready, ready},
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_claude_circuit_breaker::BreakerPolicy;
use tower_claude_core::{
    ClaudeClassify, RequestBody, Scope,
    driver::{Driver, DriverLayer},
};
use tower_claude_retry::{RetryLayer, RetryPolicy};
use tower_claude_spread::{SpreadLayer, SpreadPolicy};
use tower_claude_tests::{Alive, Broken, FrameBody, Received, Reply, post, send_ok};
use tower_claude_wire::cloud::Target;
use tower_layer::Layer;
use tower_service::Service;

pub(crate) use tower_claude_tests::{HAIKU, SECOND, SONNET};

pub(crate) type Answer = Received<Broken>;

/// A request that a cloud has received.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// The name of the target. Empty if the request names none.
    pub(crate) target: String,
    pub(crate) uri: String,
    pub(crate) model: String,
    pub(crate) scope: Scope,
    pub(crate) at: Instant,
    pub(crate) has_host_header: bool,
}

#[derive(Default)]
struct Script {
    replies: HashMap<String, VecDeque<Reply>>,
    sent: Vec<Sent>,
    alive: Alive,
}

/// An inner service that answers for all targets. A target without a script answers with a message.
#[derive(Clone, Default)]
pub(crate) struct Clouds(Arc<Mutex<Script>>);

impl Clouds {
    /// Sets the next responses of a target. The last one is repeated.
    pub(crate) fn script(&self, target: &str, replies: impl IntoIterator<Item = Reply>) {
        let mut script = self.0.lock().expect("no panic");
        let replies = replies.into_iter().collect();
        script.replies.insert(target.to_owned(), replies);
    }

    pub(crate) fn sent(&self) -> Vec<Sent> {
        self.0.lock().expect("no panic").sent.clone()
    }

    /// Removes and returns the targets of all requests so far.
    pub(crate) fn take(&self) -> Vec<String> {
        let sent = std::mem::take(&mut self.0.lock().expect("no panic").sent);
        sent.into_iter().map(|sent| sent.target).collect()
    }
}

impl Service<Request<RequestBody>> for Clouds {
    type Response = Response<FrameBody>;
    type Error = Broken;
    type Future = Ready<Result<Response<FrameBody>, Broken>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let mut script = self.0.lock().expect("no panic");
        let target = request.extensions().get::<Target>();
        let target = target.map_or(String::new(), |target| target.name().to_owned());
        script.sent.push(Sent {
            target: target.clone(),
            uri: request.uri().to_string(),
            model: request.body().model().unwrap_or_default().to_owned(),
            scope: Scope::of(&request),
            at: Instant::now(),
            has_host_header: request.headers().contains_key("host"),
        });
        let guard = script.alive.guard();
        let reply = match script.replies.get_mut(&target) {
            Some(replies) if replies.len() > 1 => replies.pop_front(),
            Some(replies) => replies.front().cloned(),
            None => None,
        };
        ready(reply.unwrap_or_else(Reply::message).response(guard))
    }
}

/// Returns a target of a name, with an account of the same name.
pub(crate) fn target(name: &str) -> Target {
    let target = Target::claude_api().with_host(&format!("{name}.example"));
    let target = target.and_then(|it| it.with_name(name));
    target
        .and_then(|it| it.with_account(name))
        .expect("a valid name")
}

pub(crate) fn three() -> SpreadLayer {
    SpreadLayer::new(["a", "b", "c"].map(target))
}

pub(crate) fn limited(seconds: u64) -> Reply {
    let reply = Reply::claude_error(429, "rate_limit_error");
    reply.header(http::header::RETRY_AFTER, &seconds.to_string())
}

pub(crate) fn overloaded() -> Reply {
    Reply::claude_error(529, "overloaded_error")
}

/// Returns a request for a conversation with this first text.
pub(crate) fn ask(text: &str) -> Request<RequestBody> {
    ask_model(SONNET, text)
}

pub(crate) fn ask_model(model: &str, text: &str) -> Request<RequestBody> {
    let body = format!(
        r#"{{"model":"{model}","max_tokens":64,"messages":[{{"role":"user","content":"{text}"}}]}}"#
    );
    post("https://api.anthropic.com", body)
}

/// Returns the next request of that conversation, after an answer with thinking.
pub(crate) fn ask_again(text: &str) -> Request<RequestBody> {
    let body = format!(
        r#"{{"model":"{SONNET}","max_tokens":64,"messages":[{{"role":"user","content":"{text}"}},{{"role":"assistant","content":[{{"type":"thinking","thinking":"hm","signature":"s"}},{{"type":"text","text":"yes"}}]}},{{"role":"user","content":"and?"}}]}}"#
    );
    post("https://api.anthropic.com", body)
}

/// The stack of one driver: retry, spread and circuit breaker.
pub(crate) type Stack = Driver<Clouds, RetryPolicy, (SpreadPolicy, BreakerPolicy), ClaudeClassify>;

pub(crate) fn stack(
    retry: &RetryLayer,
    spread: &SpreadLayer,
    breaker: BreakerPolicy,
    clouds: &Clouds,
) -> Stack {
    let policies = (spread.policy(), breaker);
    DriverLayer::new(retry.policy(), policies, ClaudeClassify::default()).layer(clouds.clone())
}

/// Sends a request, and returns the answer with the seconds that it took.
pub(crate) async fn timed<S, B>(service: &S, request: Request<RequestBody>) -> (Answer, f64)
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Broken> + Clone,
    B: Body<Data = Bytes, Error = Broken> + Unpin,
{
    let start = Instant::now();
    let answer = send_ok(service, request).await;
    (answer, start.elapsed().as_secs_f64())
}
