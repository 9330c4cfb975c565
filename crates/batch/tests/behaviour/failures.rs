//! Results that are no messages.

use tokio::time::{Instant, sleep};
use tower_claude_batch::BATCH;
use tower_claude_core::Kind;
use tower_claude_fake_claude::BatchOutcome;

use crate::api::*;

fn errored(error_type: &str, message: &str) -> BatchOutcome {
    BatchOutcome::Errored {
        error_type: error_type.to_owned(),
        message: message.to_owned(),
    }
}

/// Returns an API with this result for questions that contain a text.
fn failing(text: &'static str, outcome: BatchOutcome) -> World {
    World::new(api().batch_outcome_with(move |_, params| {
        let params = std::str::from_utf8(params).expect("text");
        params.contains(text).then(|| outcome.clone())
    }))
}

#[tokio::test(start_paused = true)]
async fn invalid_request_is_an_error_of_its_caller_only() {
    let world = failing("bad", errored("invalid_request_error", "messages: wrong"));
    let calls = ["good", "bad", "fine"].map(|text| world.ask(text, 2 * HOUR));
    let [good, bad, fine] = calls;
    assert_eq!(good.await.unwrap().status, 200);
    let bad = bad.await.unwrap();
    assert_eq!((bad.status, bad.kind()), (400, Some(Kind::BadRequest)));
    assert!(bad.contains("messages: wrong") && bad.contains("request_id"));
    assert!(bad.header("request-id").starts_with("req_"));
    assert!(bad.header(BATCH.as_str()).starts_with("msgbatch_"));
    assert_eq!(fine.await.unwrap().status, 200);
    assert_eq!(world.live(), 0);
}

#[tokio::test(start_paused = true)]
async fn temporary_errors_and_expired_calls_go_live_at_once() {
    let outcomes = [
        (errored("api_error", "Internal server error"), "errored"),
        (errored("overloaded_error", "Overloaded"), "errored"),
        (errored("rate_limit_error", "Too many"), "errored"),
        (BatchOutcome::Expired, "expired"),
        (BatchOutcome::Canceled, "canceled"),
    ];
    for (outcome, because) in outcomes {
        let world = failing("bad", outcome);
        let started = Instant::now();
        let calls = ["good", "bad"].map(|text| world.ask(text, 5 * HOUR));
        for call in calls {
            assert_eq!(call.await.unwrap().status, 200);
        }
        assert!(started.elapsed() < HOUR);
        let snapshot = world.snapshot();
        assert_eq!(
            (world.live(), snapshot.went_live[because]),
            (1, 1),
            "{because}"
        );
        assert_eq!(
            (snapshot.sent_twice, snapshot.answered),
            (0, 1),
            "not billed twice"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn missing_funds_are_reported_to_all_without_live_calls() {
    let message = "Your credit balance is too low to access the Anthropic API. Please go to Plans & \
                   Billing to upgrade or purchase credits.";
    let world = failing("q", errored("invalid_request_error", message));
    let calls = ["q1", "q2"].map(|text| world.ask(text, 5 * HOUR));
    // Still in the queue when the batch ends.
    sleep(15 * MINUTE).await;
    let late = world.ask("late", 50 * HOUR);
    for call in calls {
        let answer = call.await.unwrap();
        assert_eq!(
            (answer.status, answer.kind()),
            (400, Some(Kind::SpendLimit))
        );
    }
    let late = late.await.unwrap();
    assert_eq!(late.kind(), Some(Kind::SpendLimit));
    assert_eq!((world.live(), world.snapshot().failed), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn batch_that_expires_after_a_day_goes_live_within_the_tolerance() {
    let world = World::new(api().batch_time(30 * HOUR));
    let call = world.ask("q", 26 * HOUR);
    assert_eq!(call.await.unwrap().status, 200);
    assert_eq!(
        (world.live(), world.snapshot().went_live["expired"]),
        (1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn only_the_requests_that_failed_are_sent_again() {
    let world = failing("3", errored("api_error", "Internal server error"));
    let calls: Vec<_> = (0..30)
        .map(|n| world.ask(&format!("q{n}."), 5 * HOUR))
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().status, 200);
    }
    assert_eq!((world.batched().len(), world.live()), (30, 3));
}
