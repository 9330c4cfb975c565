//! Responses of targets in the shape of the Claude API.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING},
    response::Parts,
};
use tower_claude_wire::{
    ApiError, JsonResponse,
    cloud::{CREDENTIAL_EXPIRED, Dialect, Losses, Target, claude_error},
    is_compressed, is_event_stream, is_json,
};

#[cfg(feature = "bedrock")]
use crate::bedrock::{InvocationMetrics, ReportedMetrics};

/// The response header with the name of the target.
pub const TARGET: HeaderName = HeaderName::from_static("x-tower-claude-target");

/// The response header that lists the losses of the translation, with commas between them. Absent
/// if nothing was lost. A long list is cut after 1,000 bytes.
pub const LOSSES: HeaderName = HeaderName::from_static("x-tower-claude-losses");

const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const AMAZON_REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const AMAZON_ERROR: HeaderName = HeaderName::from_static("x-amzn-errortype");
const LONGEST_LOSSES: usize = 1_000;

/// Response extension: the body of an error as the cloud has sent it.
///
/// Present if the body of the response is a translation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Native {
    /// The body.
    pub body: Bytes,
    /// The `content-type`.
    pub content_type: Option<HeaderValue>,
}

/// The treatment of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// The body is that of the Claude API already.
    Pass,
    /// The body is an error, or may be one, and must be read.
    Read,
    /// The body is an event stream of AWS.
    Decode,
}

/// Returns the treatment of a response to a Messages request.
pub(crate) fn treatment(target: &Target, stream: bool, head: &Parts) -> Treatment {
    let (status, headers) = (head.status, &head.headers);
    if target.platform() == tower_claude_wire::Platform::ClaudeApi || is_compressed(headers) {
        return Treatment::Pass;
    }
    if status.is_client_error() || status.is_server_error() {
        return Treatment::Read;
    }
    if !status.is_success() || !stream || is_event_stream(headers) {
        return Treatment::Pass;
    }
    // An error may come in place of the stream.
    if is_json(headers) {
        return Treatment::Read;
    }
    let is_frames = headers.get(CONTENT_TYPE).is_none_or(|kind| {
        let kind = kind.as_bytes();
        let length = "application/vnd.amazon.eventstream".len();
        kind.get(..length)
            .is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/vnd.amazon.eventstream"))
    });
    if target.dialect() == Dialect::InvokeModel && is_frames {
        return Treatment::Decode;
    }
    Treatment::Pass
}

/// Returns true if the head alone shows that the credential has expired.
pub(crate) fn is_expired(head: &Parts) -> bool {
    let exception = head.headers.get(AMAZON_ERROR);
    let has_expired = exception.is_some_and(|name| name.as_bytes().starts_with(b"ExpiredToken"));
    head.status == StatusCode::UNAUTHORIZED || head.status == StatusCode::FORBIDDEN && has_expired
}

/// Returns the error in a body that was read, in the terms of the Claude API. `None` if the body
/// stays as it is.
pub(crate) fn error_in(head: &Parts, body: &[u8]) -> Option<ApiError> {
    let is_message = || matches!(JsonResponse::of(body), JsonResponse::Message);
    let is_error =
        !head.status.is_success() || ApiError::parse_any(body).is_some() && !is_message();
    let mut error = claude_error(head.status, &head.headers, body).filter(|_| is_error)?;
    if error.request_id.is_none() {
        let id = head.headers.get(AMAZON_REQUEST_ID);
        error.request_id = id.and_then(|id| id.to_str().ok()).map(str::to_owned);
    }
    Some(error)
}

/// Returns true if the error is that of a credential which has expired.
pub(crate) fn has_expired(error: &ApiError) -> bool {
    error.error_code.as_deref() == Some(CREDENTIAL_EXPIRED)
}

/// Replaces the body of an error, and keeps the native one in the extensions.
pub(crate) fn replace_error(head: &mut Parts, native: Bytes, error: &ApiError) -> Bytes {
    let body = Bytes::from(error.to_body());
    let json = HeaderValue::from_static("application/json");
    let content_type = head.headers.insert(CONTENT_TYPE, json);
    head.headers
        .insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    head.headers.remove(TRANSFER_ENCODING);
    let body_of_cloud = Native {
        body: native,
        content_type,
    };
    head.extensions.insert(body_of_cloud);
    body
}

/// Changes the head of a stream that is decoded.
#[cfg(feature = "bedrock")]
pub(crate) fn describe_events(head: &mut Parts, metrics: ReportedMetrics) {
    let events = HeaderValue::from_static("text/event-stream; charset=utf-8");
    head.headers.insert(CONTENT_TYPE, events);
    head.headers.remove(CONTENT_LENGTH);
    head.extensions.insert(metrics);
}

/// Sets the headers and extensions that name the target of a response and the losses.
pub(crate) fn label(
    headers: &mut HeaderMap,
    extensions: &mut Extensions,
    target: &Target,
    losses: &Losses,
) {
    if let Ok(name) = HeaderValue::from_str(target.name()) {
        headers.insert(TARGET, name);
    }
    headers.remove(LOSSES);
    if !losses.is_empty() {
        let mut text = String::new();
        let _ = write!(text, "{losses}");
        // The text is ASCII.
        text.truncate(LONGEST_LOSSES);
        if let Ok(text) = HeaderValue::from_str(&text) {
            headers.insert(LOSSES, text);
        }
    }
    if !headers.contains_key(REQUEST_ID)
        && let Some(id) = headers.get(AMAZON_REQUEST_ID).cloned()
    {
        headers.insert(REQUEST_ID, id);
    }
    #[cfg(feature = "bedrock")]
    if let Some(metrics) = InvocationMetrics::from_headers(headers) {
        extensions.insert(ReportedMetrics::known(metrics));
    }
    extensions.insert(target.clone());
    extensions.insert(losses.clone());
}
