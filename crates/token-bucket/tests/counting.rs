//! Tests of input tokens that the API counts.

mod common;

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{EventLog, event_log, limits, message, send_ok, with};
use http::Request;
use tokio::time::Instant;
use tower::Layer;
use tower_claude_core::{Call, RequestBody};
use tower_claude_fake_claude::{Endpoint, FakeClaude, Fault, GroupLimits};
use tower_claude_limiter::{Limiter, LocalLimiter, ScopeSnapshot};
use tower_claude_tests::{Broken, Piece, Readiness, Reply, Script};
use tower_claude_token_bucket::{CountTokensLayer, TokenBucketLayer};

const LIMITS: common::PerMinute = (1_000, 100_000, 50_000);
/// The default timeout of the layer.
const IN_TIME: Duration = Duration::from_secs(2);

/// The layers under test, and their events.
struct Stack {
    count: CountTokensLayer,
    bucket: TokenBucketLayer,
    events: EventLog,
}

impl Stack {
    fn new() -> Self {
        let events = event_log();
        Self {
            count: CountTokensLayer::new().with_observer(events.clone()),
            bucket: TokenBucketLayer::new(limits(LIMITS)).with_max_wait(common::HOUR),
            events,
        }
    }

    fn over(&self, fake: &FakeClaude) -> impl common::ClaudeService + use<> {
        self.count.layer(self.bucket.layer(fake.clone()))
    }

    /// Returns the Messages scope of the limiter.
    fn messages(&self) -> ScopeSnapshot {
        of(
            &self.bucket.limiter(),
            tower_claude_core::Endpoint::Messages,
        )
    }

    /// Takes the reasons of the requests that kept their estimates.
    fn uncounted(&self) -> Vec<String> {
        let mut events = self.events.take();
        events.retain(|event| event.contains("Uncounted"));
        events
    }
}

fn of(limiter: &LocalLimiter, endpoint: tower_claude_core::Endpoint) -> ScopeSnapshot {
    let mut scopes = limiter.snapshot();
    scopes.retain(|scope| scope.scope.endpoint == endpoint);
    scopes.remove(0)
}

fn input_left(scope: &ScopeSnapshot) -> i64 {
    let input = scope.dimension(tower_claude_core::Dimension::InputTokens);
    input.expect("limited").available
}

fn fake() -> FakeClaude {
    FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .tokens_per_second(10.0)
        .build()
}

fn endpoints(fake: &FakeClaude) -> Vec<(Endpoint, u16)> {
    fake.with_log(|log| {
        log.iter()
            .map(|attempt| (attempt.endpoint, attempt.status))
            .collect()
    })
}

fn question(text: &str) -> Request<RequestBody> {
    message(7_000, 100).map(|_| {
        format!(
            r#"{{"model":"claude-sonnet-5-5","max_tokens":4000,"temperature":1,"messages":[{{"role":"user","content":"{text}"}}]}}"#
        )
        .into()
    })
}

const COUNT: (Endpoint, u16) = (Endpoint::CountTokens, 200);
const MESSAGE: (Endpoint, u16) = (Endpoint::Messages, 200);

#[tokio::test(start_paused = true)]
async fn counted_request_is_charged_the_count_of_the_api() {
    let (stack, fake) = (Stack::new(), fake());
    let call = tokio::spawn(send_ok(&stack.over(&fake), question("a")));
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Before the response ends: 7,000 are charged for a text of four bytes, and a second has
    // refilled.
    assert_eq!(input_left(&stack.messages()), 100_000 - 7_000 + 1_666);
    assert_eq!(call.await.expect("no panic").status, 200);
    assert_eq!(endpoints(&fake), [COUNT, MESSAGE]);
    assert_eq!(
        stack.messages().input_ratio,
        1.0,
        "a count teaches no ratio"
    );
    assert_eq!(stack.uncounted(), [""; 0]);
}

