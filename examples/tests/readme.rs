//! The programs of the README: their text is that of the examples, and each does the right thing.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::{Router, http::StatusCode, routing::get};
use tower_claude_fake_claude::{FakeClaude, Fault};

const README: &str = include_str!("../../README.md");
const BODY: &str =
    r#"{"model":"claude-sonnet-5-5","max_tokens":64,"messages":[{"role":"user","content":"Hi"}]}"#;

/// Returns the command of a built example. Cargo builds the examples before the tests, next to
/// them.
fn example(name: &str) -> Command {
    let mut path = std::env::current_exe().expect("the path of this test");
    path.pop();
    path.pop();
    path.push("examples");
    path.push(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(
        path.exists(),
        "build it first: cargo build --example {name}"
    );
    Command::new(path)
}

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn programs_of_the_readme_are_the_examples() {
    for program in [
        include_str!("../readme/outgoing.rs"),
        include_str!("../readme/incoming.rs"),
        include_str!("../readme/other_service.rs"),
    ] {
        let block = format!("```rust,no_run\n{program}```\n");
        assert!(
            README.contains(&block),
            "the README has another text than\n{program}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outgoing_program_prints_a_message_after_a_retry() {
    let fake = FakeClaude::default();
    let api = fake.serve().await.expect("a port");
    fake.inject(Fault::RateLimited {
        retry_after: std::time::Duration::ZERO,
    });
    let mut program = example("readme_outgoing");
    program.env("ANTHROPIC_BASE_URL", api.url());
    program.env("ANTHROPIC_API_KEY", "key-a");
    let output = tokio::task::spawn_blocking(move || program.output());
    let output = output.await.expect("no panic").expect("it starts");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.starts_with("200 OK\n{"), "{printed}");
    assert!(printed.contains(r#""type":"message""#), "{printed}");
    assert_eq!(fake.log_len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn incoming_program_forwards_with_its_key_and_retries() {
    let fake = FakeClaude::default();
    let api = fake.serve().await.expect("a port");
    let mut program = example("readme_incoming");
    program.env("ANTHROPIC_BASE_URL", api.url());
    program.env("ANTHROPIC_API_KEY", "key-a");
    let program = program.stdout(Stdio::piped()).spawn();
    let mut program = Running(program.expect("it starts"));
    let stdout = program.0.stdout.take().expect("piped");
    let mut url = String::new();
    BufReader::new(stdout).read_line(&mut url).expect("a line");
    let client = reqwest::Client::new();
    fake.inject(Fault::RateLimited {
        retry_after: std::time::Duration::ZERO,
    });
    for user in ["a", "b"] {
        let request = client
            .post(format!("{}/v1/messages", url.trim()))
            .header("authorization", format!("Bearer {user}"))
            .header("anthropic-version", "2023-06-01")
            .header("content-type", "application/json")
            .header("accept-encoding", "gzip")
            .body(BODY);
        let response = request.send().await.expect("a response");
        assert_eq!(response.status(), StatusCode::OK);
        let text = response.text().await.expect("a text");
        assert!(text.contains(r#""type":"message""#), "{text}");
    }
    fake.with_log(|log| {
        assert_eq!(log.len(), 3);
        for attempt in log {
            let headers = &attempt.request.as_ref().expect("kept").headers;
            assert!(!headers.contains_key("authorization"), "{headers:?}");
            assert!(!headers.contains_key("accept-encoding"), "{headers:?}");
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn program_for_another_service_prints_its_response_after_a_retry() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let price = async || match CALLS.fetch_add(1, Ordering::Relaxed) {
        0 => (StatusCode::BAD_GATEWAY, [("retry-after", "0")], "down"),
        _ => (StatusCode::OK, [("retry-after", "0")], "price 1"),
    };
    let router = Router::new().route("/btc", get(price));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mut program = example("readme_other_service");
    program.env("PRICES_URL", format!("http://{address}/btc"));
    let output = tokio::task::spawn_blocking(move || program.output());
    let output = output.await.expect("no panic").expect("it starts");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "200 OK\nprice 1\n");
    assert_eq!(CALLS.load(Ordering::Relaxed), 2);
}
