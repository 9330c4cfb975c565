//! Held until content, replayed untouched.

use http::HeaderMap;
use http_body::Body;
use proptest::prelude::*;
use tower_claude_core::{
    BodyTracker, Class, ClassifyResponse, ClaudeClassify, HOLD_LIMIT, Hold, Kind, Outcome, Verdict,
};

use tower_claude_wire::StreamState;

use crate::frames::{
    Cut, Frames, Piece, chunked, data, drain, fixture, frames, headers, json, run, sse,
};

fn hold(headers: &HeaderMap, body: Frames) -> (Verdict, Hold<Frames>) {
    let mut hold = Hold::new(body, BodyTracker::of(headers));
    let verdict = run(std::future::poll_fn(|cx| {
        hold.poll_verdict(cx, |error| {
            ClassifyResponse::stream_error(&ClaudeClassify::default(), error)
        })
    }));
    (verdict, hold)
}

fn replayed(hold: Hold<Frames>) -> (Vec<u8>, Option<HeaderMap>, Option<Cut>) {
    drain(hold.into_body(|rest, _| rest))
}

fn failed(kind: Kind) -> Verdict {
    Verdict::Failed(Class::new(kind))
}

#[test]
fn streams() {
    for (name, verdict) in [
        ("sse_ok.txt", Verdict::Commit),
        ("sse_error_first_event.txt", failed(Kind::Overloaded)),
        ("sse_error_before_content.txt", failed(Kind::Overloaded)),
        ("sse_error_midstream.txt", Verdict::Commit),
        ("sse_truncated_no_message_stop.txt", Verdict::Commit),
        ("sse_refusal_midstream.txt", Verdict::Commit),
        ("sse_thinking_omitted_no_usage.txt", Verdict::Commit),
    ] {
        let text = fixture(name);
        for size in [1, 30, 100_000] {
            let body = chunked(&text, size);
            let (got, hold) = hold(&sse(), body.clone());
            assert_eq!(got, verdict, "{name}");
            assert_eq!(replayed(hold), drain(body), "{name}");
        }
    }
}

#[test]
fn only_up_to_the_first_content() {
    let text = fixture("sse_ok.txt");
    let (verdict, hold) = hold(&sse(), chunked(&text, 1));
    assert_eq!(verdict, Verdict::Commit);
    assert_eq!(hold.outcome(), None, "the rest is still to come");
    let mut rest = 0;
    drop(hold.into_body(|body, watch| {
        rest = body.pieces.len();
        assert!(watch.stream().is_some_and(StreamState::has_content));
        body
    }));
    let held = String::from_utf8_lossy(&text[..text.len() - rest]).into_owned();
    assert!(
        held.contains("content_block_start") && !held.contains("Hello"),
        "{held}"
    );
}

#[test]
fn ends_before_content() {
    let start = fixture("sse_error_before_content.txt");
    let start = &start[..start.len() / 2];
    for (body, verdict) in [
        (chunked(start, 10), failed(Kind::Truncated)),
        (chunked(start, 10).exact(), failed(Kind::Truncated)),
        (frames([]), failed(Kind::Truncated)),
        (
            chunked(start, 10).then(Piece::Error),
            failed(Kind::Transport),
        ),
        (frames([Piece::Error]), failed(Kind::Transport)),
    ] {
        let (got, hold) = hold(&sse(), body.clone());
        assert_eq!(got, verdict);
        assert_eq!(replayed(hold), drain(body));
    }
}

#[test]
fn foreign_streams_are_not_held() {
    let text = b"event: chunk\ndata: {\"choices\":[]}\n\n".repeat(9);
    let body = chunked(&text, 40).then(Piece::Wait);
    let (verdict, hold) = hold(&sse(), body);
    assert_eq!(verdict, Verdict::Commit);
    assert_eq!(hold.outcome(), None);
    drop(hold.into_body(|body, watch| {
        assert!(body.pieces.len() > 7, "held on for too long");
        assert!(watch.stream().is_some_and(StreamState::is_not_claude));
        body
    }));
}

#[test]
fn what_is_neither_is_not_held() {
    let gzip = headers(&[
        ("content-type", "text/event-stream"),
        ("content-encoding", "gzip"),
    ]);
    for headers in [HeaderMap::new(), gzip] {
        let (verdict, hold) = hold(&headers, frames([data("ab"), Piece::Error]));
        assert_eq!(verdict, Verdict::Commit);
        let body = hold.into_body(|rest, _| {
            assert_eq!(rest.pieces.len(), 2, "read on");
            rest
        });
        assert_eq!(format!("{body:?}"), "ResponseBody(inner)");
    }
}

