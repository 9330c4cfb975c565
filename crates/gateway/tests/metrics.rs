//! `/metrics` at the admin address, read as text and by a real Prometheus.

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{LONG, STREAM_REQUEST, TestGateway, config, prometheus::Prometheus, send};
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits};

/// A fake API on a port, and a gateway in front of it.
async fn start() -> (
    FakeClaude,
    tower_claude_fake_claude::FakeServer,
    TestGateway,
) {
    let limits = GroupLimits::new()
        .with_requests_per_minute(1_000)
        .with_input_tokens_per_minute(1_000_000)
        .with_output_tokens_per_minute(200_000);
    let fake = FakeClaude::builder()
        .limits(limits)
        .output_tokens(9)
        .build();
    let server = fake.serve().await.expect("it starts");
    let config = config(&format!(
        "[[upstreams]]\nname = \"fake\"\nurl = \"{}\"\n",
        server.url()
    ));
    (fake, server, TestGateway::new(config).await)
}

async fn scrape(gateway: &TestGateway) -> BTreeMap<String, f64> {
    let url = format!("http://{}/metrics", gateway.admin);
    let page = send(http::Request::get(url), "").await;
    assert_eq!(page.status, 200);
    let type_ = page.headers["content-type"].to_str().unwrap();
    assert!(type_.starts_with("text/plain"), "{type_}");
    let series = page.text().lines().filter(|line| !line.starts_with('#'));
    let series = series.filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    series.collect()
}

#[tokio::test]
async fn attempts_calls_and_limiter_state_are_shown() {
    let (fake, _server, gateway) = start().await;
    fake.inject(Fault::ServerError);
    for _ in 0..3 {
        assert_eq!(send(gateway.message(), STREAM_REQUEST).await.status, 200);
    }
    let series = scrape(&gateway).await;
    let of = |name: &str| {
        let value = series.get(name);
        *value.unwrap_or_else(|| panic!("{name} is not in {series:#?}"))
    };
    let scope = "scope=\"messages/sonnet-5.5\"";
    let responses = |class| {
        of(&format!(
            "tower_claude_responses_total{{{scope},class=\"{class}\"}}"
        ))
    };
    assert_eq!(responses("success"), 3.0);
    assert_eq!(responses("server_error"), 1.0);
    assert_eq!(responses("unauthorized"), 0.0);
    let output = format!("tower_claude_charged_total{{{scope},dimension=\"output_tokens\"}}");
    assert_eq!(of(&output), 27.0);
    let limit = format!("tower_claude_limit_per_minute{{{scope},dimension=\"input_tokens\"}}");
    assert_eq!(of(&limit), 1_000_000.0);
    assert_eq!(of(&format!("tower_claude_in_flight{{{scope}}}")), 0.0);
    let capacity = format!("tower_claude_capacity{{{scope},dimension=\"requests\"}}");
    assert_eq!(of(&capacity), 1_000.0);
    let calls = series
        .iter()
        .filter(|(name, _)| name.starts_with("gen_ai_client_inference_duration_count"));
    assert_eq!(calls.map(|(_, count)| count).sum::<f64>(), 3.0);
    let buckets = series
        .keys()
        .filter(|name| name.starts_with("gen_ai_client_inference_duration_bucket"));
    assert_eq!(buckets.count(), 15, "those of the convention, and infinity");
}

#[tokio::test]
async fn secrets_and_names_of_callers_are_in_no_series() {
    let (_fake, _server, gateway) = start().await;
    let mut count = 0;
    for junk in 0..200 {
        let body = format!(
            r#"{{"model":"canary-{junk}","max_tokens":5,"messages":[{{"role":"user","content":"canary"}}]}}"#
        );
        let mut request = gateway.request("POST", "/v1/messages");
        for (name, value) in [
            ("x-api-key", format!("sk-ant-canary-{junk}").as_str()),
            ("anthropic-version", "2023-06-01"),
            ("content-type", "application/json"),
        ] {
            request = request.header(name, value);
        }
        send(request, body).await;
        if junk == 20 {
            count = scrape(&gateway).await.len();
        }
    }
    let series = scrape(&gateway).await;
    assert_eq!(series.len(), count);
    let canary = series.keys().find(|name| name.contains("canary"));
    assert_eq!(canary, None);
}

#[tokio::test]
async fn prometheus_scrapes_the_gateway_and_evaluates_the_rules() {
    let (_fake, _server, gateway) = start().await;
    let Some(prometheus) = Prometheus::start(gateway.admin) else {
        return;
    };
    // Each of these needs two scrapes of counters that grow.
    let wanted = [
        "tower_claude_level",
        "scope_dimension:tower_claude_use:ratio1m",
        "scope:tower_claude_rate_limited:ratio2m",
        "histogram_quantile(0.95, rate(gen_ai_client_inference_duration_bucket[1m]))",
    ];
    let all_are_there = async {
        for expression in wanted {
            loop {
                assert_eq!(send(gateway.message(), STREAM_REQUEST).await.status, 200);
                if prometheus.count(expression).await.unwrap_or(0) > 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    };
    let done = tokio::time::timeout(3 * LONG, all_are_there).await;
    done.expect("all series are there");
    assert_eq!(
        prometheus.count("ALERTS{alertstate=\"firing\"}").await,
        Some(0)
    );
}
