//! Calls that are dropped.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use bytes::Bytes;
use http_body::Body;
use http_body_util::Full;
use tower::{Layer, Service, ServiceExt};
use tower_claude_core::RequestBody;
use tower_claude_retry::RetryBudget;

use crate::api::*;

/// Returns a script with every kind of wait.
fn script() -> Vec<Reply> {
    let wait = || Piece::Wait(SECOND);
    vec![
        Reply::overloaded().after(SECOND),
        Reply::rate_limited("2").pieces([data("{"), wait(), data("}")]),
        Reply::stream([data(START), wait(), data(ERROR)]),
        Reply::stream([
            data(START),
            wait(),
            data(CONTENT),
            wait(),
            data(DELTA),
            wait(),
            data(STOP),
        ]),
    ]
}

/// Drops a call or its body after this many polls. Returns false if it had ended before.
async fn dropped_after(polls: usize, layer: &tower_claude_retry::RetryLayer, api: &Api) -> bool {
    let mut call = Box::pin(layer.layer(api.clone()).oneshot(request()));
    let mut left = polls;
    let response = poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        call.as_mut().poll(cx).map(Some)
    })
    .await;
    drop(call);
    let Some(response) = response else {
        return true;
    };
    let mut body = pin!(response.unwrap().into_body());
    poll_fn(|cx| {
        loop {
            if left == 0 {
                return Poll::Ready(true);
            }
            left -= 1;
            match Pin::as_mut(&mut body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(false),
                Poll::Ready(Some(frame)) => drop(frame.unwrap()),
            }
        }
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn call_dropped_at_any_poll_releases_everything() {
    let mut polls = 0;
    loop {
        let budget = RetryBudget::new()
            .with_initial(9)
            .with_refill_per_second(0.0);
        let (layer, events) = layer();
        let layer = layer.with_budget(budget.clone());
        let api = Api::new(script());
        let dropped = dropped_after(polls, &layer, &api).await;
        assert_eq!(api.alive(), 0, "after {polls} polls");
        // The second attempt and the fourth cost a token; the third followed a 429.
        let paid = match api.seen().len() {
            0 | 1 => 0.0,
            2 | 3 => 1.0,
            _ => 2.0,
        };
        let tokens = budget.tokens();
        let deposit = if tokens.fract() > 0.0 { 0.5 } else { 0.0 };
        assert_eq!(tokens, 9.0 - paid + deposit, "after {polls} polls");
        assert!(!events.lines().iter().any(|line| line.starts_with("broken")));
        if !dropped {
            break;
        }
        polls += 1;
    }
    assert!(polls > 12, "the script has more waits than {polls}");
}

#[tokio::test(start_paused = true)]
async fn answered_call_releases_request() {
    struct Held(#[allow(dead_code, reason = "counts")] Arc<()>);
    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            b"{}"
        }
    }
    let api = tower::service_fn(|_: http::Request<RequestBody>| async {
        Ok::<_, std::convert::Infallible>(http::Response::new(Full::<Bytes>::default()))
    });
    let alive = Arc::new(());
    let bytes = Bytes::from_owner(Held(alive.clone()));
    let mut service = layer().0.layer(api);
    let mut call = Box::pin(service.call(request().map(|_| RequestBody::from(bytes))));
    assert_eq!(Arc::strong_count(&alive), 2);
    assert_eq!(call.as_mut().await.unwrap().status(), 200);
    assert_eq!(Arc::strong_count(&alive), 1, "of the request");
    drop(call);
}
