//! Logs with a known cause: the fake API has an incident, or its limits do not fit the traffic, and
//! the diagnosis of the log of its clients must name it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, sleep, timeout};
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits, Incident, Ramp};
use tower_claude_planner::{
    diagnose::{Cause, Diagnosis, diagnose},
    limits::LimitTable,
    record::{Record, RecordedLimit, RecordedLimits},
    time::Time,
    traffic::TrafficBuilder,
};
use tower_claude_wire::{ApiError, Gauge, RateLimits, Usage, request_id};
use tower_service::Service;

/// The start of all logs.
const START: i64 = 1_795_857_000_000_000;

/// The behaviour of a client.
#[derive(Clone, Copy)]
struct Load {
    /// The number of requests.
    count: u32,
    /// The time between two requests, and how many come at once.
    every: Duration,
    at_once: u32,
    input: u64,
    output: u64,
    /// The attempts of a call, without a pause between them.
    attempts: u32,
    /// The client gives up after this time.
    patience: Duration,
    key: &'static str,
    has_headers: bool,
    names_concurrency: bool,
}

const LOAD: Load = Load {
    count: 60,
    every: Duration::from_secs(1),
    at_once: 1,
    input: 100,
    output: 10,
    attempts: 1,
    patience: Duration::from_secs(600),
    key: "good",
    has_headers: true,
    names_concurrency: true,
};

/// Sends the load and returns the log of the client.
async fn run(fake: &FakeClaude, load: Load) -> Vec<Record> {
    let start = Instant::now();
    let mut calls = Vec::new();
    for number in 0..load.count {
        let at = load.every * (number / load.at_once);
        let fake = fake.clone();
        calls.push(tokio::spawn(async move {
            sleep(at).await;
            let mut records = Vec::new();
            for attempt in 1..=load.attempts {
                let mut record = send(&fake, start, load).await;
                record.call = Some(format!("{number}"));
                record.attempt = Some(attempt);
                let is_done = record.status == Some(200);
                records.push(record);
                if is_done {
                    break;
                }
            }
            records
        }));
    }
    let mut log = Vec::new();
    for call in calls {
        log.extend(call.await.unwrap());
    }
    log
}

async fn send(fake: &FakeClaude, start: Instant, load: Load) -> Record {
    let now = || Time(START + start.elapsed().as_micros() as i64);
    let mut record = Record::default();
    record.t_start = now();
    record.model = Some("claude-sonnet-5-5".to_owned());
    record.key = Some(load.key.to_owned());
    match timeout(load.patience, answer(fake, load)).await {
        Err(_) => record.class = Some("timeout".to_owned()),
        Ok(None) => record.class = Some("transport".to_owned()),
        Ok(Some((status, headers, body))) => {
            record.status = Some(status.as_u16());
            record.request_id = request_id(&headers).map(str::to_owned);
            if load.has_headers {
                record.limits = recorded(&headers);
            }
            if let Some(error) = ApiError::parse(&body) {
                let message = error.message.as_str();
                // As the classifier of the layers reads it.
                if message.starts_with("You have reached your specified API usage limits") {
                    record.class = Some("spend_limit".to_owned());
                }
                if load.names_concurrency && message.contains("concurrent connections") {
                    record.because = Some("concurrency".to_owned());
                }
                record.error_type = Some(error.kind);
                record.error_code = error.error_code;
            } else {
                let usage = usage(&body);
                record.input = usage.input_tokens;
                record.output = usage.output_tokens;
            }
        }
    }
    record.t_end = Some(now());
    record
}

async fn answer(fake: &FakeClaude, load: Load) -> Option<(StatusCode, HeaderMap, Bytes)> {
    let body = r#"{"model":"claude-sonnet-5-5","max_tokens":4000,"messages":[{"role":"user","content":"Hi"}]}"#;
    let request = Request::post("/v1/messages")
        .header("x-api-key", load.key)
        .header("anthropic-version", "2023-06-01")
        .header("x-fake-input-tokens", load.input)
        .header("x-fake-output-tokens", load.output)
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .unwrap();
    let (parts, body) = fake.clone().call(request).await.ok()?.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    Some((parts.status, parts.headers, body))
}

fn usage(body: &[u8]) -> Usage {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    let mut usage = Usage::default();
    usage.input_tokens = body["usage"]["input_tokens"].as_u64();
    usage.output_tokens = body["usage"]["output_tokens"].as_u64();
    usage
}

fn recorded(headers: &HeaderMap) -> Option<RecordedLimits> {
    let shown = RateLimits::from_headers(headers);
    let limit = |gauge: &Gauge| {
        let mut limit = RecordedLimit::default();
        limit.limit = gauge.limit;
        limit.remaining = gauge.remaining;
        Some(limit)
    };
    let mut limits = RecordedLimits::default();
    limits.requests = limit(&shown.requests);
    limits.input_tokens = limit(&shown.input_tokens);
    limits.output_tokens = limit(&shown.output_tokens);
    (!shown.is_empty()).then_some(limits)
}

