//! The control endpoints, for tests in other languages.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, request};
use serde_json::{Map, Value, json};

use crate::batches::outcome::{BatchOutcome, LostCreation};
use crate::body::FakeBody;
use crate::fake::FakeClaude;
use crate::fault::{Fault, FrameFault};
use crate::log::Attempt;
use crate::script::Reply;

/// The prefix of the paths of all control endpoints.
pub(crate) const PREFIX: &str = "/fake/";

/// Answers a request to a control endpoint. Such a request is not logged.
pub(crate) fn respond(
    fake: &FakeClaude,
    parts: &request::Parts,
    body: Option<&Bytes>,
) -> Response<FakeBody> {
    let path = parts.uri.path().trim_start_matches(PREFIX);
    let result = match (&parts.method, path.trim_end_matches('/')) {
        (&Method::GET, "log") => Ok(log(fake)),
        (&Method::POST, "replies") => parse(body).and_then(|value| {
            fake.reply(Reply::from_json(&value)?);
            Ok(json!({}))
        }),
        (&Method::POST, "faults") => parse(body).and_then(|value| {
            let times = number(&value, "times")?.unwrap_or(1);
            fake.inject_times(fault(&value)?, times);
            Ok(json!({}))
        }),
        (&Method::POST, "batches") => parse(body).and_then(|value| {
            if !value["lost_creation"].is_null() {
                fake.lose_creation(LostCreation::from_json(&value["lost_creation"])?);
                return Ok(json!({}));
            }
            let custom_id = value["custom_id"].as_str();
            let custom_id = custom_id.ok_or("custom_id: a string is required")?;
            fake.batch_outcome(custom_id, BatchOutcome::from_json(&value)?);
            Ok(json!({}))
        }),
        (&Method::POST, "credentials") => parse(body).and_then(|value| {
            let name = value["expired"].as_str();
            fake.expire_credential(name.ok_or("expired: a string is required")?);
            Ok(json!({}))
        }),
        (&Method::DELETE, "") => {
            fake.clear_injected();
            Ok(json!({}))
        }
        _ => Err(format!(
            "{} {PREFIX}{path}: not a control endpoint. There are GET {PREFIX}log, POST \
             {PREFIX}replies, POST {PREFIX}faults, POST {PREFIX}batches, POST {PREFIX}credentials and \
             DELETE {PREFIX}",
            parts.method
        )),
    };
    let (status, value) = match result {
        Ok(value) => (StatusCode::OK, value),
        Err(message) => (StatusCode::BAD_REQUEST, json!({"error": message})),
    };
    let mut response = Response::new(FakeBody::full(value.to_string()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, json);
    response
}

fn parse(body: Option<&Bytes>) -> Result<Value, String> {
    let body = body.ok_or("the body is too large")?;
    serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))
}

fn log(fake: &FakeClaude) -> Value {
    // A copy, so that the server is not locked while it is written.
    fake.log().iter().map(entry).collect()
}

fn entry(attempt: &Attempt) -> Value {
    let request = attempt.request.as_ref().map(|request| {
        json!({
            "method": request.method.as_str(),
            "path": request.uri.path(),
            "query": request.uri.query().map(query),
            "headers": headers(&request.headers),
            "body": request.json(),
        })
    });
    json!({
        "seq": attempt.seq,
        "at_seconds": attempt.at.as_secs_f64(),
        "model": &*attempt.model,
        "group": &*attempt.group,
        "stream": attempt.stream,
        "status": attempt.status,
        "error_type": attempt.error_type,
        "error_code": attempt.error_code,
        "fault": attempt.fault,
        "input_tokens": attempt.charged_input,
        "cache_read_tokens": attempt.cache_read,
        "cache_creation_tokens": attempt.cache_creation,
        "output_tokens": attempt.charged_output,
        "completed": attempt.completed,
        "request": request,
    })
}

/// Returns the query, or `…` if it has a credential.
fn query(query: &str) -> &str {
    let is_secret = |pair: &str| {
        let name = pair.split('=').next().unwrap_or_default();
        name.eq_ignore_ascii_case("key") || name.to_ascii_lowercase().starts_with("x-amz-")
    };
    if query.split('&').any(is_secret) {
        "…"
    } else {
        query
    }
}

