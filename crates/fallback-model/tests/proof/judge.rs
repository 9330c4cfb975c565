//! The fake API, which accepts or rejects a request.

use std::collections::HashMap;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;
use tower_claude_fake_claude::{FakeClaude, GroupLimits};

pub(crate) struct Judge {
    fake: FakeClaude,
    /// Verdicts by headers and body: many pairs end in the same request.
    known: HashMap<(String, Bytes), Result<(), String>>,
    pub(crate) asked: u64,
}

impl Judge {
    pub(crate) fn new() -> Self {
        let limits = GroupLimits::unlimited();
        Self {
            fake: FakeClaude::builder()
                .limits(limits)
                .output_tokens(1)
                .build(),
            known: HashMap::new(),
            asked: 0,
        }
    }

    /// `Err` is the message of the refusal.
    pub(crate) async fn judge(&mut self, headers: &HeaderMap, body: &Bytes) -> Result<(), String> {
        self.asked += 1;
        let text = |name| {
            headers
                .get(name)
                .map_or("", |value| value.to_str().unwrap())
        };
        let key = format!("{}|{}", text("anthropic-version"), text("anthropic-beta"));
        let key = (key, body.clone());
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let mut request = http::Request::post("/v1/messages")
            .body(Full::new(body.clone()))
            .unwrap();
        *request.headers_mut() = headers.clone();
        let response = self.fake.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let verdict = if status.is_success() {
            Ok(())
        } else {
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!([400, 404].contains(&status.as_u16()), "{status}: {body:?}");
            Err(String::from_utf8(body.to_vec()).unwrap())
        };
        self.known.insert(key, verdict.clone());
        verdict
    }
}
