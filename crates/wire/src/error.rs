//! The error envelope: `{"type":"error","error":{"type","message","details"},"request_id"}`.
//!
//! <https://platform.claude.com/docs/en/api/errors>

use std::{borrow::Cow, time::SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::json::{Elements, find, json_text, whole_number};
use crate::timestamp::rfc3339;

/// An error of the Claude API, from a response body or from an `error` event in a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApiError {
    /// `error.type`, e.g. `rate_limit_error`. New kinds may appear.
    pub kind: String,
    /// Text for people. Do not base decisions on it.
    pub message: String,
    /// `error.details.error_code`, e.g. `ramp_limit_exceeded`. Treat an unknown code like no code.
    pub error_code: Option<String>,
    /// `req_…`.
    pub request_id: Option<String>,
    /// The HTTP status that the error of another platform has as its `code`.
    pub status: Option<u16>,
}

impl ApiError {
    /// Creates an error with a kind and a message.
    #[must_use]
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            message: message.into(),
            ..Self::default()
        }
    }

    /// Parses the envelope. `None` for any other format: an error of a cloud platform, HTML of a
    /// proxy, or a truncated body.
    ///
    /// ```
    /// use tower_claude_wire::ApiError;
    /// let body = br#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    /// assert_eq!(ApiError::parse(body).unwrap().kind, "overloaded_error");
    /// assert_eq!(ApiError::parse(b"<html>Bad Gateway</html>"), None);
    /// ```
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let envelope: Incoming<'_> = serde_json::from_slice(body).ok()?;
        if envelope.kind != "error" {
            return None;
        }
        Some(Self {
            kind: envelope.error.kind.into_owned(),
            message: envelope.error.message.and_then(string).unwrap_or_default(),
            error_code: envelope.error.details.and_then(|details| {
                let details: Details<'_> = serde_json::from_str(details.get()).ok()?;
                details.error_code.and_then(string)
            }),
            request_id: envelope.request_id.and_then(string),
            status: None,
        })
    }

    /// Parses an error in Claude's format, or in that of a cloud platform or a gateway.
    ///
    /// | Format | `kind` |
    /// |---|---|
    /// | `{"error":{"type","message","code"}}` | the type, else the code |
    /// | `{"error":{"code","message","status"}}` of Google, also in an array | the status |
    /// | `{"__type","message"}` of AWS | the exception |
    /// | `{"message"}` of AWS, `{"error":"…"}`, `{"detail":"…"}` | empty |
    ///
    /// `None` for any other text.
    ///
    /// ```
    /// use tower_claude_wire::ApiError;
    /// let body = br#"{"error":{"code":429,"message":"Quota","status":"RESOURCE_EXHAUSTED"}}"#;
    /// let error = ApiError::parse_any(body).unwrap();
    /// assert_eq!((error.kind.as_str(), error.status), ("RESOURCE_EXHAUSTED", Some(429)));
    /// ```
    #[must_use]
    pub fn parse_any(body: &[u8]) -> Option<Self> {
        if let Some(error) = Self::parse(body) {
            return Some(error);
        }
        let body = Elements::open(body).map_or(Some(body), |mut items| items.next())?;
        let text = |object, key: &str| {
            let text = find(object, key.as_bytes()).and_then(json_text);
            text.map(std::borrow::Cow::into_owned)
        };
        let message = |object| {
            let keys = ["message", "Message", "detail", "error_message"];
            keys.iter().find_map(|key| text(object, key))
        };
        let mut error = Self::new(text(body, "__type").unwrap_or_default(), "");
        let mut found = !error.kind.is_empty();
        error.request_id = text(body, "request_id");
        match find(body, b"error").filter(|inner| *inner != b"null") {
            Some(inner) if inner.first() == Some(&b'{') => {
                let code = text(inner, "code");
                let number = find(inner, b"code").and_then(whole_number);
                error.status = number
                    .and_then(|code| code.try_into().ok())
                    .or_else(|| code.as_ref()?.parse().ok());
                error.kind = text(inner, "type")
                    .or_else(|| text(inner, "status"))
                    .or_else(|| code.clone())
                    .unwrap_or_default();
                error.error_code = code;
                error.message = message(inner).unwrap_or_default();
                found = true;
            }
            Some(inner) => {
                error.message = json_text(inner)?.into_owned();
                found = true;
            }
            None => {
                if let Some(message) = message(body) {
                    error.message = message;
                    found = true;
                }
            }
        }
        found.then_some(error)
    }

    /// Returns true if the message names the number of concurrent connections as the reason. No
    /// other field has it.
    ///
    /// The text was observed, and no documentation of the API has it.
    #[must_use]
    pub fn is_concurrency(&self) -> bool {
        self.message.contains("concurrent connections")
    }

    /// Returns the time at which a spending limit ends, from the message: `You will regain access
    /// on 2026-12-01 at 00:00 UTC.` No other field has it. `None` if the message has another form.
    #[must_use]
    pub fn regains_access(&self) -> Option<SystemTime> {
        let (_, rest) = self.message.split_once("regain access on ")?;
        let (day, rest) = rest.split_once(" at ")?;
        let (time, _) = rest.split_once(" UTC")?;
        rfc3339(format!("{day}T{time}:00Z").as_bytes())
    }

    /// Returns the envelope for an error without a code.
    #[must_use]
    pub fn body(kind: &str, message: &str, request_id: Option<&str>) -> String {
        write(kind, message, None, request_id)
    }

    /// Returns the envelope with `details.error_code`. [`ApiError::parse`] accepts it.
    #[must_use]
    pub fn to_body(&self) -> String {
        write(
            &self.kind,
            &self.message,
            self.error_code.as_deref(),
            self.request_id.as_deref(),
        )
    }

    /// Returns the server-sent `error` event with this error, as the API ends a stream that it
    /// cannot finish.
    ///
    /// Inside of a stream it must follow a complete event. Write a blank line before it otherwise.
    ///
    /// ```
    /// use tower_claude_wire::ApiError;
    /// let event = ApiError::new("api_error", "cut short").to_sse_event();
    /// let data = r#"{"type":"error","error":{"type":"api_error","message":"cut short"}}"#;
    /// assert_eq!(event, format!("event: error\ndata: {data}\n\n"));
    /// ```
    #[must_use]
    pub fn to_sse_event(&self) -> String {
        format!("event: error\ndata: {}\n\n", self.to_body())
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

impl std::error::Error for ApiError {}

// Optional parts are raw, so that an unexpected type in one does not invalidate the others.
#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    error: IncomingError<'a>,
    #[serde(borrow)]
    request_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct IncomingError<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    details: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Details<'a> {
    #[serde(borrow)]
    error_code: Option<&'a RawValue>,
}

fn string(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

#[derive(Serialize)]
struct Outgoing<'a> {
    r#type: &'a str,
    error: OutgoingError<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

#[derive(Serialize)]
struct OutgoingError<'a> {
    r#type: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<OutgoingDetails<'a>>,
}

#[derive(Serialize)]
struct OutgoingDetails<'a> {
    error_code: &'a str,
}

fn write(kind: &str, message: &str, error_code: Option<&str>, request_id: Option<&str>) -> String {
    let envelope = Outgoing {
        r#type: "error",
        error: OutgoingError {
            r#type: kind,
            message,
            details: error_code.map(|error_code| OutgoingDetails { error_code }),
        },
        request_id,
    };
    serde_json::to_string(&envelope).expect("plain strings always serialize")
}
