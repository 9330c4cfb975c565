//! The metrics of the whole stack equal the ledger of the server.

use std::{collections::BTreeMap, time::Duration};

use http::HeaderValue;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tower_claude::{
    metrics::{
        MetricsObserver,
        facade::{Label, with_local_recorder},
    },
    recommended,
};
use tower_claude_fake_claude::{Attempt, FakeClaude, Fault};
use tower_claude_limiter::{Limiter, record_metrics};
use tower_layer::Layer;

use crate::{
    common::{SECOND, SONNET, quiet, request, send},
    stacks::client,
};

/// Returns the series as `name{value,…}`. Histograms have the number of their samples.
fn series(recorder: &DebuggingRecorder) -> BTreeMap<String, f64> {
    let series = recorder.snapshotter().snapshot().into_vec();
    let series = series.into_iter().map(|(key, _, _, value)| {
        let key = key.key();
        let labels: Vec<&str> = key.labels().map(Label::value).collect();
        let value = match value {
            DebugValue::Counter(count) => count as f64,
            DebugValue::Gauge(value) => value.0,
            DebugValue::Histogram(samples) => samples.len() as f64,
        };
        (format!("{}{{{}}}", key.name(), labels.join(",")), value)
    });
    series.collect()
}

/// Runs this with a recorder of its own and paused time, and returns the series.
fn recorded<T>(run: impl AsyncFnOnce() -> T) -> (T, BTreeMap<String, f64>) {
    let recorder = DebuggingRecorder::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("the runtime starts");
    let result = with_local_recorder(&recorder, || runtime.block_on(run()));
    (result, series(&recorder))
}

/// Sends requests of each form, with cache reads and writes, and the faults that are injected.
async fn send_some(fake: &FakeClaude) {
    let metrics = MetricsObserver::new();
    let layer = recommended().with_observer(metrics.clone());
    let limiter = layer.bucket().limiter();
    let service = layer.layer(client(fake));
    for number in 0..12 {
        let mut request = request(SONNET, number % 2 == 0);
        let headers = request.headers_mut();
        for (name, value) in [
            ("x-fake-input-tokens", "5000"),
            ("x-fake-cache-read-tokens", "3000"),
            ("x-fake-cache-creation-tokens", "1000"),
            ("x-fake-output-tokens", "7"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let seen = send(&service, request).await.expect("it is answered");
        assert_eq!(seen.status, 200);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    record_metrics(&metrics, &limiter.snapshot());
}

#[test]
fn usage_is_counted_once_and_equals_the_servers_ledger() {
    let fake = quiet();
    fake.inject(Fault::Overloaded);
    fake.inject(Fault::RateLimited {
        retry_after: SECOND,
    });
    fake.inject(Fault::ErrorBeforeContent);
    let ((), series) = recorded(async || send_some(&fake).await);
    let log = fake.log();
    assert_eq!(log.len(), 15, "12 answers and 3 failures");

    let scope = "messages/sonnet-5.5";
    let charged = |of: &str| series[&format!("tower_claude_charged_total{{{scope},{of}}}")];
    let sum = |of: fn(&Attempt) -> u64| log.iter().map(of).sum::<u64>() as f64;
    assert_eq!(charged("requests"), log.len() as f64);
    assert_eq!(
        charged("input_tokens"),
        sum(|attempt| attempt.charged_input)
    );
    // The stream that failed before its content had begun with its input.
    assert_eq!(charged("input_tokens"), 13.0 * 2_000.0, "no cache reads");
    // Its first event claims one token of output, which was never produced.
    let produced = sum(|attempt| attempt.charged_output);
    assert_eq!(charged("output_tokens"), produced + 1.0);

    let responses =
        |class: &str| series[&format!("tower_claude_responses_total{{{scope},{class}}}")];
    assert_eq!(responses("success"), 12.0);
    assert_eq!(responses("rate_limited"), 1.0);
    assert_eq!(
        responses("overloaded") + responses("server_error"),
        2.0,
        "{series:#?}"
    );
    assert_eq!(responses("unauthorized"), 0.0, "present before the first");

    // Calls are counted with the usage of all their attempts, and their input includes cache reads.
    let calls = format!("chat,anthropic,{SONNET},{SONNET}");
    let usage = |of: &str| series[&format!("gen_ai.client.inference.usage.{of}{{{calls}}}")];
    assert_eq!(usage("input_tokens"), 13.0 * 5_000.0);
    assert_eq!(usage("cache_read.input_tokens"), 13.0 * 3_000.0);
    assert_eq!(usage("cache_write.input_tokens"), 13.0 * 1_000.0);
    assert_eq!(usage("output_tokens"), 12.0 * 7.0 + 1.0);
    let duration = format!("gen_ai.client.inference.duration{{{calls},}}");
    assert_eq!(series[&duration], 12.0);
    let retries: f64 = series
        .iter()
        .filter(|(name, _)| name.starts_with("tower_claude_retries_total"))
        .map(|(_, count)| count)
        .sum();
    assert_eq!(retries, 3.0);
}

#[test]
fn limiter_state_and_headers_are_gauges() {
    let fake = quiet();
    let ((), series) = recorded(async || send_some(&fake).await);
    let of = |name: &str| series[&format!("tower_claude_{name}")];
    let scope = "messages/sonnet-5.5";
    assert_eq!(of(&format!("in_flight{{{scope}}}")), 0.0);
    assert_eq!(of(&format!("paused{{{scope}}}")), 0.0);
    for priority in ["batch", "normal", "interactive"] {
        assert_eq!(of(&format!("queue_length{{{scope},{priority}}}")), 0.0);
    }
    let limit = of(&format!("limit_per_minute{{{scope},input_tokens}}"));
    assert_eq!(of(&format!("capacity{{{scope},input_tokens}}")), limit);
    assert!(of(&format!("level{{{scope},input_tokens}}")) <= limit);
    assert!(of(&format!("remaining{{{scope},input_tokens}}")) <= limit);
    assert_eq!(of(&format!("wait_seconds{{{scope},normal}}")), 12.0);
}
