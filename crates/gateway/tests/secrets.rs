//! Keys and prompts appear in no log, whatever happens.

mod common;

use std::{
    io,
    sync::{Arc, Mutex},
};

use common::*;
use tower_claude_gateway::new_key;
use tracing_subscriber::fmt::MakeWriter;

/// The lines of the log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

const CANARY: &str = "canary-8c1f";

#[tokio::test]
async fn no_key_and_no_prompt_is_logged_at_trace() {
    let lines = Lines::default();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(lines.clone())
        .with_ansi(false)
        .init();
    let status = Arc::new(Mutex::new(200));
    let answer = status.clone();
    let upstream = Upstream::new(move |_| {
        let status = *answer.lock().unwrap();
        let error = format!("{{\"type\":\"error\",\"error\":{{\"type\":\"x_error\",\"message\":\"no\"}},\"of\":\"{CANARY}\"}}");
        let body = if status == 200 { MESSAGE.replace("Hi", CANARY) } else { error };
        async move { json(status, body) }
    })
    .await;
    let ((key, hash), (unknown, _)) = (new_key().unwrap(), new_key().unwrap());
    let toml = format!(
        "key = \"sk-ant-{CANARY}\"\nmax_attempts = 2\n[[upstreams]]\nname = \"down\"\nurl = \"http://127.0.0.1:1\"\n\
         key = \"{CANARY}\"\nmax_attempts = 1\n[[keys]]\nname = \"a\"\nhash = \"{hash}\""
    );
    let config = config_for(&upstream, "", &toml);
    tracing::info!(?config, effective = %config.to_toml(), "configuration");
    let gateway = TestGateway::new(config.clone()).await;
    let body = REQUEST.replace("H\\u0069", CANARY);
    for code in [200, 400, 401, 403, 404, 429, 500, 529] {
        *status.lock().unwrap() = code;
        for path in ["/v1/messages", "/v1/messages/count_tokens", "/v1/files"] {
            for key in [&key, &unknown, &CANARY.to_owned()] {
                let path = format!("{path}?secret={CANARY}");
                let sent = gateway.request("POST", &path).header("x-api-key", key);
                send(
                    sent.header("authorization", format!("Bearer {key}")),
                    body.clone(),
                )
                .await;
            }
        }
    }
    // An upstream that cannot be reached, and bytes that are no request.
    let mut down = config;
    down.upstreams.remove(0);
    down.keys.clear();
    let gateway = TestGateway::new(down).await;
    send(gateway.request("POST", "/v1/messages"), body).await;
    let mut broken = gateway
        .raw(format!("GET {CANARY}\r\n\r\n").as_bytes())
        .await;
    read_until(&mut broken, "").await;
    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    // The log has what it should have.
    for part in [
        "configuration",
        "request answered",
        "request refused",
        "upstream did not answer",
    ] {
        assert!(log.contains(part), "{part}");
    }
    for secret in [CANARY, &key, &unknown] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}
