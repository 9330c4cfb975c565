//! Errors and headers of responses in the shapes of the platforms.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::StatusCode;
use http::header::{DATE, HeaderMap, HeaderName, HeaderValue};
use serde_json::json;

use crate::cloud::FakeCloud;
use crate::cloud::route::Dialect;
use crate::model::Dimension;
use crate::reply::ErrorReply;
use crate::sse::ReplyMessage;
use crate::validate::ValidCall;

/// The end of `x-amzn-errortype`, as captured.
const CORAL: &str = ":http://internal.amazon.com/coral/com.amazon.bedrock/";

/// An error response in the shape of a platform.
pub(crate) struct CloudError {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
    /// True if the model has answered, and not the platform in front of it.
    pub(crate) is_from_model: bool,
}

/// Returns the request id of an attempt as the platform writes it.
pub(crate) fn request_id(dialect: Dialect, index: usize) -> String {
    match dialect {
        Dialect::Claude => format!("req_011Fake{index:017}"),
        Dialect::Messages | Dialect::Invoke => format!("req_bdrk_011Fake{index:012}"),
        Dialect::Vertex => format!("req_vrtx_011Fake{index:012}"),
    }
}

/// Returns the id of the message of an attempt as the platform writes it.
pub(crate) fn message_id(dialect: Dialect, index: usize) -> String {
    match dialect {
        Dialect::Claude => format!("msg_01Fake{index:018}"),
        Dialect::Messages | Dialect::Invoke => format!("msg_bdrk_01Fake{index:013}"),
        Dialect::Vertex => format!("msg_vrtx_01Fake{index:013}"),
    }
}

/// Adds the ids and the date. The platforms send neither the organization nor rate limits.
pub(crate) fn identity(
    headers: &mut HeaderMap,
    dialect: Dialect,
    index: usize,
    wall: SystemTime,
    is_from_model: bool,
) {
    let mut put = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    if matches!(dialect, Dialect::Messages | Dialect::Invoke) {
        put(
            "x-amzn-requestid",
            format!("00000000-0000-4000-8000-{index:012x}"),
        );
    }
    if is_from_model && dialect != Dialect::Invoke {
        put("request-id", request_id(dialect, index));
    }
    put(DATE.as_str(), httpdate::fmt_http_date(wall));
}

/// Adds the usage that InvokeModel sends beside the body of a message.
pub(crate) fn usage(headers: &mut HeaderMap, message: &ReplyMessage, output: u64, time: Duration) {
    let latency = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let counts = [
        ("x-amzn-bedrock-input-token-count", message.input),
        ("x-amzn-bedrock-output-token-count", output),
        (
            "x-amzn-bedrock-cache-read-input-token-count",
            message.cache.read,
        ),
        (
            "x-amzn-bedrock-cache-write-input-token-count",
            message.cache.written(),
        ),
        ("x-amzn-bedrock-invocation-latency", latency),
    ];
    for (name, count) in counts {
        headers.insert(name, HeaderValue::from(count));
    }
}

/// Returns the status of an error on its platform.
pub(crate) fn status(dialect: Dialect, reply: &ErrorReply) -> StatusCode {
    let own = match (dialect, reply.front, &reply.custom) {
        (Dialect::Invoke, None, None) => exception(reply.status.as_u16(), None).0,
        _ => return reply.status,
    };
    StatusCode::from_u16(own).unwrap_or(reply.status)
}

/// Returns an error in the shape of its platform.
pub(crate) fn error(
    cloud: &FakeCloud,
    call: &ValidCall,
    index: usize,
    reply: &ErrorReply,
) -> CloudError {
    match call.dialect {
        Dialect::Invoke => amazon(reply),
        Dialect::Vertex if is_google(reply) => google(cloud, call, reply),
        dialect => CloudError {
            status: reply.status,
            headers: Vec::new(),
            body: reply.body(&request_id(dialect, index)),
            is_from_model: true,
        },
    }
}

