//! The order of fallback, retry and spread.

use tower_claude_circuit_breaker::CircuitBreakerLayer;
use tower_claude_core::{ClaudeClassify, driver::DriverLayer};
use tower_claude_fallback_model::FallbackModelLayer;
use tower_claude_retry::RetryLayer;
use tower_claude_spread::SpreadLayer;
use tower_claude_tests::{Reply, send_ok};
use tower_layer::Layer;

use crate::common::{Clouds, HAIKU, SONNET, ask, limited, overloaded, target, timed};

type Sent = Vec<(String, String)>;

fn sent(clouds: &Clouds) -> Sent {
    let sent = clouds.sent();
    clouds.take();
    sent.into_iter()
        .map(|sent| (sent.model, sent.target))
        .collect()
}

macro_rules! service {
    ($clouds:expr, $spread:expr) => {{
        let calls = (
            FallbackModelLayer::new([HAIKU]).policy(),
            RetryLayer::new().policy(),
        );
        let attempts = ($spread.policy(), CircuitBreakerLayer::new().policy());
        DriverLayer::new(calls, attempts, ClaudeClassify::default()).layer($clouds.clone())
    }};
}

fn two() -> SpreadLayer {
    SpreadLayer::new(["a", "b"].map(target))
}

#[tokio::test(start_paused = true)]
async fn same_model_elsewhere_comes_before_another_model() {
    for failure in [limited(3_000), overloaded()] {
        let clouds = Clouds::default();
        let service = service!(clouds, two());
        let home = send_ok(&service, ask("hi")).await;
        let home = home.header("x-tower-claude-target").to_owned();
        let other = if home == "a" { "b" } else { "a" };
        sent(&clouds);
        clouds.script(&home, [failure]);
        let (answer, took) = timed(&service, ask("hi")).await;
        assert_eq!((answer.status, took), (200, 0.0));
        let expected = [&*home, other].map(|name| (SONNET.to_owned(), name.to_owned()));
        assert_eq!(sent(&clouds), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn other_model_comes_when_no_target_has_the_first_one() {
    let clouds = Clouds::default();
    let service = service!(clouds, two());
    for name in ["a", "b"] {
        // Two for the first model, and the third is for the other one.
        clouds.script(name, [limited(3_000), Reply::message()]);
    }
    let (answer, took) = timed(&service, ask("hi")).await;
    assert_eq!((answer.status, took), (200, 0.0));
    let sent = sent(&clouds);
    let models: Vec<&str> = sent.iter().map(|(model, _)| &**model).collect();
    assert_eq!(models, [SONNET, SONNET, HAIKU]);
    assert_ne!(sent[0].1, sent[1].1);
    // The other model begins anew, at any target.
    assert_eq!(answer.header("x-tower-claude-served-model"), HAIKU);
}
