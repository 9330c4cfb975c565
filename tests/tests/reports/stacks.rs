//! One call in stacks of every shape is reported once, and each of its attempts once.

use std::time::Duration;

use http::{Request, Response};
use tower::{Service, ServiceExt};
use tower_claude::recommended;
use tower_claude_circuit_breaker::CircuitBreakerLayer;
use tower_claude_core::{BoxError, RequestBody, event::Event};
use tower_claude_fake_claude::{FakeClaude, FakeError, Fault, GroupLimits};
use tower_claude_fallback_model::FallbackModelLayer;
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::Limits;
use tower_claude_retry::RetryLayer;
use tower_claude_tests::HAIKU;
use tower_claude_token_bucket::TokenBucketLayer;
use tower_layer::Layer;

use crate::common::{EventLog, SECOND, SONNET, request, send};

/// Returns the number of the events, as a line.
fn line_of(event: &Event<'_>) -> Option<String> {
    match event {
        Event::AttemptEnded(end) => Some(format!("attempt {}", end.attempt)),
        Event::CallEnded(end) => Some(format!("call {}", end.attempts)),
        _ => None,
    }
}

/// The client over the server, with an error that the layers can describe.
pub(crate) fn client(
    fake: &FakeClaude,
) -> impl Service<
    Request<RequestBody>,
    Response = Response<tower_claude_fake_claude::FakeBody>,
    Error = BoxError,
    Future: Send,
> + Clone
+ use<> {
    ServiceExt::<Request<RequestBody>>::map_err(fake.clone(), |error: FakeError| error.into())
}

fn faults() -> Vec<Option<Fault>> {
    let after_tokens = 4;
    vec![
        None,
        Some(Fault::Overloaded),
        Some(Fault::ServerError),
        Some(Fault::SpendCap),
        Some(Fault::Reset),
        Some(Fault::RateLimited {
            retry_after: SECOND,
        }),
        Some(Fault::ErrorBeforeContent),
        Some(Fault::TruncatedBeforeContent),
        Some(Fault::Refusal { after_tokens: 0 }),
        Some(Fault::ErrorMidStream { after_tokens }),
        Some(Fault::Truncated { after_tokens }),
        Some(Fault::Cut { after_tokens }),
        Some(Fault::SlowHead(700 * SECOND)),
        Some(Fault::Stall {
            after_tokens,
            duration: 700 * SECOND,
        }),
    ]
}

/// Asserts that a stack reports each attempt that the server has seen, and one call.
macro_rules! reports_once {
    ($name:literal, |$fake:ident, $log:ident| $stack:expr) => {
        for fault in faults() {
            for stream in [false, true] {
                for dropped_after in [None, Some(SECOND / 20), Some(2 * SECOND)] {
                    let $fake = FakeClaude::builder()
                        .limits(GroupLimits::unlimited())
                        .build();
                    if let Some(fault) = &fault {
                        $fake.inject(fault.clone());
                    }
                    let $log = EventLog::new(line_of);
                    let service = $stack;
                    let call = send(&service, request(SONNET, stream));
                    let patience = dropped_after.unwrap_or(Duration::MAX / 4);
                    let _ = tokio::time::timeout(patience, call).await;
                    let attempts = $fake.log_len();
                    let mut expected: Vec<_> = (1..=attempts)
                        .map(|number| format!("attempt {number}"))
                        .collect();
                    expected.push(format!("call {attempts}"));
                    assert_eq!(
                        $log.lines(),
                        expected,
                        "{}: {fault:?}, stream {stream}, dropped after {dropped_after:?}",
                        $name
                    );
                }
            }
        }
    };
}

#[tokio::test(start_paused = true)]
async fn stack_of_any_shape_reports_each_attempt_and_the_call_once() {
    reports_once!("recommended", |fake, log| recommended()
        .with_fallback([HAIKU])
        .with_observer(log.clone())
        .layer(client(&fake)));
    reports_once!("layer by layer", |fake, log| {
        let fallback = FallbackModelLayer::new([HAIKU]).with_observer(log.clone());
        let retry = RetryLayer::new().with_observer(log.clone());
        let breaker = CircuitBreakerLayer::new().with_observer(log.clone());
        let bucket = TokenBucketLayer::new(Limits::unlimited()).with_observer(log.clone());
        let budget = HeaderBudgetLayer::over(bucket.limiter()).with_observer(log.clone());
        let inner = bucket.layer(budget.layer(client(&fake)));
        fallback.layer(retry.layer(breaker.layer(inner)))
    });
    reports_once!("reverse", |fake, log| {
        let fallback = FallbackModelLayer::new([HAIKU]).with_observer(log.clone());
        let retry = RetryLayer::new().with_observer(log.clone());
        let breaker = CircuitBreakerLayer::new().with_observer(log.clone());
        let bucket = TokenBucketLayer::new(Limits::unlimited()).with_observer(log.clone());
        bucket.layer(breaker.layer(retry.layer(fallback.layer(client(&fake)))))
    });
    reports_once!("retry alone", |fake, log| RetryLayer::new()
        .with_observer(log.clone())
        .layer(client(&fake)));
    reports_once!("breaker alone", |fake, log| CircuitBreakerLayer::new()
        .with_observer(log.clone())
        .layer(client(&fake)));
    reports_once!("budget alone", |fake, log| HeaderBudgetLayer::new()
        .with_observer(log.clone())
        .layer(client(&fake)));
}

/// A layer without an observer leaves its attempts to the observer of another layer.
#[tokio::test(start_paused = true)]
async fn observer_of_one_layer_gets_the_ends_of_the_whole_stack() {
    reports_once!("observer outside", |fake, log| {
        let retry = RetryLayer::new().with_observer(log.clone());
        let inner = HeaderBudgetLayer::new().layer(client(&fake));
        retry.layer(CircuitBreakerLayer::new().layer(inner))
    });
    reports_once!("observer in one driver", |fake, log| {
        let retry = RetryLayer::new().with_observer(log.clone());
        recommended().with_retry(retry).layer(client(&fake))
    });
}
