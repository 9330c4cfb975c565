//! The dashboard in a real browser: what an engineer sees in an incident, by any means.

mod common;

use std::path::Path;

use common::{STREAM_REQUEST, TestGateway, config, send};
use http::Request;
use tower_claude_fake_claude::{FakeClaude, FakeServer, Fault, GroupLimits};
use tower_claude_tests::browser::{Browser, LOW_CONTRAST};

const TAB: char = '\u{E004}';
const ENTER: char = '\u{E007}';
const SPACE: char = ' ';

/// The requests per minute of the fake API.
const LIMIT: u64 = 20;

async fn start() -> (FakeClaude, FakeServer, TestGateway) {
    let limits = GroupLimits::new()
        .with_requests_per_minute(LIMIT)
        .with_output_tokens_per_minute(100_000);
    let fake = FakeClaude::builder()
        .limits(limits)
        .output_tokens(9)
        .build();
    let server = fake.serve().await.expect("it starts");
    let config = config(&format!(
        "[[upstreams]]\nname = \"fake\"\nurl = \"{}\"\nfallback = [\"claude-haiku-5-5\"]\n",
        server.url()
    ));
    (fake, server, TestGateway::new(config).await)
}

#[tokio::test]
async fn engineer_sees_the_binding_limit_and_the_incident() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let (fake, _server, mut gateway) = start().await;
    let url = format!("http://{}/dashboard", gateway.admin);
    browser.open(&url).await;
    browser
        .wait_for("#verdict-text", &["No requests in the last minute"])
        .await;

    // An overloaded API, hidden from the caller by a second attempt.
    fake.inject(Fault::Overloaded);
    for _ in 0..LIMIT - 6 {
        assert_eq!(send(gateway.message(), STREAM_REQUEST).await.status, 200);
    }
    browser.wait_for("#incidents", &["529", "req_"]).await;
    browser.wait_for("#rates", &["529 a minute\n1"]).await;
    let limits = &[
        "messages/sonnet-5.5",
        "requests",
        "binds first",
        "of 20 a minute",
    ];
    browser.wait_for("#scopes", limits).await;
    let binding = browser.text(".limit.binds").await;
    assert!(binding.starts_with("requests"), "{binding}");

    // More requests than the limit allows: the page names the limit, and the wait.
    let more: Vec<_> = (0..LIMIT)
        .map(|_| tokio::spawn(send(gateway.message(), STREAM_REQUEST)))
        .collect();
    let verdict = &[
        "requests of messages/sonnet-5.5 is used up",
        "a new request waits about",
    ];
    browser.wait_for("#verdict-text", verdict).await;
    browser
        .wait_for("#queue", &["normal", "messages/sonnet-5.5"])
        .await;
    browser.wait_for("#connection", &["live"]).await;

    // A call that nothing could save. The models of a request that was never sent have none.
    let invalid = send(gateway.message(), "{\"model\":\"claude-sonnet-5-5\"}").await;
    assert_eq!(invalid.status, 400);
    browser
        .wait_for("#incidents", &["a call failed", "400"])
        .await;

    every_reader_can_use(&browser).await;
    nothing_is_loaded_from_elsewhere(&browser, &url).await;
    for task in more {
        task.abort();
    }
    gateway.stop();
    gateway.ended().await;
    browser.wait_for("#connection", &["connection lost"]).await;
}

