//! Memory, and readers of different speed.

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
async fn a_slow_reader_stalls_nobody() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    // The one that asked is the slow one, and does not poll at all.
    let slow = service.clone().oneshot(marked("Hi", true));
    let (slow, mouth) = tokio::join!(slow, async { scripts.next().await.stream() });
    let mut slow = slow.expect("a head").into_body();
    let fast = tokio::spawn({
        let service = service.clone();
        async move { call(&service, marked("Hi", true)).await }
    });
    for part in STREAM {
        settle().await;
        say(&mouth, part);
    }
    drop(mouth);
    let fast = fast.await.expect("no panic").expect("an answer");
    assert_eq!(fast.text, STREAM.concat());
    assert_eq!(rest(&mut slow).await, STREAM.concat());
    assert_eq!(scripts.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_json_answer_does_not_wait_for_the_one_that_asked() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let lead = service.clone().oneshot(request());
    let headers = [("content-type", "application/json")];
    let (lead, mouth) = tokio::join!(lead, async { scripts.next().await.head(200, &headers) });
    let follower = tokio::spawn(async move { call(&service, request()).await });
    settle().await;
    say(&mouth, MESSAGE);
    drop(mouth);
    assert_eq!(
        follower.await.expect("no panic").expect("an answer").text,
        MESSAGE
    );
    assert_eq!(rest(&mut lead.expect("a head").into_body()).await, MESSAGE);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_long_passes_and_is_not_stored() {
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
            let (got, ()) = tokio::join!(call(&service, marked("Hi", stream)), async {
                let script = scripts.next().await;
                let kind = if stream {
                    "text/event-stream"
                } else {
                    "application/json"
                };
                let mouth = script.head(200, &[("content-type", kind)]);
                text.as_bytes()
                    .chunks(100)
                    .for_each(|chunk| say(&mouth, std::str::from_utf8(chunk).expect("ASCII")));
            });
            assert!(got.expect("an answer").text == text);
        }
        assert_eq!((scripts.calls(), layer.handle().snapshot().stored), (2, 0));
    }
}

/// Those who wait for the whole of an answer that is too long read on for it, and must not take its begin away from the
/// one that asked.
#[tokio::test(start_paused = true)]
async fn who_asked_loses_nothing_to_those_who_wait() {
    let text = MESSAGE.replace("Hi", &"Hi".repeat(20_000));
    let (upstream, scripts) = upstream();
    let service = layer().with_entry_limit(16 * 1024).layer(upstream);
    let lead = service.clone().oneshot(request());
    let headers = [("content-type", "application/json")];
    let (lead, mouth) = tokio::join!(lead, async { scripts.next().await.head(200, &headers) });
    let follower = tokio::spawn(async move { call(&service, request()).await });
    settle().await;
    for chunk in text.as_bytes().chunks(300) {
        say(&mouth, std::str::from_utf8(chunk).expect("ASCII"));
        settle().await;
    }
    drop(mouth);
    // It goes alone as soon as the answer is too long.
    scripts.next().await.message();
    let follower = follower.await.expect("no panic").expect("an answer");
    assert_eq!(
        (follower.text.as_str(), follower.said()),
        (MESSAGE, "bypass")
    );
    let read = rest(&mut lead.expect("a head").into_body()).await;
    assert!(read == text, "{} bytes of {}", read.len(), text.len());
}

#[tokio::test(start_paused = true)]
async fn who_is_too_far_behind_is_cut_off_and_told() {
    let layer = layer().with_entry_limit(16 * 1024);
    let (upstream, scripts) = upstream();
    let service = layer.layer(upstream);
    let slow = service.clone().oneshot(marked("Hi", true));
    let (slow, mouth) = tokio::join!(slow, async { scripts.next().await.stream() });
    let fast = tokio::spawn(async move { call(&service, marked("Hi", true)).await });
    settle().await;
    let text = [START, CONTENT, &DELTA.repeat(2_000), END, STOP].concat();
    for chunk in text.as_bytes().chunks(1_000) {
        say(&mouth, std::str::from_utf8(chunk).expect("ASCII"));
        settle().await;
    }
    drop(mouth);
    assert_eq!(fast.await.expect("no panic").expect("an answer").text, text);
    let late = rest(&mut slow.expect("a head").into_body()).await;
    assert!(late.contains("event: error\n") && late.len() < 1_000);
    assert_eq!(layer.handle().snapshot().lagged, 1);
}

#[tokio::test(start_paused = true)]
async fn who_comes_when_the_beginning_is_gone_begins_anew() {
    let (upstream, scripts) = upstream();
    let service = layer().with_entry_limit(16 * 1024).layer(upstream);
    let first = service.clone().oneshot(marked("Hi", true));
    let (first, mouth) = tokio::join!(first, async { scripts.next().await.stream() });
    let mut first = first.expect("a head").into_body();
    for part in [START, CONTENT].into_iter().chain([DELTA; 1_000]) {
        say(&mouth, part);
        first.frame().await.expect("a frame").expect("no error");
    }
    let late = || call(&service, marked("Hi", true));
    let (second, third, ()) = tokio::join!(late(), late(), async {
        let mouth = scripts.next().await.stream();
        settle().await;
        STREAM.iter().for_each(|part| say(&mouth, part));
    });
    for late in [second, third] {
        assert_eq!(late.expect("an answer").text, STREAM.concat());
    }
    [END, STOP].iter().for_each(|part| say(&mouth, part));
    drop(mouth);
    assert_eq!(rest(&mut first).await, [END, STOP].concat());
    assert_eq!((scripts.calls(), scripts.alive()), (2, 0));
}
