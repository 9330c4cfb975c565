//! Requests for tests.
#![allow(dead_code)]

use bytes::Bytes;
use http::request::Builder;
use http_body_util::{BodyExt as _, Full};
use tower_claude_fake_claude::{FakeBody, FakeClaude};
use tower_claude_wire::SseScanner;

pub(crate) fn fake() -> FakeClaude {
    FakeClaude::builder().build()
}

pub(crate) fn post(path: &str) -> Builder {
    http::Request::post(path)
        .header("x-api-key", "sk-test")
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
}

pub(crate) fn messages() -> Builder {
    post("/v1/messages")
}

pub(crate) fn full(body: impl Into<Bytes>) -> Full<Bytes> {
    Full::new(body.into())
}

pub(crate) fn json(stream: bool) -> String {
    format!(
        r#"{{"model":"claude-sonnet-5-5","max_tokens":1024,"stream":{stream},"messages":[{{"role":"user","content":"Hello"}}]}}"#
    )
}

pub(crate) fn text(stream: bool) -> Full<Bytes> {
    full(json(stream))
}

/// Names of the events up to and with `message_stop`, or to the end.
pub(crate) async fn sse_names(body: &mut FakeBody) -> Vec<String> {
    let mut names = Vec::new();
    let mut scanner = SseScanner::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            names.push("BROKEN".to_owned());
            break;
        };
        scanner.feed(&frame.into_data().unwrap(), |event| {
            names.push(String::from_utf8(event.name.to_vec()).unwrap());
        });
        if names.last().is_some_and(|name| name == "message_stop") {
            break;
        }
    }
    names
}
