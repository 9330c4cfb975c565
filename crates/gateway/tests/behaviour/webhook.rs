//! Alerts arrive at a webhook, signed, and again after a failure.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{REQUEST, TestGateway, Upstream, config, json, send, within};
use tokio::sync::mpsc;
use tower_claude_gateway::Config;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

const UNAUTHORIZED: &str =
    r#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}"#;

#[tokio::test]
async fn rejected_key_is_posted_once_with_the_same_id_after_a_503() {
    let upstream = Upstream::new(|_| async { json(401, UNAUTHORIZED) }).await;
    let (received, mut requests) = mpsc::unbounded_channel();
    let count = AtomicUsize::new(0);
    let receiver = Upstream::new(move |request| {
        let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
        let received = received.clone();
        async move {
            received.send(request).expect("the test waits");
            json(if is_first { 503 } else { 204 }, "")
        }
    })
    .await;
    let gateway = TestGateway::new(config(&format!(
        "[alerts]\nwebhook_url = \"{}/hook?token=canary\"\nwebhook_secret = \"{SECRET}\"\n\
         [[upstreams]]\nname = \"main\"\nurl = \"{}\"\n",
        receiver.url(),
        upstream.url()
    )))
    .await;
    for _ in 0..3 {
        assert_eq!(send(gateway.message(), REQUEST).await.status, 401);
    }
    let first = within(requests.recv()).await.expect("an alert");
    let second = within(requests.recv()).await.expect("the same alert");
    assert_eq!(first.uri, "/hook?token=canary");
    assert_eq!(first.method, "POST");
    assert_eq!(first.headers["content-type"], "application/json");
    assert_eq!(first.headers["webhook-id"], second.headers["webhook-id"]);
    assert_eq!(first.body, second.body);
    let signature = second.headers["webhook-signature"]
        .to_str()
        .expect("a text");
    assert!(
        signature.starts_with("v1,") && signature.len() == 47,
        "{signature}"
    );
    let body: serde_json::Value = serde_json::from_slice(&first.body).expect("JSON");
    assert_eq!(body["type"], "alert.raised");
    assert_eq!(body["data"]["alert"], "ClaudeKeyRejected");
    assert_eq!(body["data"]["subject"], "messages/sonnet-5.5");
    let text = String::from_utf8_lossy(&first.body);
    assert!(!text.contains("key-of-caller"), "{text}");
    assert!(requests.try_recv().is_err(), "the alert is raised once");
}

#[test]
fn webhook_needs_url_and_secret_and_hides_both() {
    let errors = |alerts: &str| {
        let errors = Config::from_toml(&format!("[alerts]\n{alerts}"));
        errors.expect_err("it is not valid").to_string()
    };
    let url = "webhook_url = \"https://hooks.example.com/canary\"\n";
    for (alerts, expected) in [
        (url.to_owned(), "webhook_secret"),
        (format!("webhook_secret = \"{SECRET}\""), "webhook_url"),
        (format!("{url}webhook_secret = \"canary\""), "base64"),
        (format!("{url}webhook_secret = 5555"), "webhook_secret"),
        (
            format!("webhook_url = \"ftp://canary\"\nwebhook_secret = \"{SECRET}\""),
            "not a URL",
        ),
    ] {
        let shown = errors(&alerts);
        assert!(shown.contains(expected), "{shown}");
        assert!(
            !shown.contains("canary") && !shown.contains("5555"),
            "{shown}"
        );
    }
    let valid = format!("[alerts]\n{url}webhook_secret = \"{SECRET}\"");
    let config = Config::from_toml(&valid).expect("it is valid");
    for shown in [config.to_toml(), format!("{config:?}")] {
        assert!(
            !shown.contains("canary") && !shown.contains("MfKQ"),
            "{shown}"
        );
    }
}
