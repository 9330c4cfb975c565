//! The server as a tower service.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode};
use http_body::Body;
use tower_service::Service;

use crate::answer::answer;
use crate::body::FakeBody;
use crate::error::FakeError;
use crate::fake::FakeClaude;
use crate::headers::{self, Snapshot};
use crate::judge::{self, Verdict};
use crate::log::Endpoint;
use crate::models;
use crate::read::read;
use crate::reply::ErrorReply;
use crate::state::Shared;
use crate::validate::{self, Call, MAX_BODY};

/// An answer being made.
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
    let (index, verdict) = judge::judge(shared, call, problem);
    match verdict {
        Verdict::Reset => Err(FakeError::Reset),
        Verdict::Refuse(reply, levels) => Ok(refuse(shared, call, index, &reply, levels.as_ref())),
        Verdict::Serve(levels) => Ok(serve(shared, call, index, levels.as_ref())),
        Verdict::Answer(ticket, fault, levels) => {
            Ok(answer(shared, call, ticket, fault, levels).await)
        }
    }
}

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

pub(crate) fn refuse(
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
    if let Some(method) = reply.allow {
        headers.insert(ALLOW, HeaderValue::from_static(method));
    }
    response
}

pub(crate) fn head(
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
    let id = request_id(index);
    headers::identity(
        headers,
        shared.config.platform,
        &id,
        wall,
        call.authenticated,
    );
    if let Some(levels) = levels {
        headers::rate_limits(headers, shared.config.family, levels);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn request_id(index: usize) -> String {
    format!("req_011Fake{index:017}")
}
