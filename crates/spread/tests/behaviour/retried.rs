//! The layer inside of retries.

use std::num::NonZeroU32;

use tower_claude_circuit_breaker::CircuitBreakerLayer;
use tower_claude_core::{Kind, RejectReason, Rejection};
use tower_claude_retry::RetryLayer;
use tower_claude_spread::{Route, Skip, SpreadLayer};
use tower_claude_tests::{EventLog, Reply, send_ok};
use tower_claude_wire::cloud::Unportable;
use tower_layer::Layer;

use crate::common::{
    Clouds, SECOND, ask, ask_again, limited, overloaded, stack, target, three, timed,
};

fn breaker() -> tower_claude_circuit_breaker::BreakerPolicy {
    CircuitBreakerLayer::new().policy()
}

fn once_each(mut names: Vec<String>) {
    names.sort_unstable();
    assert_eq!(names, ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn failure_goes_to_another_target_without_a_wait() {
    for failure in [
        limited(3_000),
        overloaded(),
        Reply::claude_error(500, "api_error"),
        Reply::claude_error(401, "authentication_error"),
        Reply::claude_error(403, "permission_error"),
        Reply::claude_error(404, "not_found_error"),
        Reply::claude_error(402, "billing_error"),
        Reply::stream(["event: message_start\ndata: {\"type\":\"message_start\"}\n\n"]),
    ] {
        let clouds = Clouds::default();
        let home = send_ok(&three().layer(clouds.clone()), ask("hi")).await;
        let home = home.header("x-tower-claude-target").to_owned();
        clouds.take();
        clouds.script(&home, [failure]);
        let service = stack(&RetryLayer::new(), &three(), breaker(), &clouds);
        let (answer, took) = timed(&service, ask("hi")).await;
        assert_eq!((answer.status, took), (200, 0.0));
        let targets = clouds.take();
        assert_eq!((targets.len(), &targets[0]), (2, &home));
        assert_ne!(answer.header("x-tower-claude-target"), home);
        let route = answer.extensions.get::<Route>().expect("a route");
        assert_eq!(route.attempts, 2);
        assert_eq!(route.skipped[0].0.name(), home);
        assert!(matches!(route.skipped[0].1, Skip::Failed(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn invalid_request_is_not_sent_elsewhere() {
    let clouds = Clouds::default();
    for name in ["a", "b", "c"] {
        clouds.script(name, [Reply::claude_error(400, "invalid_request_error")]);
    }
    let service = stack(&RetryLayer::new(), &three(), breaker(), &clouds);
    assert_eq!(send_ok(&service, ask("hi")).await.status, 400);
    assert_eq!(clouds.take().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn each_target_is_tried_once_before_a_wait() {
    let clouds = Clouds::default();
    for name in ["a", "b", "c"] {
        clouds.script(name, [overloaded(), Reply::message()]);
    }
    let service = stack(&RetryLayer::new(), &three(), breaker(), &clouds);
    let (answer, took) = timed(&service, ask("hi")).await;
    assert_eq!(answer.status, 200);
    assert!(took > 0.0, "the second round waits");
    let sent = clouds.sent();
    assert_eq!(sent.len(), 4);
    assert!(sent[..3].iter().all(|it| it.at == sent[0].at));
    once_each(sent[..3].iter().map(|it| it.target.clone()).collect());
}

#[tokio::test(start_paused = true)]
async fn second_round_waits_for_the_soonest_and_not_for_the_last() {
    // The last one asks for an hour, and an earlier one for four seconds.
    for last in ["a", "b", "c"] {
        let clouds = Clouds::default();
        for name in ["a", "b", "c"] {
            let seconds = if name == last { 3_600 } else { 4 };
            clouds.script(name, [limited(seconds), Reply::message()]);
        }
        let service = stack(&RetryLayer::new(), &three(), breaker(), &clouds);
        let (answer, took) = timed(&service, ask("hi")).await;
        assert_eq!(answer.status, 200);
        assert!((4.0..8.0).contains(&took), "{took}");
        assert_ne!(answer.header("x-tower-claude-target"), last);
        assert_eq!(clouds.take().len(), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn last_resort_respects_the_wait_of_the_server() {
    let clouds = Clouds::default();
    for name in ["a", "b", "c"] {
        clouds.script(name, [limited(3_600)]);
    }
    let service = stack(&RetryLayer::new(), &three(), breaker(), &clouds);
    let (answer, took) = timed(&service, ask("hi")).await;
    assert_eq!((answer.status, took), (429, 0.0));
    once_each(clouds.take());
    assert_eq!(answer.header("retry-after"), "3600");
    // Later calls are not sent.
    let answer = send_ok(&service, ask("ho")).await;
    assert!(answer.is_rejected() && answer.status == 429);
    assert!(clouds.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn targets_and_attempts_do_not_multiply() {
    let clouds = Clouds::default();
    for name in ["a", "b", "c"] {
        clouds.script(name, [overloaded()]);
    }
    let service = stack(&RetryLayer::new(), &three(), breaker(), &clouds);
    assert_eq!(send_ok(&service, ask("hi")).await.status, 529);
    assert_eq!(clouds.take().len(), 5);
    let two = NonZeroU32::new(2).expect("not zero");
    let retry = RetryLayer::new().with_max_attempts(two);
    let service = stack(&retry, &three(), breaker(), &clouds);
    assert_eq!(send_ok(&service, ask("hi")).await.status, 529);
    assert_eq!(clouds.take().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn credential_that_is_rejected_leaves_the_other_targets_to_be_asked_again() {
    let clouds = Clouds::default();
    clouds.script("a", [Reply::claude_error(401, "authentication_error")]);
    clouds.script("b", [overloaded(), Reply::message()]);
    let layer = SpreadLayer::new(["a", "b"].map(target));
    let service = stack(&RetryLayer::new(), &layer, breaker(), &clouds);
    assert_eq!(send_ok(&service, ask("hi")).await.status, 200);
    let targets = clouds.take();
    assert_eq!((targets.len(), &*targets[2]), (3, "b"));
    // If all reject it, nothing is asked twice.
    let layer = SpreadLayer::new(["a", "b"].map(target));
    let service = stack(&RetryLayer::new(), &layer, breaker(), &clouds);
    for name in ["a", "b"] {
        clouds.script(name, [Reply::claude_error(401, "authentication_error")]);
    }
    assert_eq!(send_ok(&service, ask("ho")).await.status, 401);
    assert_eq!(clouds.take().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn rejection_by_an_inner_layer_excludes_that_target_only() {
    let reason = Unportable::new("container", "there is no code execution");
    for reason in [
        RejectReason::Unportable { reason },
        RejectReason::QueueFull {
            waiting: 1,
            limit: 1,
        },
        RejectReason::CircuitOpen {
            because: Kind::Overloaded,
        },
    ] {
        let clouds = Clouds::default();
        let rejection = Reply::refusal(Rejection::new("inner", reason));
        for name in ["a", "b"] {
            clouds.script(name, [rejection.clone()]);
        }
        let layer = three();
        let one = NonZeroU32::new(2).expect("not zero");
        let retry = RetryLayer::new().with_max_attempts(one);
        let service = stack(&retry, &layer, breaker(), &clouds);
        for number in 0..10 {
            let (answer, took) = timed(&service, ask(&number.to_string())).await;
            assert_eq!((answer.status, took), (200, 0.0), "{reason:?}");
            assert_eq!(answer.header("x-tower-claude-target"), "c");
        }
        // It is no failure of the target.
        let snapshot = layer.handle().snapshot();
        assert!(snapshot.targets.iter().all(|it| it.failed == 0));
    }
}

#[tokio::test(start_paused = true)]
async fn rejection_for_all_targets_goes_to_the_caller_after_each_was_asked() {
    let clouds = Clouds::default();
    let reason = Unportable::new("container", "there is no code execution");
    let reason = RejectReason::Unportable { reason };
    for name in ["a", "b", "c"] {
        clouds.script(name, [Reply::refusal(Rejection::new("cloud", reason))]);
    }
    let log = EventLog::default();
    let retry = RetryLayer::new().with_observer(log.clone());
    let service = stack(&retry, &three(), breaker(), &clouds);
    let answer = send_ok(&service, ask("hi")).await;
    assert_eq!(answer.rejected().map(|it| it.reason), Some(reason));
    once_each(clouds.take());
    assert_eq!(log.count("retry gave up: targets"), 1);
}

#[tokio::test(start_paused = true)]
async fn open_circuit_of_one_target_does_not_end_the_call() {
    let clouds = Clouds::default();
    let layer = SpreadLayer::new(["a", "b"].map(target));
    let breaker = CircuitBreakerLayer::new();
    // The circuit opens for calls that this layer does not see.
    let direct = SpreadLayer::new([target("a")]);
    let alone = stack(&RetryLayer::new(), &direct, breaker.policy(), &clouds);
    clouds.script("a", [overloaded()]);
    for number in 0..20 {
        send_ok(&alone, ask(&number.to_string())).await;
    }
    clouds.script("a", [Reply::message()]);
    let service = stack(&RetryLayer::new(), &layer, breaker.policy(), &clouds);
    clouds.take();
    for number in 0..20 {
        let (answer, took) = timed(&service, ask(&number.to_string())).await;
        assert_eq!((answer.status, took), (200, 0.0));
    }
    assert!(clouds.take().iter().all(|name| name == "b"));
}

#[tokio::test(start_paused = true)]
async fn missing_model_closes_the_target_once_another_has_served_it() {
    let clouds = Clouds::default();
    let layer = three();
    let service = stack(&RetryLayer::new(), &layer, breaker(), &clouds);
    let missing = Reply::claude_error(404, "not_found_error");
    // Nobody has it, so the name may be mistyped.
    for name in ["a", "b", "c"] {
        clouds.script(name, [missing.clone()]);
    }
    assert_eq!(send_ok(&service, ask("hi")).await.status, 404);
    once_each(clouds.take());
    let has_cool_downs = |layer: &SpreadLayer| {
        let targets = layer.handle().snapshot().targets;
        targets
            .iter()
            .filter(|it| !it.cool_downs.is_empty())
            .count()
    };
    assert_eq!(has_cool_downs(&layer), 0);
    clouds.script("c", [Reply::message()]);
    for number in 0..20 {
        assert_eq!(
            send_ok(&service, ask(&number.to_string())).await.status,
            200
        );
    }
    assert_eq!(has_cool_downs(&layer), 2);
    let missed = clouds.take().iter().filter(|name| *name != "c").count();
    assert!(missed <= 2, "{missed}");
}

#[tokio::test(start_paused = true)]
async fn bound_thinking_waits_for_its_account() {
    let clouds = Clouds::default();
    let layer = three();
    let service = stack(&RetryLayer::new(), &layer, breaker(), &clouds);
    let home = send_ok(&service, ask("hi")).await;
    let home = home.header("x-tower-claude-target").to_owned();
    clouds.take();
    clouds.script(&home, [overloaded(), limited(3), Reply::message()]);
    let (answer, took) = timed(&service, ask_again("hi")).await;
    assert_eq!(answer.status, 200);
    assert!(took >= 3.0, "{took}");
    assert_eq!(clouds.take(), [home.as_str(); 3]);
}

#[tokio::test(start_paused = true)]
async fn layers_in_drivers_of_their_own_work_together() {
    let clouds = Clouds::default();
    let spread = three();
    let home = send_ok(&spread.layer(clouds.clone()), ask("hi")).await;
    let home = home.header("x-tower-claude-target").to_owned();
    clouds.take();
    clouds.script(&home, [limited(3_000)]);
    let inner = spread.layer(CircuitBreakerLayer::new().layer(clouds.clone()));
    // A foreign layer between the two.
    let inner = tower::util::MapResponse::new(inner, |response| response);
    let service = RetryLayer::new().layer(inner);
    let (answer, took) = timed(&service, ask("hi")).await;
    assert_eq!((answer.status, took), (200, 0.0));
    assert_eq!(clouds.take().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn lone_target_is_retried_as_without_the_layer() {
    let clouds = Clouds::default();
    clouds.script("a", [limited(7), overloaded(), Reply::message()]);
    let layer = SpreadLayer::new([target("a")]);
    let service = stack(&RetryLayer::new(), &layer, breaker(), &clouds);
    let (answer, took) = timed(&service, ask("hi")).await;
    assert_eq!(answer.status, 200);
    assert!((7.0..15.0).contains(&took), "{took}");
    let sent = clouds.sent();
    assert!(sent[1].at - sent[0].at >= 7 * SECOND);
}