/// Checks widths, contrast, motion and keys.
async fn every_reader_can_use(browser: &Browser) {
    for scheme in ["light", "dark"] {
        browser.prefer(scheme, false).await;
        let low = browser.run(LOW_CONTRAST).await;
        assert_eq!(low, serde_json::json!([]), "{scheme}");
    }
    for width in [1_280, 390, 320] {
        browser.set_size(width, 800).await;
        let page = browser
            .run("return document.documentElement.scrollWidth")
            .await;
        assert_eq!(page.as_u64(), Some(width), "the page is wider");
    }
    let moves = "return getComputedStyle(document.querySelector('.bar i')).transitionDuration";
    assert_eq!(browser.run(moves).await, "0.6s");
    browser.prefer("light", true).await;
    assert_eq!(browser.run(moves).await, "0s");
    // Each level has a word and a shape besides its colour.
    let marks = "return [...document.querySelectorAll('#incidents .mark')].map((mark) => \
                 [mark.getAttribute('aria-label'), getComputedStyle(mark, '::before').content])";
    let marks = browser.run(marks).await;
    for mark in marks.as_array().unwrap() {
        let is_named = mark[0] == "warning" || mark[0] == "problem" || mark[0] == "good";
        assert!(is_named && mark[1] != "none", "{mark}");
    }
    let focused = "return document.activeElement.id || document.activeElement.className";
    browser.press(&[TAB]).await;
    assert_eq!(browser.run(focused).await, "skip");
    browser.press(&[TAB, SPACE]).await;
    assert_eq!(browser.run(focused).await, "pause");
    browser.wait_for("#connection", &["paused"]).await;
    let pressed = "return document.activeElement.getAttribute('aria-pressed')";
    assert_eq!(browser.run(pressed).await, "true");
    browser.press(&[ENTER]).await;
    browser.wait_for("#connection", &["live"]).await;
    // A request id is reached by key, and keeps the focus while the page changes.
    browser.press(&[TAB]).await;
    let key = "return document.activeElement.dataset.id";
    let id = browser.run(key).await;
    assert!(id.as_str().is_some_and(|id| id.starts_with("req_")), "{id}");
    let updates = "const before = performance.now(); return new Promise((done) => { \
                   const wait = setInterval(() => { if (performance.now() - before > 4500) { \
                   clearInterval(wait); done(document.activeElement.dataset.id); } }, 100); })";
    assert_eq!(browser.run(updates).await, id);
}

async fn nothing_is_loaded_from_elsewhere(browser: &Browser, url: &str) {
    let origin = url.trim_end_matches("/dashboard");
    let loaded = "return performance.getEntriesByType('resource').map((entry) => entry.name)";
    let loaded = browser.run(loaded).await;
    for resource in loaded.as_array().unwrap() {
        let resource = resource.as_str().unwrap();
        let is_own = resource.starts_with(origin) || resource.starts_with("data:");
        assert!(is_own, "{resource}");
    }
    assert_eq!(browser.log().await, Vec::<serde_json::Value>::new());
}

#[tokio::test]
async fn page_has_no_key_and_no_prompt() {
    let (fake, _server, gateway) = start().await;
    fake.inject(Fault::ServerError);
    let body = r#"{"model":"canary-model","max_tokens":5,"messages":[{"role":"user","content":"canary"}]}"#;
    for path in ["/v1/messages?canary=1", "/v1/canary"] {
        let request = gateway
            .request("POST", path)
            .header("x-api-key", "sk-ant-canary")
            .header("anthropic-version", "2023-06-01")
            .header("content-type", "application/json");
        send(request, body).await;
    }
    for _ in 0..3 {
        let url = format!("http://{}/dashboard/events", gateway.admin);
        let mut events = common::Live::new(Request::get(url), "").await;
        assert_eq!(events.headers["content-type"], "text/event-stream");
        events.read_to("\n\n").await;
        events.text.clear();
        events.read_to("\n\n").await;
        assert!(events.text.contains("\"verdict\""), "{}", events.text);
        assert!(!events.text.contains("canary"), "{}", events.text);
    }
}

#[tokio::test]
async fn page_is_at_the_admin_address_only_and_allows_nothing_from_elsewhere() {
    let (_fake, _server, gateway) = start().await;
    let page = send(
        Request::get(format!("http://{}/dashboard", gateway.admin)),
        "",
    )
    .await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    // The namespace of SVG is the only URL.
    let urls = page.text().matches("://").count();
    assert_eq!(urls, page.text().matches("://www.w3.org/2000/svg").count());
    let public = send(gateway.request("GET", "/dashboard"), "").await;
    assert_ne!(public.status, 200);
}

/// Takes the pictures for the documentation from a gateway that runs, for example the demo.
#[tokio::test]
#[ignore = "needs DASHBOARD_URL, the URL of a dashboard"]
async fn pictures_of_a_running_dashboard() {
    let url = std::env::var("DASHBOARD_URL").expect("DASHBOARD_URL is set");
    let browser = Browser::start().await.expect("a browser is installed");
    browser.open(&url).await;
    browser.wait_for("#connection", &["live"]).await;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    for (name, width, scheme) in [
        ("desktop-light", 1_280, "light"),
        ("desktop-dark", 1_280, "dark"),
        ("phone-light", 390, "light"),
        ("phone-dark", 390, "dark"),
    ] {
        browser.prefer(scheme, true).await;
        let path = docs.join(format!("dashboard-{name}.png"));
        browser.write_picture(width, u64::MAX, &path).await;
    }
}
