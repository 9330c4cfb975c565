//! The content of the events at the end of attempts and calls.

use std::io;

use tower_claude::recommended;
use tower_claude_core::event::{Ending, Event};
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits};
use tower_claude_retry::{RetryLayer, Timeouts};
use tower_claude_tests::{
    HAIKU,
    api::{Api, Piece, Reply},
    prompt, request_with,
};
use tower_claude_token_bucket::TokenBucketLayer;
use tower_layer::Layer;

use crate::{
    common::{EventLog, SECOND, SONNET, request, rpm, send},
    stacks::client,
};

/// Returns the line of an end, with all that a metrics observer needs.
fn line_of(event: &Event<'_>) -> Option<String> {
    Some(match event {
        Event::AttemptEnded(end) => format!(
            "attempt {} {} {} {:?} {:?} wait {:?} first {:?} took {:?} in {:?} out {:?} id {} {:?}",
            end.attempt,
            end.ending.as_str(),
            end.class.kind.as_str(),
            end.model.unwrap_or("-"),
            end.status.map(|status| status.as_u16()),
            end.wait,
            end.first_content,
            end.duration,
            end.usage.input_tokens,
            end.usage.output_tokens,
            end.request_id.is_some(),
            end.cause.unwrap_or("-"),
        ),
        Event::CallEnded(end) => format!(
            "call {} {} {:?} of {:?} {:?} in {} wait {:?} backoff {:?} first {:?} took {:?} in {:?} \
             out {:?} id {} by {} {:?} {}",
            end.ending.as_str(),
            end.class.kind.as_str(),
            end.model.unwrap_or("-"),
            end.asked.unwrap_or("-"),
            end.status.map(|status| status.as_u16()),
            end.attempts,
            end.wait,
            end.backoff,
            end.first_content,
            end.duration,
            end.usage.input_tokens,
            end.usage.output_tokens,
            end.request_id.is_some(),
            end.rejection.map_or("-", |rejection| rejection.by),
            end.cause.unwrap_or("-"),
            if end.is_ordinary() {
                "ordinary"
            } else {
                "notable"
            },
        ),
        _ => return None,
    })
}

fn log() -> EventLog {
    EventLog::new(line_of)
}

fn fake() -> FakeClaude {
    FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .time_to_first_token(2 * SECOND)
        .tokens_per_second(10.0)
        .output_tokens(50)
        .build()
}

#[tokio::test(start_paused = true)]
async fn answer_reports_its_times_and_its_usage() {
    for (stream, first) in [(false, "6.9s"), (true, "2s")] {
        let (fake, log) = (fake(), log());
        let service = recommended()
            .with_observer(log.clone())
            .layer(client(&fake));
        send(&service, request(SONNET, stream))
            .await
            .expect("an answer");
        let seen = &fake.log()[0];
        let (input, output) = (seen.charged_input, seen.charged_output);
        let usage = format!("in Some({input}) out Some({output}) id true");
        let lines = log.lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert_eq!(
            lines[0],
            format!(
                "attempt 1 answered success {SONNET:?} Some(200) wait 0ns first Some({first}) \
                 took 6.9s {usage} \"-\""
            ),
        );
        assert_eq!(
            lines[1],
            format!(
                "call answered success {SONNET:?} of {SONNET:?} Some(200) in 1 wait 0ns backoff 0ns \
                 first Some({first}) took 6.9s {usage} by - \"-\" ordinary"
            ),
        );
    }
}

