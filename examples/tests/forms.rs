//! The built examples of the forms: each ends by itself, exits with 0, and prints the expected
//! text.

use std::process::Command;

/// Runs an example, which prints exactly this.
fn prints(example: &str, expected: &str) {
    assert_eq!(output(example), expected);
}

/// Runs an example to its end, and returns what it prints. Cargo builds the examples of a package
/// before its tests, next to them (not with `--test`).
fn output(example: &str) -> String {
    let mut path = std::env::current_exe().expect("the path of this test");
    path.pop();
    path.pop();
    path.push("examples");
    path.push(format!("{example}{}", std::env::consts::EXE_SUFFIX));
    assert!(
        path.exists(),
        "build it first: cargo build --example {example}"
    );
    let output = Command::new(path).output().expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(stderr, "");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn axum_service() {
    prints(
        "axum_service",
        "\
POST /ask, while the API is overloaded twice
  retry: attempt 1 failed (overloaded), another follows
  retry: attempt 2 failed (overloaded), another follows
  -> 200, a message of 16 tokens
POST /v1/messages as a stream, while the API limits the rate once
  header-budget: the API asks for a pause
  retry: attempt 1 failed (rate_limited), another follows
  -> 200, a stream of 10 events, whole
POST /ask/quickly, while the API is slow
  -> 504, without a word
the API saw: 529 529 200 429 200 0
",
    );
}

#[test]
fn hyper_service() {
    prints(
        "hyper_service",
        "\
a stream, while the API breaks two of them before their content
  retry: attempt 1 failed (overloaded), another follows
  retry: attempt 2 failed (truncated), another follows
  -> 200, a stream of 10 events, whole
a message, while the API limits the rate once
  header-budget: the API asks for a pause
  retry: attempt 1 failed (rate_limited), another follows
  -> 200, a message of 16 tokens
a message, while the money is spent: waiting does not help
  retry: attempt 1 was the last (not_retryable)
  -> 429, rate_limit_error from the API
the same once more: the API is not asked again so soon
  -> 402, billing_error from circuit-breaker
the API saw: 200 200 200 429 200 429
a message with another key, while there is no API at all
  retry: attempt 1 failed (transport), another follows
  retry: attempt 2 failed (transport), another follows
  retry: attempt 3 failed (transport), another follows
  retry: attempt 4 failed (transport), another follows
  retry: attempt 5 was the last (attempts)
  -> 502, without a word
",
    );
}

#[test]
fn reqwest_client() {
    prints(
        "reqwest_client",
        "\
reqwest::Client, while the API is overloaded twice
  retry: attempt 1 failed (overloaded), another follows
  retry: attempt 2 failed (overloaded), another follows
  -> 200, a message of 16 tokens, from /v1/messages
the same client, a stream, while the API limits the rate once
  header-budget: the API asks for a pause
  retry: attempt 1 failed (rate_limited), another follows
  -> 200, a stream of 10 events, whole, from /v1/messages
the same client, a wrong URL: an error of reqwest's own, and no second attempt
  -> error of the builder: true
ClientWithMiddleware, while a connection breaks
  middleware: an attempt
  retry: attempt 1 failed (transport), another follows
  middleware: an attempt
  -> 200, a stream of 10 events, whole, from /v1/messages
the API saw: 529 529 200 429 200 0 200
",
    );
}

#[test]
fn reqwest_middleware() {
    prints(
        "reqwest_middleware",
        "\
a message, while the API is overloaded twice
  retry: attempt 1 failed (overloaded), another follows
  retry: attempt 2 failed (overloaded), another follows
  -> 200, a message of 16 tokens: fine
a stream, while the API breaks one before its content
  retry: attempt 1 failed (overloaded), another follows
  -> 200, a stream of 10 events, whole: fine
a message with a deadline in 5 s, while the API asks to wait for 30 s
  header-budget: the API asks for a pause
  retry: attempt 1 was the last (deadline)
  -> 429, rate_limit_error from the API: rate_limited
another with such a deadline: the layers know, and do not ask the API
  -> 504, timeout_error from token-bucket: timeout
the API saw: 529 529 200 200 200 429
",
    );
}

#[test]
fn custom_pipeline() {
    prints(
        "custom_pipeline",
        "\
a stream, while the API is overloaded and then slow
  trace: POST
  retry: attempt 1 failed (overloaded), another follows
  retry: attempt 2 failed (timeout), another follows
  trace: 200
  -> 200, a stream of 10 events, whole
three at once
  trace: POST
  trace: POST
  trace: POST
  trace: 200
  trace: 200
  -> 200, a message of 16 tokens
  -> 200, a message of 16 tokens
  -> shed: two are enough
the API saw: 529 0 200 200 200
pools of limits learned: 1
",
    );
}

#[test]
fn own_policy() {
    prints(
        "own_policy",
        "-> 200\n-> 200\n-> 200\n-> 200\n-> 200\n-> 200\npermits free at the end: 2\n",
    );
}

#[test]
fn prompt_cache() {
    let output = output("prompt_cache");
    let lines: Vec<&str> = output.lines().collect();
    let saved = |line: &str| {
        let (_, percent) = line.rsplit_once('(').expect("a share");
        percent
            .trim_end_matches(" %)")
            .parse::<u32>()
            .expect("a number")
    };
    let [_, conversations, documents, single] = lines[..] else {
        panic!("{output}");
    };
    assert!(saved(conversations) >= 60, "{output}");
    assert!(saved(documents) >= 70, "{output}");
    assert_eq!(saved(single), 0, "{output}");
}

#[test]
fn batches() {
    let output = output("batches");
    assert!(output.contains("answered by batches: 200\n"), "{output}");
    assert!(
        output.contains("batches created in both runs: 1\n"),
        "{output}"
    );
}

#[test]
fn three_clouds() {
    let output = output("three_clouds");
    assert!(output.starts_with("216 requests, 0 failed\n"), "{output}");
    // Each cloud answers a part, one has an outage, and not all conversations leave their cache.
    for host in ["api.anthropic.com", "bedrock-runtime", "aiplatform"] {
        let mut lines = output.lines();
        let line = lines.find(|line| line.starts_with(host)).expect("a row");
        let answered = line.split_whitespace().nth(2).expect("a column");
        assert!(answered.parse::<u32>().expect("a number") > 0, "{output}");
    }
    let last = output.lines().last().expect("a line");
    assert!(
        last.ends_with("of 12 stayed where their prompt cache is") && !last.starts_with('0'),
        "{output}"
    );
}
