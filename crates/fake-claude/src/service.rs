//! The server as a tower service.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::time::{Instant, sleep_until};
use tower_service::Service;

use crate::body::{Answer, FakeBody, Pace};
use crate::builder::HeaderSnapshot;
use crate::error::FakeError;
use crate::fake::FakeClaude;
use crate::fault::Fault;
use crate::headers::{self, Snapshot};
use crate::judge::{self, Verdict};
use crate::log::Endpoint;
use crate::models;
use crate::read::read;
use crate::reply::ErrorReply;
use crate::sse::Message;
use crate::state::{Ending, Shared, Ticket};
use crate::validate::{self, Call, MAX_BODY};

/// An answer being made.
pub type ResponseFuture =
    Pin<Box<dyn Future<Output = Result<Response<FakeBody>, FakeError>> + Send>>;

/// While a JSON answer is made, its output is charged in steps of this length.
const STEP: Duration = Duration::from_millis(250);

impl<B> Service<Request<B>> for FakeClaude
where
    B: Body + Send + 'static,
    B::Data: Send,
{
    type Response = Response<FakeBody>;
    type Error = FakeError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), FakeError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let shared = Arc::clone(&self.shared);
        let (parts, body) = request.into_parts();
        Box::pin(async move {
            let body = read(body, MAX_BODY).await?;
            let (call, problem) = validate::read(&shared.config, &parts, body.as_deref());
            drop(body);
            exchange(&shared, &call, problem).await
        })
    }
}

async fn exchange(
    shared: &Arc<Shared>,
    call: &Call,
    problem: Option<ErrorReply>,
) -> Result<Response<FakeBody>, FakeError> {
    let (index, verdict) = judge::judge(shared, call, problem, shared.now());
    match verdict {
        Verdict::Reset => Err(FakeError::Reset),
        Verdict::Refuse(reply, levels) => Ok(refuse(shared, call, index, &reply, levels.as_ref())),
        Verdict::Serve(levels) => Ok(serve(shared, call, index, levels.as_ref())),
        Verdict::Answer(ticket, fault, levels) => {
            Ok(answer(shared, call, ticket, fault, levels).await)
        }
    }
}

/// A message, whole or as a stream.
async fn answer(
    shared: &Shared,
    call: &Call,
    mut ticket: Ticket,
    mut fault: Option<Fault>,
    levels: Option<Snapshot>,
) -> Response<FakeBody> {
    let index = ticket.index;
    if let Some(Fault::SlowHead(time)) = fault {
        sleep_until(Instant::now() + time.min(LONG)).await;
        fault = None;
    }
    let config = &shared.config;
    let pace = Pace {
        first: config.time_to_first_token,
        per_second: config.tokens_per_second,
    };
    let origin = Instant::now();
    let mut tokens = call.output.min(call.max_tokens);
    let mut stop_reason = if call.output > call.max_tokens {
        "max_tokens"
    } else {
        "end_turn"
    };
    if call.max_tokens == 0 {
        stop_reason = "max_tokens";
    }
    if let Some(Fault::Refusal { after_tokens }) = fault {
        (tokens, stop_reason, fault) = (tokens.min(after_tokens), "refusal", None);
    }
    if !call.stream {
        if let Some(reply) = produce(&ticket, fault.as_ref(), pace, origin, tokens).await {
            ticket.error(Some(reply.status.as_u16()), reply.kind);
            ticket.end(Ending::Broken);
            return refuse(shared, call, index, &reply, levels.as_ref());
        }
    }
    let levels = match config.snapshot {
        HeaderSnapshot::Admission => levels,
        HeaderSnapshot::Response => judge::snapshot(&mut shared.lock(), call, shared.now()),
    };
    ticket.head();
    let message = Message {
        id: format!("msg_01Fake{index:018}"),
        model_json: serde_json::Value::from(&*call.model).to_string(),
        input: call.input - call.cache_read - call.cache_creation,
        cache_creation: call.cache_creation,
        cache_read: call.cache_read,
        speed: if call.fast { "fast" } else { "standard" },
    };
    let per_event = config.tokens_per_event;
    let answer = Answer {
        ticket,
        message,
        tokens,
        stop_reason,
        fault,
        pace,
        per_event,
        origin,
    };
    let (kind, body) = if call.stream {
        ("text/event-stream; charset=utf-8", FakeBody::sse(answer))
    } else {
        ("application/json", FakeBody::json(answer))
    };
    let mut response = head(
        shared,
        call,
        index,
        StatusCode::OK,
        kind,
        levels.as_ref(),
        body,
    );
    if call.stream {
        response
            .headers_mut()
            .insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    }
    response
}

