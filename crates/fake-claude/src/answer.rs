//! Making the answer of an admitted request.

use std::time::Duration;

use http::header::{CACHE_CONTROL, HeaderValue};
use http::{Response, StatusCode};
use tokio::time::{Instant, sleep_until};

use crate::body::{Answer, FAR, FakeBody, Pace};
use crate::builder::HeaderSnapshot;
use crate::fault::Fault;
use crate::headers::Snapshot;
use crate::judge;
use crate::reply::ErrorReply;
use crate::service::{head, refuse};
use crate::sse::Message;
use crate::state::{Ending, Shared, Ticket};
use crate::validate::Call;

/// While a JSON answer is made, its output is charged in steps of this length.
const STEP: Duration = Duration::from_millis(250);

/// A message, whole or as a stream.
pub(crate) async fn answer(
    shared: &Shared,
    call: &Call,
    mut ticket: Ticket,
    mut fault: Option<Fault>,
    levels: Option<Snapshot>,
) -> Response<FakeBody> {
    let index = ticket.index;
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
    let error = if call.stream {
        None
    } else {
        produce(&ticket, fault.as_ref(), pace, origin, tokens).await
    };
    let levels = match config.snapshot {
        HeaderSnapshot::Admission => levels,
        HeaderSnapshot::Response => judge::snapshot(&mut shared.lock(), call, shared.now()),
    };
    if let Some(reply) = error {
        ticket.error(Some(reply.status.as_u16()), reply.kind);
        ticket.end(Ending::Broken);
        return refuse(shared, call, index, &reply, levels.as_ref());
    }
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