#[tokio::test(start_paused = true)]
async fn transport_error_reports_its_cause() {
    let api = Api::new([
        Reply::broken(io::ErrorKind::ConnectionRefused),
        Reply::broken(io::ErrorKind::ConnectionReset),
    ]);
    let log = log();
    let layer = RetryLayer::new().with_max_attempts(2.try_into().expect("not zero"));
    let service = layer.with_observer(log.clone()).layer(api);
    send(&service, request(SONNET, false))
        .await
        .expect_err("a reset");
    let lines = log.lines();
    assert!(
        lines[0].ends_with("id false \"connection refused\""),
        "{lines:?}"
    );
    assert!(
        lines[1].ends_with("id false \"connection reset\""),
        "{lines:?}"
    );
    assert!(lines[2].starts_with("call failed transport"), "{lines:?}");
    assert!(
        lines[2].ends_with("by - \"connection reset\" notable"),
        "{lines:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn retry_and_gave_up_report_the_model_the_id_and_the_cause() {
    fn line_of(event: &Event<'_>) -> Option<String> {
        let (what, model, details) = match event {
            Event::Retry { model, details, .. } => ("retry", model, details),
            Event::GaveUp { model, details, .. } => ("gave up", model, details),
            _ => return None,
        };
        let (status, id) = (
            details.status.map(|status| status.as_u16()),
            details.request_id,
        );
        Some(format!(
            "{what} {model:?} {status:?} {id:?} {:?}",
            details.cause
        ))
    }
    let log = EventLog::new(line_of);
    let api = Api::new([
        Reply::overloaded().header("request-id", "req_1"),
        Reply::broken(io::ErrorKind::ConnectionReset),
        Reply::overloaded().header("request-id", "req_3"),
    ]);
    let layer = RetryLayer::new().with_max_attempts(3.try_into().expect("not zero"));
    let service = layer.with_observer(log.clone()).layer(api);
    send(&service, request(SONNET, false)).await.expect("a 529");
    assert_eq!(
        log.lines(),
        [
            format!("retry Some({SONNET:?}) Some(529) Some(\"req_1\") None"),
            format!("retry Some({SONNET:?}) None None Some(\"connection reset\")"),
            format!("gave up Some({SONNET:?}) Some(529) Some(\"req_3\") None"),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn fallback_reports_the_model_of_each_attempt() {
    let (fake, log) = (fake(), log());
    fake.inject(Fault::SpendCap);
    fake.inject(Fault::Overloaded);
    let once = RetryLayer::new().with_max_attempts(1.try_into().expect("not zero"));
    let stack = recommended().with_retry(once).with_fallback([HAIKU]);
    let service = stack.with_observer(log.clone()).layer(client(&fake));
    fake.clear_injected();
    fake.inject(Fault::Overloaded);
    send(&service, request(SONNET, false))
        .await
        .expect("an answer");
    let lines = log.lines();
    assert!(
        lines[0].starts_with(&format!("attempt 1 failed overloaded {SONNET:?} Some(529)")),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with(&format!("attempt 2 answered success {HAIKU:?} Some(200)")),
        "{lines:?}"
    );
    assert!(
        lines[2].starts_with(&format!(
            "call answered success {HAIKU:?} of {SONNET:?} Some(200) in 2"
        )),
        "{lines:?}"
    );
    assert!(lines[2].ends_with("notable"), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn retried_call_reports_the_sums_of_its_attempts() {
    let (fake, log) = (fake(), log());
    fake.inject(Fault::RateLimited {
        retry_after: 3 * SECOND,
    });
    let service = recommended()
        .with_observer(log.clone())
        .layer(client(&fake));
    send(&service, request(SONNET, true))
        .await
        .expect("an answer");
    let lines = log.lines();
    // The limiter has paused, so that its queue has the wait and not the delay.
    assert!(!lines[1].contains("wait 0ns"), "{lines:?}");
    assert!(lines[1].contains(" first Some(2s)"), "{lines:?}");
    assert!(lines[2].contains(" in 2 wait "), "{lines:?}");
    assert!(!lines[2].contains(" wait 0ns"), "{lines:?}");
    assert!(lines[2].contains(" backoff 0ns"), "{lines:?}");
    assert!(!lines[2].contains(" first Some(2s)"), "{lines:?}");

    let _ = log.take();
    fake.inject(Fault::Overloaded);
    send(&service, request(SONNET, true))
        .await
        .expect("an answer");
    let lines = log.lines();
    assert!(!lines[2].contains("backoff 0ns"), "{lines:?}");
    assert!(lines[2].contains("wait 0ns"), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn caller_that_drops_a_call_is_reported() {
    // Before the head, and in the middle of the body.
    for (patience, first) in [(SECOND, "None"), (3 * SECOND, "Some(2s)")] {
        let (fake, log) = (fake(), log());
        let service = recommended()
            .with_observer(log.clone())
            .layer(client(&fake));
        let call = send(&service, request(SONNET, true));
        tokio::time::timeout(patience, call)
            .await
            .expect_err("dropped");
        let lines = log.lines();
        let attempt = format!("attempt 1 dropped success {SONNET:?}");
        assert!(lines[0].starts_with(&attempt), "{lines:?}");
        let took = format!("first {first} took {patience:?}");
        assert!(
            lines[0].contains(&took) && lines[1].contains(&took),
            "{lines:?}"
        );
        assert!(lines[1].starts_with("call dropped success"), "{lines:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn call_that_is_dropped_in_a_queue_reports_its_wait() {
    let log = EventLog::new(|event| match event {
        Event::Abandoned {
            position,
            wait,
            because,
            ..
        } => Some(format!("abandoned {position:?} {wait:?} {because}")),
        Event::CallEnded(_) | Event::AttemptEnded(_) => line_of(event),
        _ => None,
    });
    let bucket = TokenBucketLayer::new(rpm(1)).with_max_wait(100 * SECOND);
    let stack = recommended().with_bucket(bucket).with_observer(log.clone());
    let service = stack.layer(client(&fake()));
    send(&service, request(SONNET, false))
        .await
        .expect("an answer");
    let _ = log.take();
    let call = send(&service, request(SONNET, false));
    tokio::time::timeout(12 * SECOND, call)
        .await
        .expect_err("dropped");
    let lines = log.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0], "abandoned Some(1) 12s dropped");
    assert!(
        lines[1].starts_with(&format!(
            "call dropped success \"-\" of {SONNET:?} None in 0 wait 12s backoff 0ns first None took 12s"
        )),
        "{lines:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn timer_that_ends_a_wait_in_a_queue_is_reported() {
    let log = EventLog::new(|event| match event {
        Event::Abandoned { wait, because, .. } => Some(format!("abandoned {wait:?} {because}")),
        Event::CallEnded(end) => {
            let by = end.rejection.map_or("-", |rejection| rejection.by);
            Some(format!(
                "call {} by {by} in {}",
                end.class.kind.as_str(),
                end.attempts
            ))
        }
        Event::AttemptEnded(_) => Some("attempt".to_owned()),
        _ => None,
    });
    let bucket = TokenBucketLayer::new(rpm(1)).with_max_wait(100 * SECOND);
    let timeouts = Timeouts::default().with_head(Some(8 * SECOND));
    let retry = RetryLayer::new().with_timeouts(timeouts);
    let retry = retry.with_max_attempts(1.try_into().expect("not zero"));
    // In one driver, and layer by layer.
    let one = recommended()
        .with_bucket(bucket.clone())
        .with_retry(retry.clone());
    let one = one.with_observer(log.clone()).layer(client(&fake()));
    let bucket = TokenBucketLayer::new(rpm(1)).with_max_wait(100 * SECOND);
    let bucket = bucket.with_observer(log.clone()).layer(client(&fake()));
    let two = retry.with_observer(log.clone()).layer(bucket);
    let expected = ["abandoned 8s timeout", "call timeout by retry in 0"];
    send(&one, request(SONNET, false)).await.expect("an answer");
    let _ = log.take();
    send(&one, request(SONNET, false)).await.expect("a 504");
    assert_eq!(log.take(), expected);
    send(&two, request(SONNET, false)).await.expect("an answer");
    let _ = log.take();
    send(&two, request(SONNET, false)).await.expect("a 504");
    assert_eq!(log.take(), expected);
}

#[tokio::test(start_paused = true)]
async fn refused_call_reports_the_layer_that_refused_it() {
    let log = log();
    let bucket = TokenBucketLayer::new(rpm(1)).with_max_wait(SECOND);
    let stack = recommended().with_bucket(bucket).with_observer(log.clone());
    let service = stack.layer(client(&fake()));
    send(&service, request(SONNET, false))
        .await
        .expect("an answer");
    let _ = log.take();
    send(&service, request(SONNET, false)).await.expect("a 429");
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let start = format!("call failed rate_limited \"-\" of {SONNET:?} Some(429) in 0 wait 0ns");
    assert!(lines[0].starts_with(&start), "{lines:?}");
    assert!(lines[0].contains("by token-bucket"), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn timeout_of_an_attempt_reports_a_failure() {
    let log = log();
    let layer = RetryLayer::new().with_max_attempts(1.try_into().expect("not zero"));
    let service = layer
        .with_observer(log.clone())
        .layer(Api::new([Reply::never()]));
    send(&service, request(SONNET, false)).await.expect("a 504");
    let lines = log.lines();
    assert!(
        lines[0].starts_with("attempt 1 failed timeout"),
        "{lines:?}"
    );
    assert!(lines[1].starts_with("call failed timeout"), "{lines:?}");
    assert!(lines[1].contains("by retry"), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn broken_stream_reports_model_scope_and_id() {
    let log = EventLog::new(|event| match event {
        Event::Broken {
            model,
            class,
            details,
            ..
        } => Some(format!(
            "broken {} {model:?} {:?} {}",
            class.kind.as_str(),
            details.scope.map(ToString::to_string),
            details.request_id.is_some()
        )),
        Event::CallEnded(end) => {
            assert_eq!(end.ending, Ending::Broken);
            Some(format!("call {}", end.class.kind.as_str()))
        }
        Event::AttemptEnded(end) => {
            assert_eq!(end.ending, Ending::Broken);
            Some(format!("attempt {}", end.class.kind.as_str()))
        }
        _ => None,
    });
    let after_tokens = 4;
    for (fault, kind) in [
        (Fault::Cut { after_tokens }, "transport"),
        (Fault::Truncated { after_tokens }, "truncated"),
        (Fault::ErrorMidStream { after_tokens }, "overloaded"),
        (
            Fault::Stall {
                after_tokens,
                duration: 700 * SECOND,
            },
            "timeout",
        ),
    ] {
        let fake = fake();
        fake.inject(fault);
        let service = recommended()
            .with_observer(log.clone())
            .layer(client(&fake));
        send(&service, request(SONNET, true)).await.expect("a head");
        assert_eq!(
            log.take(),
            [
                format!("attempt {kind}"),
                format!("broken {kind} Some({SONNET:?}) Some(\"messages/sonnet-5.5\") true"),
                format!("call {kind}"),
            ]
        );
    }
}

/// The content and the failure arrive in one frame, before the response is handed to the caller.
#[tokio::test(start_paused = true)]
async fn stream_that_arrives_whole_and_broken_is_reported_as_broken() {
    let stream = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\n\
                  event: content_block_start\ndata: {\"type\":\"content_block_start\"}\n\n\
                  event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n";
    let log = EventLog::new(|event| match event {
        Event::Broken { class, .. } => Some(format!("broken {}", class.kind.as_str())),
        Event::CallEnded(end) => Some(format!("call {}", end.ending.as_str())),
        _ => None,
    });
    let layer = RetryLayer::new();
    let handle = layer.handle();
    let api = Api::new([Reply::stream([Piece::data(stream)])]);
    let service = layer.with_observer(log.clone()).layer(api);
    send(&service, request(SONNET, true)).await.expect("a head");
    assert_eq!(log.lines(), ["broken overloaded", "call broken"]);
    assert_eq!(handle.snapshot().broken, 1);
}

#[tokio::test(start_paused = true)]
async fn error_of_the_request_is_no_incident_but_its_end_is_notable() {
    let log = log();
    let service = recommended().with_observer(log.clone());
    let service = service.layer(client(&fake()));
    let request = request_with(SONNET, r#","max_tokens":"many""#);
    let seen = send(&service, request).await.expect("a 400");
    assert_eq!(seen.status, 400, "{}", prompt(SONNET, false));
    let lines = log.lines();
    assert!(
        lines[0].starts_with("attempt 1 failed bad_request"),
        "{lines:?}"
    );
    assert!(lines[1].starts_with("call failed bad_request"), "{lines:?}");
    assert!(lines[1].ends_with("notable"), "{lines:?}");
}