/// Makes the output of a JSON answer, charged as it comes. The error it ends in, if the fault says so.
async fn produce(
    ticket: &Ticket,
    fault: Option<&Fault>,
    pace: Pace,
    origin: Instant,
    tokens: u64,
) -> Option<ErrorReply> {
    let (tokens, reply) = match fault {
        Some(Fault::ErrorBeforeContent) => return Some(ErrorReply::overloaded()),
        Some(Fault::ErrorMidStream { after_tokens }) => {
            (tokens.min(*after_tokens), Some(ErrorReply::server_error()))
        }
        _ => (tokens, None),
    };
    let end = origin + pace.time_of(tokens);
    let mut made = 0;
    while Instant::now() < end {
        sleep_until(end.min(Instant::now() + STEP)).await;
        let now = pace.made(origin.elapsed(), tokens);
        ticket.produce(now - made);
        made = now;
    }
    ticket.produce(tokens - made);
    reply
}

/// As long as anything here waits at most.
const LONG: Duration = Duration::from_secs(365 * 86_400);

/// Answers that cost nothing more: `count_tokens` and the Models API.
fn serve(
    shared: &Shared,
    call: &Call,
    index: usize,
    levels: Option<&Snapshot>,
) -> Response<FakeBody> {
    let json = match (call.endpoint, &call.model_path) {
        (Endpoint::CountTokens, _) => format!("{{\"input_tokens\":{}}}", call.input),
        (_, Some(id)) => match models::one(&shared.config.catalog, id) {
            Some(json) => json,
            None => {
                let reply = ErrorReply::not_found(format!("model: {id}"));
                let mut state = shared.lock();
                let attempt = &mut state.log[index];
                (attempt.status, attempt.error_type) = (404, Some(reply.kind));
                attempt.completed = false;
                drop(state);
                shared.changed.notify_waiters();
                return refuse(shared, call, index, &reply, levels);
            }
        },
        (_, None) => models::all(&shared.config.catalog),
    };
    head(
        shared,
        call,
        index,
        StatusCode::OK,
        "application/json",
        levels,
        FakeBody::full(json),
    )
}

fn refuse(
    shared: &Shared,
    call: &Call,
    index: usize,
    reply: &ErrorReply,
    levels: Option<&Snapshot>,
) -> Response<FakeBody> {
    let body = FakeBody::full(reply.body(&request_id(index)));
    let kind = if reply.html {
        "text/html"
    } else {
        "application/json"
    };
    let levels = levels.filter(|_| reply.rate_headers);
    let mut response = head(shared, call, index, reply.status, kind, levels, body);
    let headers = response.headers_mut();
    if let Some(wait) = reply.retry_after {
        let seconds = wait
            .as_secs()
            .saturating_add(u64::from(wait.subsec_nanos() > 0));
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    if let Some(retry) = reply.should_retry {
        let value = HeaderValue::from_static(if retry { "true" } else { "false" });
        headers.insert("x-should-retry", value);
    }
    if reply.status == StatusCode::METHOD_NOT_ALLOWED {
        let messages = call.endpoint != Endpoint::Models;
        headers.insert(
            ALLOW,
            HeaderValue::from_static(if messages { "POST" } else { "GET" }),
        );
    }
    response
}

fn head(
    shared: &Shared,
    call: &Call,
    index: usize,
    status: StatusCode,
    kind: &'static str,
    levels: Option<&Snapshot>,
    body: FakeBody,
) -> Response<FakeBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let wall = shared.now().wall;
    headers::identity(headers, &request_id(index), wall, call.authenticated);
    if let Some(levels) = levels {
        headers::rate_limits(headers, shared.config.family, levels);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn request_id(index: usize) -> String {
    format!("req_011Fake{index:017}")
}
