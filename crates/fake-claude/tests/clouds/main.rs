//! Cloud platforms: their paths, credentials, errors, streams, limits and caches.

mod any;
mod frames;
mod hosts;
mod invoke;
mod messages;
mod pools;
mod sign;
mod signatures;
mod thinking;
mod vertex;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use tower_claude_fake_claude::{FakeClaude, FakeCloud};

/// A path of InvokeModel with the current model of a profile.
const INVOKE: &str = "/model/us.anthropic.claude-opus-5-5/invoke";
const STREAM: &str = "/model/us.anthropic.claude-opus-5-5/invoke-with-response-stream";
const MESSAGES: &str = "/anthropic/v1/messages";

/// A complete response.
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("it is JSON")
    }

    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).map(|value| value.to_str());
        value.and_then(Result::ok).unwrap_or_default()
    }

    /// Returns the message of an error in any of the shapes.
    fn message(&self) -> String {
        let json = self.json();
        let error = [
            &json["error"]["message"],
            &json["message"],
            &json["Message"],
        ];
        let list = &json[0]["error"]["message"];
        let found = error.into_iter().chain([list]).find_map(Value::as_str);
        found.unwrap_or_default().to_owned()
    }

    fn has_rate_headers(&self) -> bool {
        let mut names = self.headers.keys().map(http::HeaderName::as_str);
        names.any(|name| {
            name.contains("ratelimit") || name == "retry-after" || name == "x-should-retry"
        })
    }
}

/// Sends a request. A body that breaks off ends there.
async fn send(fake: &FakeClaude, request: Request<Full<Bytes>>) -> Answer {
    let response = fake.clone().oneshot(request).await.expect("a response");
    let (parts, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        bytes.extend_from_slice(&frame.into_data().expect("data"));
    }
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: bytes.into(),
    }
}

/// Builds a request with a bearer token.
fn post(path: &str, body: &Value) -> Request<Full<Bytes>> {
    Request::post(path)
        .header("authorization", "Bearer token")
        .header("content-type", "application/json")
        .body(Full::new(body.to_string().into()))
        .expect("a request")
}

/// Builds a request of the endpoints of the Claude API with a bearer token.
fn post_messages(path: &str, body: &Value) -> Request<Full<Bytes>> {
    with_header(post(path, body), "anthropic-version", "2023-06-01")
}

fn with_header(
    mut request: Request<Full<Bytes>>,
    name: &'static str,
    value: &str,
) -> Request<Full<Bytes>> {
    let value = value.parse().expect("a value");
    request.headers_mut().insert(name, value);
    request
}

/// Returns a body with all fields of both, those of `more` first.
fn merged(base: Value, more: &Value) -> Value {
    let mut body = base;
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

/// Returns a body for InvokeModel with these fields beside the required ones.
fn invoke_body(more: &Value) -> Value {
    let base = json!({
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "Hi"}],
    });
    merged(base, more)
}

fn bedrock() -> FakeClaude {
    let cloud = FakeCloud::bedrock("us-east-1");
    FakeClaude::builder().cloud(cloud).build()
}
