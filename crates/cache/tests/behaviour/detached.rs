//! Calls that continue without callers.

use http_body_util::BodyExt;
use tower::{Layer, ServiceExt};
use tower_claude_tests::Broken;

use crate::api::*;

#[tokio::test(start_paused = true)]
async fn detached_call_continues_when_all_callers_are_gone() {
    for stream in [false, true] {
        let (upstream, scripts) = upstream();
        let layer = layer().detached();
        let service = layer.layer(upstream);
        let first = tokio::spawn({
            let service = service.clone();
            async move { send(&service, marked("Hi", stream)).await }
        });
        let script = scripts.next().await;
        first.abort();
        settle().await;
        assert_eq!(
            (scripts.alive(), layer.handle().snapshot().in_flight),
            (1, 1)
        );
        if stream {
            let sender = script.stream();
            STREAM.iter().for_each(|part| feed(&sender, part));
        } else {
            script.message();
        }
        settle().await;
        let again = send(&service, marked("Hi", stream)).await.expect("a hit");
        assert_eq!(
            (again.cache_status(), scripts.calls(), scripts.alive()),
            ("hit", 1, 0)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn detached_call_reads_on_past_slow_readers() {
    let (upstream, scripts) = upstream();
    let service = layer().detached().layer(upstream);
    let slow = service.clone().oneshot(marked("Hi", true));
    let (slow, sender) = tokio::join!(slow, async { scripts.next().await.stream() });
    let mut slow = slow.expect("a head").into_body();
    STREAM.iter().for_each(|part| feed(&sender, part));
    drop(sender);
    settle().await;
    assert_eq!(
        scripts.alive(),
        0,
        "nobody has read a frame, and all is recorded"
    );
    assert_eq!(
        send(&service, marked("Hi", true))
            .await
            .expect("a hit")
            .cache_status(),
        "hit"
    );
    let mut text = String::new();
    while let Some(frame) = slow.frame().await {
        text.push_str(
            std::str::from_utf8(frame.expect("no error").data_ref().expect("data")).expect("text"),
        );
    }
    assert_eq!(text, STREAM.concat());
}

#[tokio::test(start_paused = true)]
async fn detached_leader_gets_its_own_head_and_error() {
    let (upstream, scripts) = upstream();
    let service = layer().detached().layer(upstream);
    let (got, ()) = tokio::join!(send(&service, request()), async {
        let headers = [
            ("content-type", "application/json"),
            ("request-id", "req_7"),
        ];
        feed(&scripts.next().await.head(200, &headers), MESSAGE);
    });
    let got = got.expect("an answer");
    assert_eq!(
        (got.header("request-id"), got.cache_status()),
        ("req_7", "miss")
    );
    let (got, ()) = tokio::join!(send(&service, marked("other", false)), async {
        scripts.next().await.error(Broken("reset"));
    });
    assert_eq!(got.expect_err("the error itself"), Broken("reset"));
}

#[tokio::test(start_paused = true)]
async fn detached_task_does_not_count_as_a_waiter() {
    let (upstream, scripts) = upstream();
    let two = std::num::NonZeroUsize::new(2).expect("not 0");
    let service = layer().with_max_waiters(two).detached().layer(upstream);
    let (first, second, ()) = tokio::join!(
        send(&service, request()),
        send(&service, request()),
        async {
            let script = scripts.next().await;
            settle().await;
            script.message();
        }
    );
    let said = [first, second].map(|got| got.expect("an answer").cache_status().to_owned());
    assert_eq!(said, ["miss", "hit"]);
}
