//! The official Python and TypeScript clients for clouds work against the fake ones.
//!
//! The SDKs are installed by `.ci/run` in `target/sdks`. The tests are skipped without them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tower_claude_fake_claude::{FakeClaude, FakeCloud, FakeCredential};

/// The longest time of all checks of one language.
const PATIENCE: Duration = Duration::from_secs(120);

const ARN: &str = "arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/abc";

fn sdks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/sdks")
}

/// Returns true if `.ci/run` has installed the clients for clouds.
fn are_installed() -> bool {
    let are_installed = sdks().join("clouds").exists();
    if !are_installed {
        println!("skipped: the SDKs are not installed");
    }
    are_installed
}

/// Runs a script with the addresses of fake clouds, and returns what it prints.
async fn check(program: &OsStr, script: &str) -> Value {
    let cloud = |cloud: FakeCloud| {
        cloud
            .access_key("AKID", "secret")
            .access_key("AKIDOLD", "secret")
            .credential(FakeCredential::access_key("ASIA", "secret").session_token("session/+="))
            .bearer("bearer")
            .arn(ARN, "claude-sonnet-5-5")
    };
    let bedrock = FakeClaude::builder()
        .cloud(cloud(FakeCloud::bedrock("us-east-1")))
        .build();
    let mantle = FakeClaude::builder()
        .cloud(cloud(FakeCloud::bedrock_messages("us-east-1")))
        .build();
    let google = FakeCloud::vertex("project", "global");
    let google = google.bearer("ya29.valid").bearer("ya29.old");
    let vertex = FakeClaude::builder().cloud(google).build();
    let servers = [
        bedrock.serve().await.expect("it starts"),
        mantle.serve().await.expect("it starts"),
        vertex.serve().await.expect("it starts"),
    ];
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/sdks")
        .join(script);
    let mut command = Command::new(program);
    command
        .arg(script)
        .args(
            servers
                .iter()
                .map(tower_claude_fake_claude::FakeServer::url),
        )
        .env("NODE_PATH", sdks().join("node/node_modules"))
        .env_remove("ANTHROPIC_API_KEY")
        .env_remove("AWS_BEARER_TOKEN_BEDROCK")
        .env_remove("AWS_SESSION_TOKEN")
        .env_remove("AWS_PROFILE")
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("it does not panic");
    let output = output.expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

/// Asserts the status of a failure and a part of its message.
fn assert_failure(seen: &Value, status: Option<u16>, part: &str) {
    assert_eq!(seen["status"], json!(status), "{seen}");
    let message = seen["message"].as_str().unwrap_or_default();
    assert!(message.contains(part), "{part}: {seen}");
}

const KINDS: [&str; 6] = [
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
];

/// Asserts what all dialects have in common. `overloaded` is the status of an overloaded model.
fn assert_common(seen: &Value, id: &str, overloaded: u16) {
    let message = json!({
        "id": id,
        "text": "Hello there",
        "model": "claude-opus-5-5",
        "stop": "end_turn",
        "usage": [10, 3],
    });
    assert_eq!(seen["message"], message);
    let stream = json!({"kinds": KINDS, "text": "Hello there", "stop": "end_turn"});
    assert_eq!(seen["stream"], stream);
    assert_eq!(seen["retried"], "end_turn");
    assert_failure(&seen["throttled"], Some(429), "");
    assert_failure(&seen["unavailable"], Some(503), "");
    assert_failure(&seen["overloaded"], Some(overloaded), "");
    assert_failure(&seen["invalid"], Some(400), "top_k");
}

fn assert_seen(seen: &Value) {
    let invoke = &seen["invoke"];
    assert_common(invoke, "msg_bdrk_", 503);
    assert_failure(
        &invoke["broken_stream"],
        Some(200),
        "serviceUnavailableException",
    );
    assert_failure(
        &invoke["throttled"],
        Some(429),
        "Too many requests, please wait",
    );
    assert_eq!(invoke["arn"], "claude-sonnet-5-5");
    assert_eq!(invoke["bearer"], "Hello there");
    assert_eq!(invoke["session"], "end_turn");
    assert_failure(
        &invoke["bad_bearer"],
        Some(403),
        "make sure your API Key is valid",
    );
    assert_failure(
        &invoke["bad_secret"],
        Some(403),
        "signature we calculated does not match",
    );
    assert_failure(
        &invoke["expired"],
        Some(403),
        "token included in the request is expired",
    );
    assert_failure(&invoke["bare"], Some(400), "with on-demand throughput isn");
    assert_failure(&invoke["beta"], Some(400), "invalid beta flag");
    assert_failure(&invoke["exception"], Some(200), "throttlingException");
    assert_failure(&invoke["bad_checksum"], None, "");
    assert_eq!(invoke["untyped"], "no error");
    let messages = &seen["messages"];
    assert_common(messages, "msg_bdrk_", 529);
    assert_failure(&messages["broken_stream"], Some(200), "overloaded_error");
    assert_eq!(messages["count"], 10);
    assert_eq!(messages["bearer"], "Hello there");
    assert_failure(&messages["profile"], Some(404), "model: us.anthropic");
    let vertex = &seen["vertex"];
    assert_common(vertex, "msg_vrtx_", 529);
    assert_failure(&vertex["broken_stream"], Some(200), "overloaded_error");
    assert_failure(&vertex["throttled"], Some(429), "RESOURCE_EXHAUSTED");
    assert_failure(&vertex["unavailable"], Some(503), "UNAVAILABLE");
    assert_failure(&vertex["invalid"], Some(400), "req_vrtx_");
    assert_failure(&vertex["expired"], Some(401), "UNAUTHENTICATED");
    assert_failure(
        &vertex["beta"],
        Some(400),
        "Unexpected value(s) `skills-2025-10-02`",
    );
    assert_failure(&vertex["unknown"], Some(404), "Publisher Model");
    assert_eq!(vertex["count"], 10);
}

#[tokio::test]
async fn python_clients_work_against_the_fake_clouds() {
    if !are_installed() {
        return;
    }
    let python = sdks().join("python/bin/python3");
    let seen = tokio::time::timeout(PATIENCE, check(python.as_ref(), "clouds.py"));
    assert_seen(&seen.await.expect("it ends"));
}

#[tokio::test]
async fn typescript_clients_work_against_the_fake_clouds() {
    if !are_installed() {
        return;
    }
    let seen = tokio::time::timeout(PATIENCE, check("node".as_ref(), "clouds.mjs"));
    assert_seen(&seen.await.expect("it ends"));
}