fn diagnosis(records: &[Record], table: Option<&LimitTable>) -> Diagnosis {
    let mut builder = TrafficBuilder::new(None);
    for (line, record) in (1..).zip(records) {
        // Through the normal form, as a log would be read.
        let line_of_log = serde_json::to_string(record).unwrap();
        builder.add(line, &serde_json::from_str(&line_of_log).unwrap());
    }
    diagnose(&builder.build().unwrap(), table, None).unwrap()
}

/// Limits of which only one can bind.
fn limits(requests: u64, input: u64, output: u64) -> GroupLimits {
    GroupLimits::new()
        .with_requests_per_minute(requests)
        .with_input_tokens_per_minute(input)
        .with_output_tokens_per_minute(output)
}

const MANY: u64 = 10_000_000;

fn fake(limits: GroupLimits) -> FakeClaude {
    FakeClaude::builder()
        .limits(limits)
        .time_to_first_token(Duration::from_millis(200))
        .build()
}

/// Returns a fake with room, and a fault for a while.
fn incident(fault: Fault, probability: f64) -> FakeClaude {
    let incident = Incident::new(Duration::from_secs(20), Duration::from_secs(40), fault);
    FakeClaude::builder()
        .limits(limits(10_000, MANY, MANY))
        .incident(incident.with_probability(probability))
        .seed(7)
        .build()
}

#[track_caller]
fn assert_cause(name: &str, found: &Diagnosis, cause: Cause) {
    let first = found
        .findings
        .first()
        .unwrap_or_else(|| panic!("{name}: nothing found"));
    assert_eq!(first.cause, cause, "{name}:\n{}", found.text());
    assert!(first.share > 0.8, "{name}:\n{}", found.text());
    assert!(found.text().lines().count() <= 40, "{name}");
}