#[test]
fn a_message_that_just_stops_may_be_asked_for_again() {
    for size in [1, 7, 100] {
        let (verdict, _) = hold(&json(), chunked(br#"{"content":[{"text":"Hal"#, size));
        assert_eq!(verdict, failed(Kind::Truncated));
    }
}

#[test]
fn messages_are_held_whole() {
    let text = fixture("200_message.json");
    for body in [
        frames([data(text.clone())]).exact(),
        chunked(&text, 20),
        chunked(&text, 20).exact(),
        chunked(&text, 20).then(Piece::Trailers),
        frames([]).exact(),
        frames([]),
    ] {
        let (verdict, hold) = hold(&json(), body.clone());
        assert_eq!(verdict, Verdict::Commit);
        assert_eq!(replayed(hold), drain(body));
    }
    let (verdict, hold) = hold(&json(), chunked(&text, 20));
    assert_eq!(verdict, Verdict::Commit);
    let outcome = hold.outcome().expect("it ended");
    assert!(matches!(&outcome, Outcome::Complete { usage } if !usage.is_empty()));

    let (verdict, hold) = self::hold(&json(), chunked(&text, 20).then(Piece::Error));
    assert_eq!(verdict, failed(Kind::Transport));
    assert_eq!(replayed(hold), (text, None, Some(Cut)));
}

#[test]
fn at_most_the_limit_is_held() {
    let ping = b"event: ping\ndata: {\"type\":\"ping\"}\n\n";
    let text = ping.repeat(5 * HOLD_LIMIT / ping.len());
    for (headers, text) in [(sse(), text), (json(), vec![b'['; 5 * HOLD_LIMIT])] {
        let body = chunked(&text, 1000);
        let (verdict, hold) = hold(&headers, body.clone());
        assert_eq!(verdict, Verdict::Commit);
        let mut left = 0;
        let replay = hold.into_body(|rest, _| {
            left = rest.pieces.len() * 1000;
            rest
        });
        let held = text.len().next_multiple_of(1000) - left;
        assert!(
            (HOLD_LIMIT..HOLD_LIMIT + 1000).contains(&held),
            "{held} bytes are held"
        );
        assert_eq!(drain(replay).0, text);
    }
}

#[test]
fn nothing_held_nothing_wrapped() {
    let hold = Hold::new(frames([data("a")]).exact(), BodyTracker::of(&json()));
    let body = hold.into_body(|rest, _| rest);
    assert_eq!(format!("{body:?}"), "ResponseBody(inner)");
    assert_eq!(body.size_hint().exact(), Some(1));
}

#[test]
fn empty_frames_are_not_held() {
    let body = frames([data(""), data(""), data("{}"), data("")]);
    let (verdict, hold) = hold(&json(), body);
    assert_eq!(verdict, Verdict::Commit);
    let body = hold.into_body(|rest, _| rest);
    assert_eq!(format!("{body:?}"), "ResponseBody(full)");
}

/// The layer that goes on watching must hear of it.
#[test]
fn what_is_cut_short_is_not_whole() {
    let (_, hold) = hold(&json(), frames([data("{\"a")]).exact());
    let mut is_watched = false;
    drop(hold.into_body(|rest, _| {
        is_watched = true;
        rest
    }));
    assert!(is_watched);
}

#[test]
fn more_bytes_are_a_sign_of_life() {
    let ping = "event: ping\ndata: {}\n\n";
    let mut hold = Hold::new(
        frames([data(ping), Piece::Wait, data(ping), Piece::Wait]),
        BodyTracker::of(&sse()),
    );
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert_eq!(hold.length(), 0);
    for times in 1..3 {
        let error = |_: &tower_claude_wire::ApiError| Class::SUCCESS;
        assert!(hold.poll_verdict(&mut cx, error).is_pending());
        assert_eq!(hold.length(), times * ping.len());
    }
}

proptest! {
    /// Whatever the chunks: the verdict of the whole, and the bytes as they came.
    #[test]
    fn any_chunks(
        cuts in prop::collection::vec(1_usize..300, 1..30),
        waits in prop::collection::vec(any::<bool>(), 1..9),
        name in prop::sample::select(vec![
            "sse_ok.txt", "sse_error_first_event.txt", "sse_error_before_content.txt",
            "sse_error_midstream.txt", "sse_truncated_no_message_stop.txt", "200_message.json",
        ]),
        cut_at in 0.0_f64..1.3,
        error: bool,
    ) {
        let text = fixture(name);
        #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, clippy::cast_precision_loss)]
        let length = ((text.len() as f64 * cut_at) as usize).min(text.len());
        let headers = if name.starts_with("sse") { sse() } else { json() };
        let end = error.then_some(Piece::Error);

        let mut whole = frames([data(text[..length].to_vec())]);
        whole.pieces.extend(end.clone());
        let (expected, _) = hold(&headers, whole.clone());

        let (mut cuts, mut waits) = (cuts.into_iter().cycle(), waits.into_iter().cycle());
        let mut rest = &text[..length];
        let mut body = frames([]);
        while !rest.is_empty() {
            let (part, more) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
            body = body.then(data(part.to_vec()));
            if waits.next() == Some(true) { body = body.then(Piece::Wait); }
            rest = more;
        }
        body.pieces.extend(end);
        let (verdict, held) = hold(&headers, body);
        prop_assert_eq!(verdict, expected);
        prop_assert_eq!(replayed(held), drain(whole));
    }
}

#[test]
fn answers_that_decline() {
    let declined = r#"{"type":"message","content":[],"stop_reason":"refusal"}"#;
    let whole =
        r#"{"type":"message","content":[{"stop_reason":"refusal"}],"stop_reason":"end_turn"}"#;
    for size in [1, 20, 1_000] {
        let is_refusal = |text: &str| hold(&json(), chunked(text.as_bytes(), size)).1.is_refusal();
        assert!(is_refusal(declined) && !is_refusal(whole), "{size}");
        assert!(!is_refusal(&declined[..50]), "{size}");
    }
    // After content it is too late to matter.
    let (_, held) = hold(
        &sse(),
        chunked(&fixture("sse_refusal_midstream.txt"), 1_000_000),
    );
    assert!(!held.is_refusal());
    let early = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\n\
        event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"refusal\"}}\n\n\
        event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    let (verdict, held) = hold(&sse(), chunked(early.as_bytes(), 7));
    assert!(verdict == Verdict::Commit && held.is_refusal());
}
