//! The official Python and TypeScript SDKs see the same through the gateway as at the API, but that
//! the gateway retries for them.
//!
//! The SDKs are installed by `.ci/run` in `target/sdks`. The tests are skipped without them.

mod common;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use common::{TestGateway, config};
use serde_json::Value;
use tower_claude_fake_claude::FakeClaude;

/// The longest time of a comparison.
const PATIENCE: Duration = Duration::from_secs(120);

fn sdks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/sdks")
}

/// Returns true if `.ci/run` has installed the SDKs.
fn are_installed() -> bool {
    let are_installed = sdks().join("complete").exists();
    if !are_installed {
        println!("skipped: the SDKs are not installed");
    }
    are_installed
}

/// Runs a check in another process, and returns what it prints.
async fn check(program: &OsStr, script: &str, base: &str, fake: &str) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/sdks")
        .join(script);
    let mut command = std::process::Command::new(program);
    command
        .arg(script)
        .args([base, fake])
        .env("NODE_PATH", sdks().join("node/node_modules"))
        .env_remove("ANTHROPIC_API_KEY")
        .env_remove("ANTHROPIC_BASE_URL")
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("it does not panic");
    let output = output.expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

/// Checks what an SDK sees of batches.
fn check_batches(seen: &Value) {
    let results = seen["results"].as_array().expect("a list");
    let results: Vec<_> = results
        .iter()
        .map(|line| (line[0].as_str(), line[1].as_str()))
        .collect();
    let expected = [
        ("late", "expired"),
        ("bad", "errored"),
        ("good", "succeeded"),
    ];
    assert_eq!(results, expected.map(|(id, kind)| (Some(id), Some(kind))));
    assert_eq!(seen["canceled"][0], "canceling");
    assert_eq!(seen["stopped"][1]["canceled"], 2);
    assert_eq!(seen["is_listed"], true);
    assert_eq!(seen["deleted"].as_array().map(Vec::len), Some(2));
    let errors = seen["errors"].as_array().expect("a list");
    let errors: Vec<_> = errors
        .iter()
        .map(|error| error["status"].as_u64())
        .collect();
    assert_eq!(errors, [400, 404, 404, 400].map(Some));
}

/// Compares what an SDK sees at the API and through the gateway.
async fn compare(program: &OsStr, script: &str) {
    let fake = FakeClaude::builder().tokens_per_second(400.0).build();
    let server = fake.serve().await.expect("it starts");
    let url = server.url();
    let gateway = TestGateway::new(config(&format!(
        "[[upstreams]]\nname = \"fake\"\nurl = \"{url}\"\nmax_attempts = 2\n"
    )))
    .await;
    let direct = check(program, script, &url, &url).await;
    let through = format!("http://{}", gateway.addr);
    let through = check(program, script, &through, &url).await;
    assert_eq!(direct["message"]["text"], "Hello there");
    assert_eq!(direct["errors"].as_array().map(Vec::len), Some(7));
    assert_eq!(direct["retries"]["attempts"], 2);
    check_batches(&direct["batches"]);
    assert_eq!(through["batches"]["has_own_url"], true);
    assert_eq!(direct, through);
    // A stream that the client has left is left at the API as well.
    // One for each way.
    fake.wait_for(|log| log.iter().filter(|attempt| attempt.client_gone).count() == 2)
        .await;
}

#[tokio::test]
async fn python_sdk_sees_the_same_through_the_gateway() {
    if !are_installed() {
        return;
    }
    let python = sdks().join("python/bin/python3");
    let compared = tokio::time::timeout(PATIENCE, compare(python.as_ref(), "check.py"));
    compared.await.expect("it ends");
}

#[tokio::test]
async fn typescript_sdk_sees_the_same_through_the_gateway() {
    if !are_installed() {
        return;
    }
    let compared = tokio::time::timeout(PATIENCE, compare("node".as_ref(), "check.mjs"));
    compared.await.expect("it ends");
}