#[tokio::test(start_paused = true)]
async fn incident_of_the_server_is_the_cause() {
    let forbidden = Fault::Custom {
        status: StatusCode::FORBIDDEN,
        headers: Vec::new(),
        body: Bytes::from_static(
            br#"{"type":"error","error":{"type":"permission_error","message":"no"}}"#,
        ),
    };
    let ramp = Fault::Ramp {
        retry_after: Duration::from_secs(5),
    };
    let cases = [
        ("spend cap", Fault::SpendCap, 1.0, Cause::SpendLimit),
        (
            "own spend limit",
            Fault::OwnSpendLimit,
            1.0,
            Cause::SpendLimit,
        ),
        ("permission", forbidden, 1.0, Cause::Key),
        ("ramp fault", ramp, 1.0, Cause::Ramp),
        ("overload", Fault::Overloaded, 1.0, Cause::Overload),
        ("partial overload", Fault::Overloaded, 0.4, Cause::Overload),
        ("server error", Fault::ServerError, 1.0, Cause::ServerError),
        ("gateway timeout", Fault::Timeout504, 1.0, Cause::Network),
        ("reset", Fault::Reset, 1.0, Cause::Network),
    ];
    for (name, fault, probability, cause) in cases {
        let log = run(&incident(fault, probability), LOAD).await;
        assert_cause(name, &diagnosis(&log, None), cause);
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_key_is_the_cause() {
    let fake = FakeClaude::builder().api_key("good").build();
    let load = Load { key: "old", ..LOAD };
    assert_cause("key", &diagnosis(&run(&fake, load).await, None), Cause::Key);
}

#[tokio::test(start_paused = true)]
async fn sharp_rise_is_the_cause() {
    let ramp = Ramp {
        window: Duration::from_secs(10),
        growth_percent: 200,
        floor: 50,
    };
    let fake = fake(limits(10_000, MANY, MANY).with_ramp(ramp));
    let load = Load {
        count: 600,
        at_once: 30,
        ..LOAD
    };
    assert_cause(
        "ramp",
        &diagnosis(&run(&fake, load).await, None),
        Cause::Ramp,
    );
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_are_the_cause_with_and_without_the_reason_in_the_log() {
    for names_concurrency in [true, false] {
        let fake = fake(limits(10_000, MANY, MANY).with_concurrency(4));
        let load = Load {
            at_once: 6,
            every: Duration::from_secs(5),
            names_concurrency,
            ..LOAD
        };
        let found = diagnosis(&run(&fake, load).await, None);
        assert_cause("concurrency", &found, Cause::Concurrency);
    }
}

#[tokio::test(start_paused = true)]
async fn burst_is_the_cause_if_the_minute_has_room() {
    let second = Duration::from_secs(1);
    let requests = fake(limits(600, MANY, MANY).with_burst(second));
    let load = Load {
        count: 160,
        at_once: 20,
        every: Duration::from_secs(8),
        ..LOAD
    };
    let found = diagnosis(&run(&requests, load).await, None);
    assert_cause("burst of requests", &found, Cause::Burst);

    let input = fake(limits(10_000, 600_000, MANY).with_burst(10 * second));
    let load = Load {
        count: 60,
        at_once: 15,
        every: Duration::from_secs(30),
        input: 10_000,
        ..LOAD
    };
    let found = diagnosis(&run(&input, load).await, None);
    assert_cause("burst of input", &found, Cause::Burst);
}

/// Sends the load while another client, whose log is not known, sends its own.
async fn run_with_other(fake: &FakeClaude, own: Load, other: Load) -> Vec<Record> {
    let (log, _) = tokio::join!(run(fake, own), run(fake, other));
    log
}

#[tokio::test(start_paused = true)]
async fn another_consumer_is_the_cause_if_the_own_use_is_small() {
    let other = Load {
        count: 300,
        every: Duration::from_millis(200),
        ..LOAD
    };
    let log = run_with_other(&fake(limits(100, MANY, MANY)), LOAD, other).await;
    assert_cause(
        "requests of others",
        &diagnosis(&log, None),
        Cause::OtherConsumer,
    );

    let other = Load {
        input: 30_000,
        ..other
    };
    let log = run_with_other(&fake(limits(10_000, 1_000_000, MANY)), LOAD, other).await;
    assert_cause(
        "input of others",
        &diagnosis(&log, None),
        Cause::OtherConsumer,
    );
}

#[tokio::test(start_paused = true)]
async fn another_consumer_is_the_cause_without_headers_as_well() {
    let own = Load {
        has_headers: false,
        ..LOAD
    };
    let other = Load {
        count: 300,
        every: Duration::from_millis(200),
        ..LOAD
    };
    let log = run_with_other(&fake(limits(100, MANY, MANY)), own, other).await;
    let table = LimitTable::from_json("own", r#"{"sonnet-5.5":{"requests":100}}"#).unwrap();
    assert_cause(
        "no headers",
        &diagnosis(&log, Some(&table)),
        Cause::OtherConsumer,
    );
}

#[tokio::test(start_paused = true)]
async fn full_limit_is_the_cause_in_its_dimension() {
    let load = Load {
        count: 400,
        every: Duration::from_millis(300),
        ..LOAD
    };
    let log = run(&fake(limits(60, MANY, MANY)), load).await;
    assert_cause("requests", &diagnosis(&log, None), Cause::RequestsFull);

    let load = Load {
        input: 5_000,
        ..load
    };
    let log = run(&fake(limits(10_000, 300_000, MANY)), load).await;
    assert_cause("input", &diagnosis(&log, None), Cause::InputFull);

    let load = Load {
        input: 100,
        output: 1_000,
        ..load
    };
    let log = run(&fake(limits(10_000, MANY, 60_000)), load).await;
    assert_cause("output", &diagnosis(&log, None), Cause::OutputFull);
}

#[tokio::test(start_paused = true)]
async fn retries_are_the_cause_if_they_alone_fill_the_limit() {
    let fake = FakeClaude::builder()
        .limits(limits(100, MANY, MANY))
        .time_to_first_token(Duration::from_secs(3))
        .build();
    // Each attempt is given up before its answer and sent again at once.
    let load = Load {
        count: 60,
        every: Duration::from_secs(2),
        attempts: 8,
        patience: Duration::from_secs(1),
        ..LOAD
    };
    let found = diagnosis(&run(&fake, load).await, None);
    assert_cause("storm", &found, Cause::RetryStorm);
}

#[tokio::test(start_paused = true)]
async fn wait_of_the_own_limiter_has_the_cause_of_the_limit() {
    let fake = fake(limits(10_000, 300_000, MANY));
    let load = Load {
        count: 1,
        input: 5_000,
        ..LOAD
    };
    let start = Instant::now();
    let mut log = Vec::new();
    // Callers come every 400 ms, and the limit admits one each second.
    for number in 0..200_u32 {
        let arrival = Duration::from_millis(400) * number;
        let paced = Duration::from_secs(number.saturating_sub(58).into());
        let sent = arrival.max(paced);
        tokio::time::sleep_until(start + sent).await;
        let mut record = send(&fake, start, load).await;
        record.t_start = Time(record.t_start.0 - (sent - arrival).as_micros() as i64);
        record.wait = Some((sent - arrival).as_secs_f64());
        log.push(record);
    }
    let found = diagnosis(&log, None);
    assert!(found.slow > 20, "{}", found.text());
    assert_eq!(found.rejected, 0, "{}", found.text());
    assert_cause("own limiter", &found, Cause::InputFull);
}

#[tokio::test(start_paused = true)]
async fn time_selects_the_incident_and_traffic_without_failure_has_no_cause() {
    let log = run(&incident(Fault::Overloaded, 1.0), LOAD).await;
    let mut builder = TrafficBuilder::new(None);
    for record in &log {
        builder.add(1, record);
    }
    let traffic = builder.build().unwrap();
    let found = diagnose(&traffic, None, Some(Time(START + 30_000_000))).unwrap();
    assert_eq!(found.findings[0].cause, Cause::Overload);
    assert_eq!(found.findings[0].count, 20);
    let later = diagnose(&traffic, None, Some(Time(START + 3_600_000_000)));
    assert!(later.unwrap_err().contains("nothing is recorded"));

    let calm = run(&fake(limits(10_000, MANY, MANY)), LOAD).await;
    let found = diagnosis(&calm, None);
    assert!(found.findings.is_empty() && found.verdict.starts_with("no rejection"));
}
