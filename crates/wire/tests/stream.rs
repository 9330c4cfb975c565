//! `StreamState` on every stream fixture, cut everywhere.

use proptest::prelude::*;
use tower_claude_wire::{SseEvent, StreamEvent, StreamState};

macro_rules! fixtures {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("fixtures/sse_", $name, ".txt")))),*]
    };
}

const STREAMS: &[(&str, &str)] = fixtures![
    "ok",
    "error_before_content",
    "error_first_event",
    "error_midstream",
    "refusal_midstream",
    "thinking_omitted_no_usage",
    "truncated_no_message_stop",
];

/// All that a stream told.
#[derive(Debug, PartialEq)]
struct Told {
    usage: tower_claude_wire::Usage,
    started: bool,
    has_content: bool,
    complete: bool,
    error: Option<String>,
    stop_reason: Option<String>,
    refusal: bool,
    delta_bytes: u64,
    at_boundary: bool,
}

fn told<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Told {
    let mut state = StreamState::new();
    for chunk in chunks {
        state.feed(chunk);
    }
    Told {
        usage: state.usage().clone(),
        started: state.started(),
        has_content: state.has_content(),
        complete: state.is_complete(),
        error: state.error().map(|error| error.kind.clone()),
        stop_reason: state.stop_reason().map(str::to_owned),
        refusal: state.is_refusal(),
        delta_bytes: state.delta_bytes(),
        at_boundary: state.at_boundary(),
    }
}

fn fixture(name: &str) -> &'static str {
    STREAMS
        .iter()
        .find(|(known, _)| *known == name)
        .expect("a fixture")
        .1
}

fn of(name: &str) -> Told {
    told([fixture(name).as_bytes()])
}

#[test]
fn a_whole_answer() {
    let told = of("ok");
    assert!(told.started && told.has_content && told.complete && told.at_boundary && !told.refusal);
    assert_eq!(told.error, None);
    assert_eq!(told.stop_reason.as_deref(), Some("end_turn"));
    assert_eq!(
        (told.usage.input_tokens, told.usage.output_tokens),
        (Some(25), Some(15))
    );
    assert_eq!(told.usage.cache_read_input_tokens, Some(1000));
    let deltas = fixture("ok")
        .lines()
        .filter(|line| line.contains("\"content_block_delta\""));
    assert_eq!(
        told.delta_bytes,
        deltas.map(|line| line.len() as u64 - 6).sum::<u64>()
    );
}

#[test]
fn errors() {
    let told = of("error_first_event");
    assert_eq!(told.error.as_deref(), Some("overloaded_error"));
    assert!(!told.started && !told.has_content && !told.complete && told.at_boundary);
    assert!(told.usage.is_empty());

    let told = of("error_before_content");
    assert_eq!(told.error.as_deref(), Some("overloaded_error"));
    assert!(told.started && !told.has_content && !told.complete);
    assert_eq!(told.usage.output_tokens, Some(1));

    let told = of("error_midstream");
    assert_eq!(told.error.as_deref(), Some("overloaded_error"));
    assert!(told.has_content && !told.complete);
    assert!(told.delta_bytes > 0);
}

/// New events may come at any time, and before `message_start` too.
#[test]
fn foreign_until_it_says_that_it_is_claudes() {
    let mut state = StreamState::new();
    state.feed(b"event: new\ndata: {}\n\n");
    assert!(state.is_not_claude());
    state.feed(fixture("truncated_no_message_stop").as_bytes());
    assert!(state.started() && !state.is_not_claude());
    state.feed(b"event: new\ndata: {}\n\n");
    assert!(!state.is_not_claude());
}

#[test]
fn a_refusal_keeps_the_first_input_count() {
    let told = of("refusal_midstream");
    assert!(told.refusal && told.complete);
    assert_eq!(
        (told.usage.input_tokens, told.usage.output_tokens),
        (Some(25), Some(9))
    );
}

#[test]
fn no_usage_and_truncated() {
    let told = of("thinking_omitted_no_usage");
    assert!(told.complete && told.usage.is_empty());
    assert_eq!(told.stop_reason.as_deref(), Some("end_turn"));

    let told = of("truncated_no_message_stop");
    assert!(told.has_content && !told.complete && told.at_boundary);
    assert_eq!(told.error, None);
    assert_eq!(told.stop_reason, None);
}