/// Returns the name and the text of an exception of AWS for a status of the Claude API.
fn exception(status: u16, dimension: Option<Dimension>) -> (u16, &'static str, &'static str) {
    match status {
        429 => {
            let message = match dimension {
                Some(Dimension::InputTokens | Dimension::OutputTokens | Dimension::Tokens) => {
                    "Too many tokens, please wait before trying again."
                }
                _ => "Too many requests, please wait before trying again.",
            };
            (429, "ThrottlingException", message)
        }
        503 | 529 => (
            503,
            "ServiceUnavailableException",
            "Bedrock is unable to process your request.",
        ),
        408 | 504 => (
            408,
            "ModelTimeoutException",
            "Model has timed out in processing the request. Try your request again.",
        ),
        424 => (424, "ModelErrorException", ""),
        400 | 413 => (400, "ValidationException", ""),
        403 => (403, "AccessDeniedException", ""),
        404 => (404, "ResourceNotFoundException", ""),
        _ => (
            500,
            "InternalServerException",
            "The system encountered an unexpected error during processing. Try your request again.",
        ),
    }
}

fn amazon(reply: &ErrorReply) -> CloudError {
    let (_, name, message) = match reply.front {
        Some(name) => (0, name, ""),
        None => exception(reply.status.as_u16(), reply.dimension),
    };
    let message = if message.is_empty() {
        &*reply.message
    } else {
        message
    };
    // The check of permissions in front writes it with a capital letter.
    let body = match name {
        "AccessDeniedException" => json!({ "Message": message }),
        _ => json!({ "message": message }),
    };
    let kind = HeaderValue::try_from(format!("{name}{CORAL}"));
    let kind = kind.map(|kind| (HeaderName::from_static("x-amzn-errortype"), kind));
    CloudError {
        status: status(Dialect::Invoke, reply),
        headers: kind.into_iter().collect(),
        body: body.to_string().into(),
        is_from_model: false,
    }
}

/// Returns true for an error of Google itself, and not of the model behind it.
fn is_google(reply: &ErrorReply) -> bool {
    reply.front.is_some() || matches!(reply.status.as_u16(), 401 | 403 | 429 | 503 | 504)
}

fn google(cloud: &FakeCloud, call: &ValidCall, reply: &ErrorReply) -> CloudError {
    let status = reply.status.as_u16();
    let name = reply.front.unwrap_or(match status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        _ => "DEADLINE_EXCEEDED",
    });
    let message = match (status, reply.front) {
        (_, Some(_)) => reply.message.to_string(),
        (429, _) => quota(cloud, call, reply.dimension),
        (503, _) => "The service is currently unavailable.".to_owned(),
        (504, _) => "Deadline expired before operation could complete.".to_owned(),
        _ => reply.message.to_string(),
    };
    let mut body = json!({"error": {"code": status, "message": message, "status": name}});
    // Streams of Google begin a list, and an error is then its only element.
    if call.streams_by_path {
        body = json!([body]);
    }
    let challenge = HeaderValue::from_static(
        "Bearer realm=\"https://accounts.google.com/\", error=\"invalid_token\"",
    );
    let challenge = (status == 401).then_some((http::header::WWW_AUTHENTICATE, challenge));
    CloudError {
        status: reply.status,
        headers: challenge.into_iter().collect(),
        body: body.to_string().into(),
        is_from_model: false,
    }
}

/// Returns Google's text for a limit that is exceeded.
fn quota(cloud: &FakeCloud, call: &ValidCall, dimension: Option<Dimension>) -> String {
    let scope = match cloud.location.as_str() {
        "global" => "global_",
        "us" => "us_multi_region_",
        "eu" => "eu_multi_region_",
        _ => "",
    };
    let metric = match dimension {
        Some(Dimension::InputTokens | Dimension::Tokens) => "input_tokens_per_minute",
        Some(Dimension::OutputTokens) => "output_tokens_per_minute",
        _ => "requests",
    };
    format!(
        "Quota exceeded for aiplatform.googleapis.com/{scope}online_prediction_{metric}_per_base_model with base model: {}. Please submit a quota increase request. https://cloud.google.com/vertex-ai/docs/generative-ai/quotas-genai.",
        call.group
    )
}
