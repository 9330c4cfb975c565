//! Memory limits, and readers of different speed.

use http_body_util::BodyExt;
use tower::{Layer, ServiceExt};

use crate::api::*;

async fn rest<B>(body: &mut B) -> String
where
    B: http_body::Body<Data = bytes::Bytes, Error = tower_claude_tests::Broken> + Unpin,
{
    let mut text = String::new();
    while let Some(frame) = body.frame().await {
        text.push_str(
            std::str::from_utf8(frame.expect("no error").data_ref().expect("data")).expect("text"),
        );
    }
    text
}

#[tokio::test(start_paused = true)]
async fn slow_reader_does_not_stall_the_others() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    // The leader is the slow reader: it does not poll at all.
    let slow = service.clone().oneshot(marked("Hi", true));
    let (slow, sender) = tokio::join!(slow, async { scripts.next().await.stream() });
    let mut slow = slow.expect("a head").into_body();
    let fast = tokio::spawn({
        let service = service.clone();
        async move { send(&service, marked("Hi", true)).await }
    });
    for part in STREAM {
        settle().await;
        feed(&sender, part);
    }
    drop(sender);
    let fast = fast.await.expect("no panic").expect("an answer");
    assert_eq!(fast.text(), STREAM.concat());
    assert_eq!(rest(&mut slow).await, STREAM.concat());
    assert_eq!(scripts.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn json_response_does_not_wait_for_its_leader() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let lead = service.clone().oneshot(request());
    let headers = [("content-type", "application/json")];
    let (lead, sender) = tokio::join!(lead, async { scripts.next().await.head(200, &headers) });
    let follower = tokio::spawn(async move { send(&service, request()).await });
    settle().await;
    feed(&sender, MESSAGE);
    drop(sender);
    assert_eq!(
        follower.await.expect("no panic").expect("an answer").text(),
        MESSAGE
    );
    assert_eq!(rest(&mut lead.expect("a head").into_body()).await, MESSAGE);
}

#[tokio::test(start_paused = true)]
async fn response_over_the_limit_passes_and_is_not_stored() {
    let layer = layer().with_entry_limit(16 * 1024);
    for stream in [false, true] {
        let (upstream, scripts) = upstream();
        let service = layer.layer(upstream);
        let text = if stream {
            [START, CONTENT, &DELTA.repeat(2_000), END, STOP].concat()
        } else {
            MESSAGE.replace("Hi", &"Hi".repeat(100_000))
        };
        for _ in 0..2 {
            let (got, ()) = tokio::join!(send(&service, marked("Hi", stream)), async {
                let script = scripts.next().await;
                let kind = if stream {
                    "text/event-stream"
                } else {
                    "application/json"
                };
                let sender = script.head(200, &[("content-type", kind)]);
                text.as_bytes()
                    .chunks(100)
                    .for_each(|chunk| feed(&sender, std::str::from_utf8(chunk).expect("ASCII")));
            });
            assert!(got.expect("an answer").text() == text);
        }
        assert_eq!((scripts.calls(), layer.handle().snapshot().stored), (2, 0));
    }
}

/// Waiters for a complete JSON body read ahead, and must not drop frames that the leader has not
/// read.
#[tokio::test(start_paused = true)]
async fn waiters_do_not_drop_frames_the_leader_needs() {
    let text = MESSAGE.replace("Hi", &"Hi".repeat(20_000));
    let (upstream, scripts) = upstream();
    let service = layer().with_entry_limit(16 * 1024).layer(upstream);
    let lead = service.clone().oneshot(request());
    let headers = [("content-type", "application/json")];
    let (lead, sender) = tokio::join!(lead, async { scripts.next().await.head(200, &headers) });
    let follower = tokio::spawn(async move { send(&service, request()).await });
    settle().await;
    for chunk in text.as_bytes().chunks(300) {
        feed(&sender, std::str::from_utf8(chunk).expect("ASCII"));
        settle().await;
    }
    drop(sender);
    // The waiter makes its own call as soon as the response is too long.
    scripts.next().await.message();
    let follower = follower.await.expect("no panic").expect("an answer");
    assert_eq!(
        (follower.text(), follower.cache_status()),
        (MESSAGE, "bypass")
    );
    let read = rest(&mut lead.expect("a head").into_body()).await;
    assert!(read == text, "{} bytes of {}", read.len(), text.len());
}

#[tokio::test(start_paused = true)]
async fn lagged_reader_gets_an_error_event() {
    let layer = layer().with_entry_limit(16 * 1024);
    let (upstream, scripts) = upstream();
    let service = layer.layer(upstream);
    let slow = service.clone().oneshot(marked("Hi", true));
    let (slow, sender) = tokio::join!(slow, async { scripts.next().await.stream() });
    let fast = tokio::spawn(async move { send(&service, marked("Hi", true)).await });
    settle().await;
    let text = [START, CONTENT, &DELTA.repeat(2_000), END, STOP].concat();
    for chunk in text.as_bytes().chunks(1_000) {
        feed(&sender, std::str::from_utf8(chunk).expect("ASCII"));
        settle().await;
    }
    drop(sender);
    assert_eq!(
        fast.await.expect("no panic").expect("an answer").text(),
        text
    );
    let late = rest(&mut slow.expect("a head").into_body()).await;
    assert!(late.contains("event: error\n") && late.len() < 1_000);
    assert_eq!(layer.handle().snapshot().lagged, 1);
}

#[tokio::test(start_paused = true)]
async fn caller_after_dropped_frames_starts_a_new_call() {
    let (upstream, scripts) = upstream();
    let service = layer().with_entry_limit(16 * 1024).layer(upstream);
    let first = service.clone().oneshot(marked("Hi", true));
    let (first, sender) = tokio::join!(first, async { scripts.next().await.stream() });
    let mut first = first.expect("a head").into_body();
    for part in [START, CONTENT].into_iter().chain([DELTA; 1_000]) {
        feed(&sender, part);
        first.frame().await.expect("a frame").expect("no error");
    }
    let late = || send(&service, marked("Hi", true));
    let (second, third, ()) = tokio::join!(late(), late(), async {
        let sender = scripts.next().await.stream();
        settle().await;
        STREAM.iter().for_each(|part| feed(&sender, part));
    });
    for late in [second, third] {
        assert_eq!(late.expect("an answer").text(), STREAM.concat());
    }
    [END, STOP].iter().for_each(|part| feed(&sender, part));
    drop(sender);
    assert_eq!(rest(&mut first).await, [END, STOP].concat());
    assert_eq!((scripts.calls(), scripts.alive()), (2, 0));
}