/// Returns the headers without the values of credentials.
fn headers(headers: &HeaderMap) -> Map<String, Value> {
    let secret = [
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "cf-aig-authorization",
        "authorization",
        "x-amz-security-token",
        "proxy-authorization",
        "cookie",
    ];
    headers
        .iter()
        .map(|(name, value)| {
            let value = match secret.contains(&name.as_str()) {
                true => "…".into(),
                false => String::from_utf8_lossy(value.as_bytes()),
            };
            (name.to_string(), Value::from(value))
        })
        .collect()
}

/// Reads a fault: its name, and the numbers that it needs.
fn fault(value: &Value) -> Result<Fault, String> {
    let name = value["fault"].as_str().ok_or("fault: a name is required")?;
    let seconds = |field| {
        let given = match &value[field] {
            Value::Null => return Ok(Duration::from_secs(1)),
            given => given.as_f64(),
        };
        given
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .ok_or_else(|| format!("{field}: seconds are required, not {}", value[field]))
    };
    let after_tokens = number(value, "after_tokens")?.unwrap_or(0);
    Ok(match name {
        "overloaded" => Fault::Overloaded,
        "server_error" => Fault::ServerError,
        "unavailable" => Fault::Unavailable,
        "timeout_504" => Fault::Timeout504,
        "rate_limited" => Fault::RateLimited {
            retry_after: seconds("retry_after")?,
        },
        "rate_limited_bare" => Fault::RateLimitedBare,
        "ramp" => Fault::Ramp {
            retry_after: seconds("retry_after")?,
        },
        "spend_cap" => Fault::SpendCap,
        "own_spend_limit" => Fault::OwnSpendLimit,
        "reset" => Fault::Reset,
        "slow_head" => Fault::SlowHead(seconds("duration")?),
        "error_before_content" => Fault::ErrorBeforeContent,
        "error_mid_stream" => Fault::ErrorMidStream { after_tokens },
        "truncated" => Fault::Truncated { after_tokens },
        "cut" => Fault::Cut { after_tokens },
        "stall" => Fault::Stall {
            after_tokens,
            duration: seconds("duration")?,
        },
        "frame" => Fault::Frame {
            how: frame_fault(value)?,
            after_tokens,
        },
        "truncated_before_content" => Fault::TruncatedBeforeContent,
        "refusal" => Fault::Refusal { after_tokens },
        "custom" => custom(value)?,
        _ => return Err(format!("fault: unknown name {name:?}")),
    })
}

/// Reads a failure of a frame: its kind in `how`, and the texts that it needs.
fn frame_fault(value: &Value) -> Result<FrameFault, String> {
    let text = |field: &str| {
        let text = value[field].as_str();
        text.ok_or_else(|| format!("{field}: a string is required, not {}", value[field]))
    };
    Ok(match text("how")? {
        "exception" => FrameFault::exception(text("name")?, text("message")?),
        "error" => FrameFault::error(text("code")?, text("message")?),
        "bad_checksum" => FrameFault::BadChecksum,
        "bad_prelude" => FrameFault::BadPrelude,
        "cut" => FrameFault::Cut,
        "unknown_header" => FrameFault::UnknownHeader,
        "unknown_event" => FrameFault::UnknownEvent,
        "untyped" => FrameFault::Untyped,
        how => return Err(format!("how: unknown name {how:?}")),
    })
}

/// Reads a fault with its own status, headers and body. A body that is not a string is sent as
/// JSON.
fn custom(value: &Value) -> Result<Fault, String> {
    let status = number(value, "status")?
        .and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok())
        .ok_or_else(|| format!("status: a status is required, not {}", value["status"]))?;
    let mut headers = Vec::new();
    for (name, text) in value["headers"].as_object().into_iter().flatten() {
        let pair = HeaderName::try_from(name).ok().zip(
            text.as_str()
                .and_then(|text| HeaderValue::from_str(text).ok()),
        );
        headers.push(pair.ok_or_else(|| format!("headers.{name}: not a valid header: {text}"))?);
    }
    let body = match &value["body"] {
        Value::Null => Bytes::new(),
        Value::String(text) => Bytes::from(text.clone()),
        json => Bytes::from(json.to_string()),
    };
    Ok(Fault::Custom {
        status,
        headers,
        body,
    })
}

/// Reads an optional number of a field.
fn number(value: &Value, field: &str) -> Result<Option<u64>, String> {
    match &value[field] {
        Value::Null => Ok(None),
        given => given
            .as_u64()
            .map(Some)
            .ok_or_else(|| format!("{field}: a whole number is required, not {given}")),
    }
}
