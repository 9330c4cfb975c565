//! The server as a tower service, and the responses.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use tokio::time::{Instant, sleep_until};
use tower_service::Service;

use crate::admin_response::PREFIX;
use crate::batches::call::BatchCall;
use crate::batches::outcome::LostCreation;
use crate::batches::respond::{self, BatchAnswer};
use crate::body::{Answer, FAR, FakeBody, Pace};
use crate::cloud::answer;
use crate::cloud::route::Dialect;
use crate::config::HeaderSnapshot;
use crate::control;
use crate::decide::{Decision, decide, snapshot};
use crate::error::FakeError;
use crate::fake::FakeClaude;
use crate::fault::Fault;
use crate::headers::{self, Snapshot};
use crate::line::{Line, LineEnd};
use crate::log::Endpoint;
use crate::model::CacheTokens;
use crate::models;
use crate::read::read;
use crate::receive;
use crate::reply::ErrorReply;
use crate::script::ReceivedRequest;
use crate::sse::{Content, ReplyMessage};
use crate::state::{AttemptEnd, InFlightAttempt, Shared};
use crate::validate::ValidCall;

/// Future of a response.
pub type ResponseFuture =
    Pin<Box<dyn Future<Output = Result<Response<FakeBody>, FakeError>> + Send>>;

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
        let fake = self.clone();
        let (parts, body) = request.into_parts();
        Box::pin(async move {
            let line = parts.extensions.get::<Line>().cloned();
            let limit = receive::max_body(&fake.shared.config, parts.uri.path());
            let body = read(body, limit).await?;
            if parts.uri.path().starts_with(control::PREFIX) {
                return Ok(control::respond(&fake, &parts, body.as_ref()));
            }
            if let Some(api) = &fake.shared.config.admin
                && parts.uri.path().starts_with(PREFIX)
            {
                return Ok(api.respond(&fake, &parts));
            }
            let shared = fake.shared;
            let (mut call, problem) = receive::facts(&shared, &parts, body.as_deref());
            call.request = Arc::new(ReceivedRequest {
                method: parts.method,
                uri: parts.uri,
                headers: parts.headers,
                body: body.unwrap_or_default(),
            });
            exchange(&shared, &call, problem, line).await
        })
    }
}

async fn exchange(
    shared: &Arc<Shared>,
    call: &ValidCall,
    problem: Option<ErrorReply>,
    line: Option<Line>,
) -> Result<Response<FakeBody>, FakeError> {
    let (index, decision) = decide(shared, call, problem);
    match decision {
        Decision::Break(end) => {
            let broken = poll_fn(|_| end.poll_break(line.as_ref(), FakeError::Reset));
            Err(broken.await)
        }
        Decision::Refuse(reply, levels) => Ok(refuse(shared, call, index, &reply, levels.as_ref())),
        Decision::Serve(levels) => {
            let response = serve(shared, call, index, levels.as_ref());
            if call.batch != Some(BatchCall::Create) || !response.status().is_success() {
                return Ok(response);
            }
            let lost = shared.lock().lost_creations.pop_front();
            match lost {
                None => Ok(response),
                Some(LostCreation::Reset) => {
                    let end = LineEnd::Reset;
                    let broken = poll_fn(|_| end.poll_break(line.as_ref(), FakeError::Reset));
                    Err(broken.await)
                }
                Some(LostCreation::ServerError) => {
                    let reply = ErrorReply::server_error();
                    Ok(refuse(shared, call, index, &reply, levels.as_ref()))
                }
            }
        }
        Decision::Answer(attempt, fault, levels, cache) => {
            let message = message(shared, call, attempt, (fault, levels, cache), line);
            Ok(message.await)
        }
    }
}

/// Builds a response that costs no tokens: `count_tokens`, batches and the Models API.
fn serve(
    shared: &Shared,
    call: &ValidCall,
    index: usize,
    levels: Option<&Snapshot>,
) -> Response<FakeBody> {
    match served(shared, call, index) {
        Ok((kind, body)) => head(shared, call, index, StatusCode::OK, kind, levels, body),
        Err(reply) => {
            let mut state = shared.lock();
            let attempt = &mut state.log[index];
            attempt.status = answer::status(call.dialect, &reply).as_u16();
            attempt.error_type = Some(reply.kind);
            attempt.completed = false;
            drop(state);
            shared.changed.notify_waiters();
            refuse(shared, call, index, &reply, levels)
        }
    }
}

/// Returns the content type and the body of a response that costs no tokens.
fn served(
    shared: &Shared,
    call: &ValidCall,
    index: usize,
) -> Result<(&'static str, FakeBody), ErrorReply> {
    let json = match (call.endpoint, &call.batch, &call.model_path) {
        (Endpoint::CountTokens, ..) => format!("{{\"input_tokens\":{}}}", call.input),
        (_, Some(batch), _) => match respond::respond(shared, batch, &call.request, index)? {
            BatchAnswer::Json(json) => json,
            BatchAnswer::Lines(lines) => {
                return Ok(("application/x-jsonl", FakeBody::lines(lines)));
            }
        },
        (_, _, Some(id)) => models::one(&shared.config.catalog, id)
            .ok_or_else(|| ErrorReply::not_found(format!("model: {id}")))?,
        _ => models::all(&shared.config.catalog),
    };
    Ok(("application/json", FakeBody::full(json)))
}