/// Counts only where less is left of the limit than an estimate may be wrong by.
#[tokio::test(start_paused = true)]
async fn request_is_counted_only_near_the_limit() {
    let (mut stack, fake) = (Stack::new(), fake());
    let condition = stack.bucket.is_estimate_doubtful();
    stack.count = stack.count.with_condition(condition);
    // The fake counts 7,000 tokens, and the texts are estimated at 3,600.
    let text = |number: usize| format!("{number}{}", "a b ".repeat(2_500));
    let mut calls = Vec::new();
    for number in 0..30 {
        calls.push(tokio::spawn(send_ok(
            &stack.over(&fake),
            question(&text(number)),
        )));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for call in calls {
        assert_eq!(call.await.expect("no panic").status, 200);
    }
    let endpoints = endpoints(&fake);
    let first = endpoints.iter().position(|endpoint| *endpoint == COUNT);
    let first = first.expect("counted near the limit");
    assert!(first >= 5, "not counted while much is left: {endpoints:?}");
    assert!(
        endpoints[..first]
            .iter()
            .all(|endpoint| *endpoint == MESSAGE)
    );
    assert_eq!(stack.uncounted(), [""; 0]);
}

/// A request that the endpoint would reject keeps its estimate, also near the limit.
#[tokio::test(start_paused = true)]
async fn condition_does_not_count_what_the_endpoint_rejects() {
    let (mut stack, fake) = (Stack::new(), fake());
    stack.count = stack.count.with_condition(|_| true);
    let tools = message(7_000, 100).map(|_| {
        RequestBody::from(r#"{"model":"claude-sonnet-5-5","max_tokens":40,"tools":[{"type":"web_search_20250305","name":"web_search"}],"messages":[{"role":"user","content":"a"}]}"#)
    });
    send_ok(&stack.over(&fake), tools).await;
    assert_eq!(endpoints(&fake), [MESSAGE]);
    stack.count = stack.count.with_condition(|_| false);
    send_ok(&stack.over(&fake), question("a")).await;
    assert_eq!(endpoints(&fake), [MESSAGE, MESSAGE]);
}

#[tokio::test(start_paused = true)]
async fn known_prompt_is_not_counted_again() {
    let (stack, fake) = (Stack::new(), fake());
    for text in ["a", "a", "b", "a"] {
        // Every iteration makes new services.
        send_ok(&stack.over(&fake), question(text)).await;
    }
    // Another model has another count.
    let other = message(7_000, 100).map(|_| {
        RequestBody::from(r#"{"model":"claude-haiku-4-5","max_tokens":4000,"messages":[{"role":"user","content":"a"}]}"#)
    });
    send_ok(&stack.over(&fake), other).await;
    let expected = [
        COUNT, MESSAGE, MESSAGE, COUNT, MESSAGE, MESSAGE, COUNT, MESSAGE,
    ];
    assert_eq!(endpoints(&fake), expected);
}

#[tokio::test(start_paused = true)]
async fn prompt_that_the_endpoint_rejects_is_not_counted() {
    let image = |source: &str| {
        format!(
            r#""messages":[{{"role":"user","content":[{{"type":"tool_result","content":[{{"type":"image","source":{{"type":"{source}"}}}}]}}]}}]"#
        )
    };
    let hi = r#""messages":[{"role":"user","content":"\"source\": {\"type\":\"url\"}"}]"#;
    let tool = |kind: &str| format!(r#"{hi},"tools":[{{"name":"f"}},{{"type":"{kind}"}}]"#);
    for (fields, is_counted) in [
        (hi.to_owned(), true),
        (tool("bash_20250124"), true),
        (tool("advisor_20260301"), true),
        (tool("computer_toolset_20260801"), true),
        (tool("web_search_20260318"), false),
        (tool("web_fetch_20250910"), false),
        (tool("code_execution_20260120"), false),
        (tool("tool_search_tool_bm25_20251119"), false),
        (tool("mcp_toolset"), false),
        (
            format!(r#"{hi},"mcp_servers":[{{"type":"url","name":"crm"}}]"#),
            false,
        ),
        (format!(r#"{hi},"thread":{{"type":"create"}}"#), false),
        (image("base64"), true),
        (image("url"), false),
        (image("file"), false),
    ] {
        let script = Script::always(Reply::message());
        let request = message(7_000, 100).map(|_| {
            RequestBody::from(format!(
                r#"{{"model":"claude-opus-5","max_tokens":9,{fields}}}"#
            ))
        });
        send_ok(&CountTokensLayer::new().layer(script.clone()), request).await;
        assert_eq!(script.calls(), 1 + usize::from(is_counted), "{fields}");
    }
}

#[tokio::test(start_paused = true)]
async fn prompt_that_was_rejected_is_not_counted_again() {
    let (stack, fake) = (Stack::new(), fake());
    // The rule is one of the API alone: the tool is forced, which the model rejects.
    let forced = || {
        message(7_000, 100).map(|_| {
            RequestBody::from(r#"{"model":"claude-opus-5-5","max_tokens":9,"tool_choice":{"type":"any"},"messages":[{"role":"user","content":"a"}]}"#)
        })
    };
    for _ in 0..2 {
        send_ok(&stack.over(&fake), forced()).await;
    }
    let rejected = |endpoint| (endpoint, 400);
    let expected = [
        Endpoint::CountTokens,
        Endpoint::Messages,
        Endpoint::Messages,
    ];
    assert_eq!(endpoints(&fake), expected.map(rejected));
}

#[tokio::test(start_paused = true)]
async fn failed_count_keeps_the_estimate() {
    let retry_after = Duration::from_secs(30);
    for (fault, status) in [
        (Fault::RateLimited { retry_after }, 429),
        (Fault::Overloaded, 529),
        (Fault::ServerError, 500),
        (Fault::Reset, 0),
    ] {
        let (stack, fake) = (Stack::new(), fake());
        fake.inject(fault.clone());
        let start = Instant::now();
        let call = tokio::spawn(send_ok(&stack.over(&fake), question("a")));
        tokio::time::sleep(Duration::from_millis(500)).await;
        // The estimate for a few bytes.
        assert!(input_left(&stack.messages()) > 99_900, "{fault:?}");
        assert_eq!(call.await.expect("no panic").status, 200);
        assert_eq!(endpoints(&fake), [(Endpoint::CountTokens, status), MESSAGE]);
        assert_eq!(stack.uncounted().len(), 1, "{fault:?}");
        // A 429 of one scope does not pause the other.
        assert!(start.elapsed() < retry_after, "{fault:?}");
        assert!(stack.messages().paused_for.is_zero());
    }
}

/// The count of an earlier attempt must not be used for another prompt, such as a fallback's.
#[tokio::test(start_paused = true)]
async fn failed_count_clears_the_previous_count() {
    let (stack, fake) = (Stack::new(), fake());
    let service = stack.over(&fake);
    let mut first = question("a");
    let context = Call::get_or_insert(first.extensions_mut(), Instant::now());
    let mut second = question("b");
    second.extensions_mut().clone_from(first.extensions());
    send_ok(&service, first).await;
    assert_eq!(context.counted_input(), Some(7_000));
    fake.inject(Fault::ServerError);
    send_ok(&service, second).await;
    assert_eq!(context.counted_input(), None);
}

/// The next request keeps its estimate at once.
#[tokio::test(start_paused = true)]
async fn count_in_a_paused_scope_is_not_waited_for() {
    let (stack, fake) = (Stack::new(), fake());
    let retry_after = Duration::from_secs(30);
    fake.inject(Fault::RateLimited { retry_after });
    send_ok(&stack.over(&fake), question("a")).await;
    let start = Instant::now();
    send_ok(&stack.over(&fake), question("b")).await;
    assert!(
        start.elapsed() < Duration::from_secs(11),
        "10 s are its answer"
    );
    assert_eq!(fake.with_log(<[_]>::len), 3, "one count and two messages");
    let uncounted = stack.uncounted();
    assert!(uncounted[1].contains("refused"), "{uncounted:?}");
}

/// Sends a message through the layer alone. The script answers the count first, then the message.
async fn over_script(count: Reply) -> (Script, EventLog, Duration) {
    let events = event_log();
    let layer = CountTokensLayer::new().with_observer(events.clone());
    let script = Script::new([count, Reply::message()]);
    let start = Instant::now();
    let answer = send_ok(&layer.layer(script.clone()), question("a")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(script.calls(), 2);
    assert_eq!(script.alive(), 0);
    (script, events, start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn count_timeout_keeps_the_estimate() {
    let stalls = Reply::json("").chunked().piece(Piece::Stall);
    let (_, events, took) = over_script(stalls).await;
    assert!(events.take()[0].contains("timeout"));
    assert!(took >= IN_TIME && took < IN_TIME * 2, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn response_without_count_keeps_the_estimate() {
    for answer in [
        "",
        "{",
        "[]",
        r#"{"input_tokens":-1}"#,
        r#"{"input_tokens":"7"}"#,
    ] {
        let (_, events, _) = over_script(Reply::json(answer)).await;
        assert!(events.take()[0].contains("answer"), "{answer}");
    }
    let cut = Reply::json("{")
        .chunked()
        .piece(Piece::Error(Broken("cut")));
    let (_, events, _) = over_script(cut).await;
    assert!(events.take()[0].contains("answer"));
}

#[tokio::test(start_paused = true)]
async fn count_request_has_the_headers_of_the_message() {
    let script = Script::new([Reply::json(r#"{"input_tokens":7}"#), Reply::message()]);
    let mut request = with(question("a"), "anthropic-beta", "some-beta");
    *request.uri_mut() = "https://h/v1/messages?beta=true".parse().expect("a uri");
    let request = with(request, "accept-encoding", "gzip");
    send_ok(&CountTokensLayer::new().layer(script.clone()), request).await;
    let [count, message] = script.seen().try_into().expect("two requests");
    assert_eq!(count.uri, "https://h/v1/messages/count_tokens?beta=true");
    let body = r#"{"model":"claude-sonnet-5-5","messages":[{"role":"user","content":"a"}]}"#;
    assert_eq!(count.body, body);
    assert_eq!(count.headers["content-length"], body.len().to_string());
    for name in [
        "x-api-key",
        "anthropic-version",
        "anthropic-beta",
        "content-type",
    ] {
        assert_eq!(count.headers[name], message.headers[name], "{name}");
    }
    assert!(!count.headers.contains_key("accept-encoding"));
    assert_eq!(message.headers["accept-encoding"], "gzip");
}

/// The count has the caller's extensions, but a [`Call`] of its own.
#[tokio::test(start_paused = true)]
async fn count_request_has_the_extensions_of_the_message() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let script = Script::new([Reply::json(r#"{"input_tokens":7}"#), Reply::message()]);
    let log = seen.clone();
    let noting = tower::util::MapRequest::new(script, move |request: Request<RequestBody>| {
        let extensions = request.extensions();
        let context = Call::of(&request).cloned();
        let account = extensions.get::<&str>().copied();
        log.lock().expect("no panic").push((account, context));
        request
    });
    let mut request = question("a");
    request.extensions_mut().insert("an account");
    send_ok(&CountTokensLayer::new().layer(noting), request).await;
    let seen = seen.lock().expect("no panic");
    let [(count, own), (message, context)] = seen.as_slice() else {
        panic!("not two requests");
    };
    assert_eq!((*count, *message), (Some("an account"), Some("an account")));
    let (own, context) = (own.as_ref(), context.as_ref());
    assert!(!Arc::ptr_eq(own.expect("one"), context.expect("one")));
}

#[tokio::test(start_paused = true)]
async fn other_endpoints_are_not_counted() {
    for path in [
        "/v1/messages/count_tokens",
        "/v1/messages/batches",
        "/v1/files",
    ] {
        let script = Script::always(Reply::json("{}"));
        let mut request = question("a");
        *request.uri_mut() = path.parse().expect("a uri");
        send_ok(&CountTokensLayer::new().layer(script.clone()), request).await;
        assert_eq!(script.calls(), 1, "{path}");
    }
}

/// A drop at any point leaves nothing in the service or in the limiter.
#[tokio::test(start_paused = true)]
async fn call_dropped_while_counting_leaves_nothing_in_flight() {
    let stack = Stack::new();
    for polls in 0..20 {
        let count = Reply::json(r#"{"input_tokens":7}"#).waits(2).slow_body();
        let message = Reply::message().waits(2).slow_body();
        let script = Script::new([count, message]).readiness(Readiness::After(1));
        let service = stack.count.layer(stack.bucket.layer(script.clone()));
        let mut call = Box::pin(send_ok(&service, question(&polls.to_string())));
        drop(service);
        for _ in 0..polls {
            if poll_once(&mut call).await {
                break;
            }
        }
        drop(call);
        assert_eq!(script.alive(), 0, "after {polls} polls");
        assert_eq!(script.clones_alive(), 0, "after {polls} polls");
        for scope in stack.bucket.limiter().snapshot() {
            assert_eq!(
                (scope.in_flight, scope.queued),
                (0, 0),
                "after {polls} polls"
            );
        }
    }
}

/// Polls once, and returns true if the call is done.
async fn poll_once(call: &mut (impl Future + Unpin)) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(Pin::new(&mut *call).poll(cx).is_ready()))
        .await
}

/// Answers counts with this status and count, and messages with a success.
#[derive(Clone)]
struct Host(u16, u64);

impl tower::Service<Request<RequestBody>> for Host {
    type Response = http::Response<http_body_util::Full<bytes::Bytes>>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let is_a = request.uri().host() == Some("a");
        let counts = request.uri().path().ends_with("count_tokens");
        let (status, body) = match (counts, is_a) {
            (true, true) => (self.0, format!(r#"{{"input_tokens":{}}}"#, self.1)),
            (true, false) => (200, r#"{"input_tokens":70}"#.to_owned()),
            (false, _) => (
                200,
                r#"{"type":"message","content":[],"usage":{"input_tokens":70}}"#.to_owned(),
            ),
        };
        let response = http::Response::builder()
            .status(status)
            .header("content-type", "application/json");
        let body = http_body_util::Full::new(body.into());
        std::future::ready(Ok(response.body(body).expect("a response")))
    }
}

fn question_at(host: &str) -> Request<RequestBody> {
    let mut request = question("a");
    *request.uri_mut() = format!("http://{host}/v1/messages").parse().expect("a URI");
    request
}

#[tokio::test(start_paused = true)]
async fn count_of_a_host_is_not_used_at_another() {
    for (status, count) in [(404, 0), (400, 0), (200, 9_000)] {
        let stack = Stack::new();
        let service = stack.count.layer(stack.bucket.layer(Host(status, count)));
        send_ok(&service, question_at("a")).await;
        let _ = stack.events.take();
        send_ok(&service, question_at("b")).await;
        assert_eq!(stack.uncounted(), [""; 0]);
        let limiter = stack.bucket.limiter();
        let counted = limiter.snapshot().into_iter().filter(|scope| {
            scope.scope.endpoint == tower_claude_core::Endpoint::CountTokens
                && &*scope.scope.host == "b"
        });
        assert_eq!(counted.count(), 1, "{status}: the other host was asked");
    }
}

#[tokio::test(start_paused = true)]
async fn absurd_count_is_no_count() {
    let stack = Stack::new();
    let service = stack.count.layer(stack.bucket.layer(Host(200, 60_000_000)));
    for _ in 0..3 {
        let begin = Instant::now();
        send_ok(&service, question_at("a")).await;
        assert!(begin.elapsed() < Duration::from_secs(1));
        assert_eq!(stack.uncounted().len(), 1);
    }
}