#[test]
fn cut_at_every_byte_and_with_every_line_end() {
    for (name, lf) in STREAMS {
        let whole = of(name);
        for end in ["\n", "\r", "\r\n"] {
            let stream = lf.replace('\n', end).into_bytes();
            for at in 0..=stream.len() {
                let (a, b) = stream.split_at(at);
                assert_eq!(told([a, b]), whole, "{name} {end:?} at {at}");
            }
            for size in 1..20 {
                assert_eq!(told(stream.chunks(size)), whole, "{name} {end:?} by {size}");
            }
        }
    }
}

#[test]
fn without_event_lines_the_data_tells() {
    for (name, stream) in STREAMS {
        let unnamed: String = stream
            .split_inclusive('\n')
            .filter(|line| !line.starts_with("event:"))
            .collect();
        assert_eq!(told([unnamed.as_bytes()]), of(name), "{name}");
    }
}

#[test]
fn kinds() {
    let kind = |name: &str, data: &str| {
        StreamEvent::of(&SseEvent {
            name: name.as_bytes(),
            data: data.as_bytes(),
            overflowed: false,
        })
    };
    assert_eq!(kind("ping", "{}"), StreamEvent::Ping);
    assert_eq!(
        kind("ping", r#"{"type":"error"}"#),
        StreamEvent::Ping,
        "the name counts"
    );
    assert_eq!(
        kind("", r#"{"index":0,"type":"content_block_stop"}"#),
        StreamEvent::ContentBlockStop
    );
    assert_eq!(
        kind("", r#"{"type":"content_block_delta","delta":{"te"#),
        StreamEvent::ContentBlockDelta
    );
    assert_eq!(kind("brand_new", "{}"), StreamEvent::Other);
    for data in ["", "[DONE]", "{}", r#"{"type":5}"#] {
        assert_eq!(kind("", data), StreamEvent::Other, "{data}");
    }
}

#[test]
fn an_unreadable_error_is_still_an_error() {
    for data in [
        "",
        "{}",
        "oops",
        r#"{"type":"error","error":{"type":"overl"#,
    ] {
        let stream = format!("event: error\ndata: {data}\n\n");
        assert_eq!(
            told([stream.as_bytes()]).error.as_deref(),
            Some("api_error"),
            "{data}"
        );
    }
}

#[test]
fn the_first_error_stays() {
    let mut state = StreamState::new();
    state.feed(fixture("error_first_event").as_bytes());
    state.feed(b"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"x\"}}\n\n");
    let error = state.error().expect("an error");
    assert_eq!(
        (error.kind.as_str(), error.message.as_str()),
        ("overloaded_error", "Overloaded")
    );
}

#[test]
fn several_message_deltas_are_cumulative() {
    let stream = "event: message_delta\ndata: {\"delta\":{\"stop_reason\":null},\"usage\":{\"output_tokens\":5}}\n\n\
        event: message_delta\ndata: {\"delta\":{\"stop_reason\":\"max_tokens\"},\"usage\":{\"output_tokens\":9,\
        \"iterations\":[{\"type\":\"compaction\",\"input_tokens\":70,\"output_tokens\":3},\
        {\"type\":\"message\",\"input_tokens\":2,\"output_tokens\":9}]}}\n\n\
        event: message_delta\ndata: {\"delta\":{}}\n\n";
    let told = told([stream.as_bytes()]);
    assert_eq!(told.usage.output_tokens, Some(9));
    assert_eq!(
        (told.usage.limited_input(), told.usage.limited_output()),
        (Some(72), Some(12))
    );
    assert_eq!(told.stop_reason.as_deref(), Some("max_tokens"));
}

proptest! {
    #[test]
    fn damaged_streams_do_not_panic_and_do_not_depend_on_chunks(
        which in 0..STREAMS.len(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        size in 1usize..300,
    ) {
        let mut stream = STREAMS[which].1.as_bytes().to_vec();
        for (at, byte) in damage {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        prop_assert_eq!(told(stream.chunks(size)), told([stream.as_slice()]));
    }
}