fn refuse(
    shared: &Shared,
    call: &ValidCall,
    index: usize,
    reply: &ErrorReply,
    levels: Option<&Snapshot>,
) -> Response<FakeBody> {
    if let (Some(cloud), None) = (&shared.config.cloud, &reply.custom) {
        let error = answer::error(cloud, call, index, reply);
        let mut response = Response::new(FakeBody::full(error.body));
        *response.status_mut() = error.status;
        let headers = response.headers_mut();
        let wall = shared.now().wall;
        answer::identity(headers, call.dialect, index, wall, error.is_from_model);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(error.headers);
        return response;
    }
    let body = FakeBody::full(reply.body(&answer::request_id(call.dialect, index)));
    let levels = levels.filter(|_| reply.rate_headers);
    let mut response = head(
        shared,
        call,
        index,
        reply.status,
        "application/json",
        levels,
        body,
    );
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
    if let Some(method) = reply.allow {
        headers.insert(ALLOW, HeaderValue::from_static(method));
    }
    if let Some(custom) = &reply.custom {
        for (name, _) in &custom.headers {
            headers.remove(name);
        }
        for (name, value) in &custom.headers {
            headers.append(name, value.clone());
        }
    }
    response
}

fn head(
    shared: &Shared,
    call: &ValidCall,
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
    match &shared.config.cloud {
        Some(_) => answer::identity(headers, call.dialect, index, wall, true),
        None => headers::identity(
            headers,
            shared.config.platform,
            &answer::request_id(call.dialect, index),
            wall,
            call.authenticated,
        ),
    }
    if let Some(levels) = levels {
        headers::rate_limits(headers, shared.config.family, levels);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Interval at which the output of a JSON response is charged.
const STEP: Duration = Duration::from_millis(250);

/// Builds a message, as JSON or as a stream.
async fn message(
    shared: &Shared,
    call: &ValidCall,
    mut attempt: InFlightAttempt,
    (mut fault, levels, cache): (Option<Fault>, Option<Snapshot>, CacheTokens),
    line: Option<Line>,
) -> Response<FakeBody> {
    let index = attempt.index;
    if let Some(Fault::SlowHead(time)) = fault {
        sleep_until(Instant::now() + time.min(FAR)).await;
        fault = None;
    }
    let config = &shared.config;
    let pace = Pace {
        first: config.time_to_first_token,
        per_second: config.tokens_per_second,
    };
    let origin = Instant::now();
    let mut script = shared.lock().replies.pop_front();
    if let (None, Some(select)) = (&script, &config.select_reply) {
        // Not under the lock, because the function is the user's.
        script = select(&call.request);
    }
    let script = script.map(|reply| reply.signed(config.account(), &call.model_id));
    let Content {
        mut tokens,
        mut stop_reason,
        mut script,
    } = Content::of(call, script, config.tokens_per_event);
    if let Some(Fault::Refusal { after_tokens }) = fault {
        (tokens, stop_reason) = (tokens.min(after_tokens), "refusal".into());
        (script, fault) = (None, None);
    }
    let error = if call.stream {
        None
    } else {
        produce(&attempt, fault.as_ref(), pace, origin, tokens).await
    };
    let levels = match config.snapshot {
        HeaderSnapshot::Admission => levels,
        HeaderSnapshot::Response => snapshot(&mut shared.lock(), call, shared.now()),
    };
    if let Some(reply) = error {
        let status = answer::status(call.dialect, &reply).as_u16();
        attempt.error(Some(status), reply.kind);
        attempt.end(AttemptEnd::Broken);
        return refuse(shared, call, index, &reply, levels.as_ref());
    }
    attempt.head();
    let message = ReplyMessage::of(call, cache, answer::message_id(call.dialect, index));
    let is_invoke = call.dialect == Dialect::Invoke;
    let usage = (is_invoke && !call.stream).then(|| {
        let mut headers = HeaderMap::new();
        answer::usage(&mut headers, &message, tokens, origin.elapsed());
        headers
    });
    let per_event = config.tokens_per_event;
    let framed = is_invoke && call.stream;
    let answer = Answer {
        attempt,
        message,
        tokens,
        stop_reason,
        script,
        fault,
        pace,
        per_event,
        origin,
        line,
        framed,
    };
    let (kind, body) = if framed {
        (
            "application/vnd.amazon.eventstream",
            FakeBody::frames(answer),
        )
    } else if call.stream {
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
    let headers = response.headers_mut();
    headers.extend(usage.into_iter().flatten());
    if framed {
        let json = HeaderValue::from_static("application/json");
        headers.insert("x-amzn-bedrock-content-type", json);
    } else if call.stream {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    }
    response
}

/// Waits for the output of a JSON response and charges it. Returns the error with which the fault
/// ends it.
async fn produce(
    attempt: &InFlightAttempt,
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
        Some(Fault::Frame { how, after_tokens }) if how.error_type().is_some() => {
            (tokens.min(*after_tokens), Some(ErrorReply::server_error()))
        }
        _ => (tokens, None),
    };
    let end = origin + pace.time_of(tokens);
    // The first token at its own time, because the response begins with it.
    let first = end.min(origin + pace.first);
    if Instant::now() < first {
        sleep_until(first).await;
    }
    let mut made = pace.made(origin.elapsed(), tokens);
    attempt.produce(made);
    while Instant::now() < end {
        sleep_until(end.min(Instant::now() + STEP)).await;
        let now = pace.made(origin.elapsed(), tokens);
        attempt.produce(now - made);
        made = now;
    }
    attempt.produce(tokens - made);
    reply
}
