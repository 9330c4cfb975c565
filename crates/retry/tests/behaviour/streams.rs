//! Responses that are held, and streams that the caller reads.

use std::{convert::Infallible, io, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::time::timeout;
use tower::{Layer, ServiceExt, service_fn};
use tower_claude_core::{Kind, RequestBody};
use tower_claude_retry::Timeouts;
use tower_claude_tests::{FrameBody, Received};

use crate::api::*;

fn whole() -> String {
    [START, PING, CONTENT, DELTA, STOP].concat()
}

fn fine() -> Reply {
    Reply::stream([START, PING, CONTENT, DELTA, STOP].map(data))
}

#[tokio::test(start_paused = true)]
async fn failure_before_content_is_retried() {
    for (failure, kind) in [
        (vec![data(START), data(PING), data(ERROR)], "overloaded"),
        (vec![data(START), data(PING)], "truncated"),
        (vec![], "truncated"),
        (vec![data(START), Piece::Broken], "transport"),
    ] {
        let (layer, events) = layer();
        let api = Api::new([Reply::stream(failure), fine()]);
        let answer = through(&layer, &api).await;
        assert_eq!(answer.text(), whole());
        assert_eq!(events.lines(), [format!("retry 1 {kind} 1s")]);
    }
}

#[tokio::test(start_paused = true)]
async fn failure_after_content_is_forwarded_and_recorded() {
    for (rest, text, kind) in [
        (vec![data(ERROR)], ERROR, "overloaded"),
        (vec![], "", "truncated"),
        (vec![data(DELTA), Piece::Broken], DELTA, "transport"),
    ] {
        let (layer, events) = layer();
        let broken = rest.iter().any(|piece| matches!(piece, Piece::Broken));
        let api = Api::new([Reply::stream(
            [vec![data(START), data(CONTENT)], rest].concat(),
        )]);
        let answer = through(&layer, &api).await;
        assert_eq!(answer.text(), [START, CONTENT, text].concat());
        assert_eq!(answer.error.is_some(), broken);
        assert_eq!(events.lines(), [format!("broken {kind}")]);
        assert_eq!(layer.handle().snapshot().broken, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn last_failed_stream_is_returned_unchanged() {
    let (layer, events) = layer();
    let failure = Reply::stream([data(START), data(ERROR), data(PING)]);
    let api = Api::new(std::iter::repeat_n(failure, 5));
    let answer = through(&layer, &api).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.text(), [START, ERROR, PING].concat());
    assert_eq!(answer.class().kind, Kind::Overloaded);
    assert_eq!(
        events.lines().last().unwrap(),
        "gave up 5 overloaded attempts"
    );
}

#[tokio::test(start_paused = true)]
async fn stream_split_anywhere_is_forwarded_unchanged() {
    let text = whole();
    for cut in 0..text.len() {
        let (layer, events) = layer();
        let (a, b) = text.split_at(cut);
        let chunks = [a, b].map(|part| Piece::Data(Bytes::copy_from_slice(part.as_bytes())));
        let api = Api::new([Reply::stream(chunks)]);
        assert_eq!(through(&layer, &api).await.text(), text);
        assert!(events.lines().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn stream_is_forwarded_at_first_content() {
    let (layer, _) = layer();
    let pieces = [
        data(START),
        Piece::Wait(SECOND),
        data(CONTENT),
        Piece::Stall,
    ];
    let api = Api::new([Reply::stream(pieces)]);
    let response = layer.layer(api.clone()).oneshot(request()).await.unwrap();
    assert_eq!(api.elapsed(), SECOND);
    drop(response);
    assert_eq!(api.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn truncated_json_is_retried() {
    let (layer, _) = layer();
    let half = Reply::json(200, "").pieces([data(r#"{"type":"mess"#), Piece::Broken]);
    let api = Api::new([half, Reply::fine()]);
    let answer = through(&layer, &api).await;
    assert_eq!(answer.text(), r#"{"type":"message","content":[]}"#);
    assert_eq!(api.arrivals(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn json_over_held_limit_is_not_retried() {
    let (layer, events) = layer();
    let long = Bytes::from(vec![b' '; 65 * 1024]);
    let reply = Reply::json(200, "").pieces([Piece::Data(long.clone()), Piece::Broken]);
    let answer = through(&layer, &Api::new([reply])).await;
    assert!(answer.error.is_some());
    assert_eq!(answer.body, long);
    assert_eq!(events.lines(), ["broken transport"]);
}

#[tokio::test(start_paused = true)]
async fn opaque_body_is_not_held() {
    let (layer, _) = layer();
    for (name, value) in [("content-type", "image/png"), ("content-encoding", "gzip")] {
        let reply = Reply::fine().header(name, value).pieces([Piece::Stall]);
        let api = Api::new([reply]);
        let response = layer.layer(api.clone()).oneshot(request()).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), api.elapsed()),
            (200, Duration::ZERO)
        );
    }
}

const SILENT: &str = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"timeout_error\",\"message\":\"retry: the stream was silent for 2 min\"}}\n\n";

#[tokio::test(start_paused = true)]
async fn silent_stream_ends_with_error_event() {
    for (last, close) in [(DELTA, ""), ("event: content_block_del", "\n\n")] {
        let (layer, events) = layer();
        let pieces = [
            data(START),
            data(CONTENT),
            Piece::Wait(SECOND),
            data(last),
            Piece::Stall,
        ];
        let api = Api::new([Reply::stream(pieces)]);
        let answer = through(&layer, &api).await;
        let text = [START, CONTENT, last, close, SILENT].concat();
        assert_eq!(text_of(&answer), text_without_request_id(&text));
        assert_eq!(api.elapsed(), 121 * SECOND);
        assert_eq!(events.lines(), ["broken timeout"]);
        let snapshot = layer.handle().snapshot();
        assert_eq!((snapshot.timed_out, snapshot.broken), (1, 1));
    }
}

fn text_of(answer: &Received<io::Error>) -> String {
    assert!(answer.error.is_none());
    text_without_request_id(answer.text())
}

/// Removes a request id of null, which an error event may have or not.
fn text_without_request_id(text: &str) -> String {
    text.replace(",\"request_id\":null", "")
}

#[tokio::test(start_paused = true)]
async fn error_event_of_timer_releases_inner_body() {
    let (layer, _) = layer();
    let api = Api::new([Reply::stream([data(START), data(CONTENT), Piece::Stall])]);
    let mut response = layer.layer(api.clone()).oneshot(request()).await.unwrap();
    let mut frames = 0;
    while let Some(frame) = response.body_mut().frame().await {
        frame.unwrap();
        frames += 1;
    }
    assert_eq!((frames, api.alive()), (3, 0), "{response:?}");
}

#[tokio::test(start_paused = true)]
async fn every_frame_restarts_idle_timeout() {
    let (layer, events) = layer();
    let beat = [Piece::Wait(119 * SECOND), data(PING)];
    let pieces = [
        vec![data(START)],
        beat.to_vec(),
        vec![data(CONTENT)],
        [&beat[..]; 4].concat(),
        vec![data(STOP)],
    ];
    let api = Api::new([Reply::stream(pieces.concat())]);
    let answer = through(&layer, &api).await;
    assert!(answer.text().ends_with(STOP));
    assert_eq!(api.elapsed(), 5 * 119 * SECOND);
    assert!(events.lines().is_empty());
}

#[tokio::test(start_paused = true)]
async fn stream_past_total_timeout_ends_with_error_event() {
    let (layer, events) = layer();
    let layer = layer.with_timeouts(Timeouts::NONE.with_total(Some(10 * SECOND)));
    let beat = std::iter::repeat_n([Piece::Wait(4 * SECOND), data(DELTA)], 9);
    let beat: Vec<_> = beat.flatten().collect();
    let api = Api::new([Reply::stream(
        [vec![data(START), data(CONTENT)], beat].concat(),
    )]);
    let answer = through(&layer, &api).await;
    assert!(
        answer
            .text()
            .starts_with(&[START, CONTENT, DELTA, DELTA, "event: error"].concat())
    );
    assert!(answer.text().contains("did not end within 10 s"));
    assert_eq!(api.elapsed(), 10 * SECOND);
    assert_eq!(events.lines(), ["broken timeout"]);
}

#[tokio::test(start_paused = true)]
async fn complete_stream_that_stalls_ends_without_event() {
    let (layer, events) = layer();
    let pieces = [data(START), data(CONTENT), data(STOP), Piece::Stall];
    let api = Api::new([Reply::stream(pieces)]);
    let answer = through(&layer, &api).await;
    assert_eq!(answer.text(), [START, CONTENT, STOP].concat());
    assert_eq!(api.elapsed(), 120 * SECOND);
    assert!(events.lines().is_empty());
}

#[tokio::test(start_paused = true)]
async fn failed_stream_that_stalls_ends_without_second_error() {
    let (layer, events) = layer();
    let pieces = [data(START), data(CONTENT), data(ERROR), Piece::Stall];
    let api = Api::new([Reply::stream(pieces)]);
    let answer = through(&layer, &api).await;
    assert_eq!(answer.text(), [START, CONTENT, ERROR].concat());
    assert_eq!(events.lines(), ["broken overloaded"]);
}

#[tokio::test(start_paused = true)]
async fn opaque_body_has_no_timers() {
    let (layer, _) = layer();
    let pieces = [Piece::Wait(3600 * SECOND), data("late")];
    let reply = Reply::new(200)
        .header("content-type", "image/png")
        .pieces(pieces);
    let answer = through(&layer, &Api::new([reply])).await;
    assert_eq!(answer.text(), "late");
}

/// An `error` event would break the length in the head.
#[tokio::test(start_paused = true)]
async fn stream_of_known_length_has_no_timers() {
    let (layer, _) = layer();
    let api = service_fn(|_: Request<RequestBody>| async {
        let pieces = [START, CONTENT].map(|text| tower_claude_tests::Piece::Data(text.into()));
        let stall = [tower_claude_tests::Piece::Stall];
        let body = FrameBody::new(pieces.into_iter().chain(stall)).exact();
        let response = Response::builder().header("content-type", "text/event-stream");
        Ok::<_, Infallible>(response.body(body).unwrap())
    });
    let response = layer.layer(api).oneshot(request()).await.unwrap();
    let reading = read(response.into_body());
    assert!(timeout(3600 * SECOND, reading).await.is_err());
}

/// The stream of the report: one delta, and then only signs of life.
fn alive(beat: &'static str, every: Duration, times: usize, rest: &[Piece]) -> Reply {
    let beats = std::iter::repeat_n([Piece::Wait(every), data(beat)], times);
    let start = vec![data(START), data(CONTENT), data(DELTA)];
    Reply::stream([start, beats.flatten().collect(), rest.to_vec()].concat())
}

#[tokio::test(start_paused = true)]
async fn stream_without_content_ends_after_content_timeout() {
    const HOURS: usize = 2_000;
    // A ping, a comment, and an event that never ends.
    for beat in [PING, ": keepalive\n\n", "x"] {
        let (layer, events) = layer();
        let api = Api::new([alive(beat, 15 * SECOND, HOURS, &[])]);
        let answer = through(&layer, &api).await;
        assert_eq!(api.elapsed(), 600 * SECOND, "{beat}");
        assert!(answer.error.is_none());
        assert!(
            answer
                .text()
                .contains("the stream had no content for 10 min")
        );
        assert_eq!(events.lines(), ["broken timeout"]);
        assert_eq!((api.alive(), layer.handle().snapshot().timed_out), (0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn pings_for_less_than_the_content_timeout_are_not_cut() {
    let rest = [data(DELTA), data(STOP)];
    let slow = alive(PING, 15 * SECOND, 39, &rest);
    // Each event begins a new silence.
    let thinking = alive(DELTA, 100 * SECOND, 20, &rest);
    for reply in [slow, thinking] {
        let (layer, events) = layer();
        let api = Api::new([reply]);
        assert!(through(&layer, &api).await.text().ends_with(STOP));
        assert!(events.lines().is_empty());
    }
    let (layer, _) = layer();
    let layer = layer.with_timeouts(Timeouts::new().with_content(None));
    let api = Api::new([alive(PING, 15 * SECOND, 1_000, &rest)]);
    assert!(through(&layer, &api).await.text().ends_with(STOP));
}
