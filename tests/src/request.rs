//! Messages requests.

use std::fmt::Debug;

use http::{HeaderName, HeaderValue, Request};
use tower_claude_core::RequestBody;

/// A large model.
pub const OPUS: &str = "claude-opus-5-5";
/// A medium model.
pub const SONNET: &str = "claude-sonnet-5-5";
/// A small model.
pub const HAIKU: &str = "claude-haiku-5-5";

/// A base URL that no test connects to.
pub const BASE: &str = "http://localhost";

/// Returns the JSON of a Messages request. `fields` follow the model, each with a leading comma.
#[must_use]
pub fn prompt_with(model: &str, fields: &str) -> String {
    format!(r#"{{"model":"{model}"{fields},"messages":[{{"role":"user","content":"Hi"}}]}}"#)
}

/// Returns the JSON of a Messages request for at most 256 output tokens.
#[must_use]
pub fn prompt(model: &str, stream: bool) -> String {
    prompt_with(model, &format!(r#","max_tokens":256,"stream":{stream}"#))
}

/// Returns a request with this body to the Messages endpoint under this base URL.
///
/// # Panics
/// If the base is not part of a URL.
pub fn post<B>(base: &str, body: impl Into<B>) -> Request<B> {
    Request::post(format!("{base}/v1/messages"))
        .header("x-api-key", "key-a")
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .body(body.into())
        .expect("a request")
}

/// Returns a Messages request to this base URL for this model.
#[must_use]
pub fn request_to(base: &str, model: &str, stream: bool) -> Request<RequestBody> {
    post(base, prompt(model, stream))
}

/// Returns a Messages request for this model.
#[must_use]
pub fn request(model: &str, stream: bool) -> Request<RequestBody> {
    request_to(BASE, model, stream)
}

/// Returns a Messages request for this model with these [fields](prompt_with).
#[must_use]
pub fn request_with(model: &str, fields: &str) -> Request<RequestBody> {
    post(BASE, prompt_with(model, fields))
}

/// Sets a header of a request.
///
/// # Panics
/// If the value is not a header value.
pub fn with<B>(
    mut request: Request<B>,
    name: &'static str,
    value: impl TryInto<HeaderValue, Error: Debug>,
) -> Request<B> {
    let value = value.try_into().expect("a header value");
    let name = HeaderName::from_static(name);
    request.headers_mut().insert(name, value);
    request
}
