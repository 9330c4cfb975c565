//! `StreamState` on every stream fixture, with any chunking.

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
    "counts_fall",
    "output_falls_to_zero",
    "float_counts",
    "deltas_without_start",
];

/// All facts of a stream.
#[derive(Debug, PartialEq)]
struct Observed {
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

fn observed<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Observed {
    let mut state = StreamState::new();
    for chunk in chunks {
        state.feed(chunk);
    }
    Observed {
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

fn of(name: &str) -> Observed {
    observed([fixture(name).as_bytes()])
}

#[test]
fn complete_stream_has_usage_and_stop_reason() {
    let observed = of("ok");
    assert!(
        observed.started
            && observed.has_content
            && observed.complete
            && observed.at_boundary
            && !observed.refusal
    );
    assert_eq!(observed.error, None);
    assert_eq!(observed.stop_reason.as_deref(), Some("end_turn"));
    assert_eq!(
        (observed.usage.input_tokens, observed.usage.output_tokens),
        (Some(25), Some(15))
    );
    assert_eq!(observed.usage.cache_read_input_tokens, Some(1000));
    let deltas = fixture("ok")
        .lines()
        .filter(|line| line.contains("\"content_block_delta\""));
    assert_eq!(
        observed.delta_bytes,
        deltas.map(|line| line.len() as u64 - 6).sum::<u64>()
    );
}

#[test]
fn errors() {
    let observed = of("error_first_event");
    assert_eq!(observed.error.as_deref(), Some("overloaded_error"));
    assert!(
        !observed.started && !observed.has_content && !observed.complete && observed.at_boundary
    );
    assert!(observed.usage.is_empty());

    let observed = of("error_before_content");
    assert_eq!(observed.error.as_deref(), Some("overloaded_error"));
    assert!(observed.started && !observed.has_content && !observed.complete);
    assert_eq!(observed.usage.output_tokens, Some(1));

    let observed = of("error_midstream");
    assert_eq!(observed.error.as_deref(), Some("overloaded_error"));
    assert!(observed.has_content && !observed.complete);
    assert!(observed.delta_bytes > 0);
}

/// New events may appear at any time, even before `message_start`.
#[test]
fn unknown_event_is_not_claude_until_message_start() {
    let mut state = StreamState::new();
    state.feed(b"event: new\ndata: {}\n\n");
    assert!(state.is_not_claude());
    for claude in [
        "event: new\ndata: {\"type\":\"new\"}\n\n",
        "data: [DONE]\n\n",
    ] {
        let mut state = StreamState::new();
        state.feed(claude.as_bytes());
        assert!(!state.is_not_claude(), "{claude}");
    }
    state.feed(fixture("truncated_no_message_stop").as_bytes());
    assert!(state.started() && !state.is_not_claude());
    state.feed(b"event: new\ndata: {}\n\n");
    assert!(!state.is_not_claude());
}

#[test]
fn refusal_keeps_the_first_input_count() {
    let observed = of("refusal_midstream");
    assert!(observed.refusal && observed.complete);
    assert_eq!(
        (observed.usage.input_tokens, observed.usage.output_tokens),
        (Some(25), Some(9))
    );
}

#[test]
fn stream_without_usage_or_end_is_recognized() {
    let observed = of("thinking_omitted_no_usage");
    assert!(observed.complete && observed.usage.is_empty());
    assert_eq!(observed.stop_reason.as_deref(), Some("end_turn"));

    let observed = of("truncated_no_message_stop");
    assert!(observed.has_content && !observed.complete && observed.at_boundary);
    assert_eq!(observed.error, None);
    assert_eq!(observed.stop_reason, None);
}

#[test]
fn any_chunking_and_line_end_gives_the_same_state() {
    for (name, lf) in STREAMS {
        let whole = of(name);
        for end in ["\n", "\r", "\r\n"] {
            let stream = lf.replace('\n', end).into_bytes();
            for at in 0..=stream.len() {
                let (a, b) = stream.split_at(at);
                assert_eq!(observed([a, b]), whole, "{name} {end:?} at {at}");
            }
            for size in 1..20 {
                assert_eq!(
                    observed(stream.chunks(size)),
                    whole,
                    "{name} {end:?} by {size}"
                );
            }
        }
    }
}

#[test]
fn events_without_name_are_recognized_by_their_data() {
    for (name, stream) in STREAMS {
        let unnamed: String = stream
            .split_inclusive('\n')
            .filter(|line| !line.starts_with("event:"))
            .collect();
        assert_eq!(observed([unnamed.as_bytes()]), of(name), "{name}");
    }
}

#[test]
fn event_kind_is_read_from_name_or_type() {
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
fn unparsable_error_event_is_an_api_error() {
    for data in [
        "",
        "{}",
        "oops",
        r#"{"type":"error","error":{"type":"overl"#,
    ] {
        let stream = format!("event: error\ndata: {data}\n\n");
        assert_eq!(
            observed([stream.as_bytes()]).error.as_deref(),
            Some("api_error"),
            "{data}"
        );
    }
}

#[test]
fn counts_of_a_stream_never_fall() {
    let used = |name| {
        let usage = of(name).usage;
        (
            usage.limited_input(),
            usage.cache_read_input_tokens,
            usage.output_tokens,
        )
    };
    assert_eq!(used("counts_fall"), (Some(270_000), Some(100), Some(37)));
    assert_eq!(used("output_falls_to_zero"), (Some(2_700), None, Some(37)));
    assert_eq!(used("float_counts"), (Some(2_700), None, Some(37)));
    // An absurd count does not stay either.
    let observed = observed([&b"event: message_delta\ndata: {\"delta\":{},\"usage\":{\"input_tokens\":18446744073709551615,\"output_tokens\":-1}}\n\n\
        event: message_delta\ndata: {\"delta\":{},\"usage\":{\"input_tokens\":7,\"output_tokens\":null}}\n\n"[..]]);
    assert_eq!(
        (observed.usage.input_tokens, observed.usage.output_tokens),
        (Some(7), None)
    );
}

#[test]
fn delta_without_block_start_is_content() {
    let text = fixture("deltas_without_start");
    let delta = text.find("event: content_block_delta").expect("a delta");
    assert!(!observed([&text.as_bytes()[..delta]]).has_content);
    let end = delta + text[delta..].find("\n\n").expect("its end") + 2;
    assert!(observed([&text.as_bytes()[..end]]).has_content);
}

#[test]
fn error_in_any_shape_is_an_error() {
    for (stream, kind) in [
        (
            "data: {\"error\":{\"message\":\"m\",\"type\":\"server_error\"}}\n\n",
            "server_error",
        ),
        (
            "data: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"m\"}}\n\n",
            "overloaded_error",
        ),
        (
            "event: message\ndata: {\"error\":{\"type\":\"overloaded_error\",\"message\":\"m\"}}\n\n",
            "overloaded_error",
        ),
        ("data: {\"error\":\"overloaded\"}\n\n", "api_error"),
        (
            "data: {\"error\":{\"code\":429,\"status\":\"RESOURCE_EXHAUSTED\",\"message\":\"m\"}}\n\n",
            "RESOURCE_EXHAUSTED",
        ),
        ("event: error\ndata: {\"message\":\"m\"}\n\n", "api_error"),
        (
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"throttlingException\",\"message\":\"m\"}}\n\n",
            "throttlingException",
        ),
        (
            "event: throttlingException\ndata: {\"message\":\"m\"}\n\n",
            "throttlingException",
        ),
        (
            "event: ModelStreamErrorException\ndata: {\"message\":\"m\"}\n\n",
            "ModelStreamErrorException",
        ),
        ("event: exception\ndata: {}\n\n", "api_error"),
    ] {
        assert_eq!(
            observed([stream.as_bytes()]).error.as_deref(),
            Some(kind),
            "{stream}"
        );
    }
    let chunk = b"data: {\"choices\":[],\"error\":null}\n\ndata: [DONE]\n\n";
    assert_eq!(observed([&chunk[..]]).error, None);
}

#[test]
fn stream_is_whole_after_its_stop_reason() {
    let finished = |stream: &str| {
        let mut state = StreamState::new();
        state.feed(stream.as_bytes());
        state.finish();
        (state.is_complete(), state.is_whole())
    };
    let text = fixture("ok");
    assert_eq!(finished(text), (true, true));
    // The last blank line, and the last line end, are missing.
    assert_eq!(finished(text.trim_end()), (true, true));
    assert_eq!(finished(&format!("{}\n", text.trim_end())), (true, true));
    let stop = text.find("event: message_stop").expect("the end");
    for end in [stop, stop + 8, stop + 20, stop + 30] {
        assert_eq!(finished(&text[..end]), (false, true), "{end}");
    }
    let delta = text.find("event: message_delta").expect("the stop reason");
    for end in [0, 10, delta, delta + 20, delta + 50] {
        assert_eq!(finished(&text[..end]), (false, false), "{end}");
    }
    // No message has begun.
    assert_eq!(
        finished("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"),
        (false, false)
    );
    assert_eq!(finished("data: [DONE]\n\n"), (false, false));
}

#[test]
fn last_event_of_a_stream_without_its_blank_line_is_read() {
    let mut state = StreamState::new();
    state.feed(fixture("error_first_event").trim_end().as_bytes());
    assert!(state.error().is_none());
    state.finish();
    assert_eq!(state.error().expect("an error").kind, "overloaded_error");
}

#[test]
fn first_error_is_kept() {
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
fn later_message_delta_replaces_counts() {
    let stream = "event: message_delta\ndata: {\"delta\":{\"stop_reason\":null},\"usage\":{\"output_tokens\":5}}\n\n\
        event: message_delta\ndata: {\"delta\":{\"stop_reason\":\"max_tokens\"},\"usage\":{\"output_tokens\":9,\
        \"iterations\":[{\"type\":\"compaction\",\"input_tokens\":70,\"output_tokens\":3},\
        {\"type\":\"message\",\"input_tokens\":2,\"output_tokens\":9}]}}\n\n\
        event: message_delta\ndata: {\"delta\":{}}\n\n";
    let observed = observed([stream.as_bytes()]);
    assert_eq!(observed.usage.output_tokens, Some(9));
    assert_eq!(
        (
            observed.usage.limited_input(),
            observed.usage.limited_output()
        ),
        (Some(72), Some(12))
    );
    assert_eq!(observed.stop_reason.as_deref(), Some("max_tokens"));
}

proptest! {
    #[test]
    fn damaged_stream_does_not_depend_on_chunking(
        which in 0..STREAMS.len(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        size in 1usize..300,
    ) {
        let mut stream = STREAMS[which].1.as_bytes().to_vec();
        for (at, byte) in damage {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        prop_assert_eq!(observed(stream.chunks(size)), observed([stream.as_slice()]));
    }
}
