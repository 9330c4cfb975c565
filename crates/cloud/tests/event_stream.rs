//! Event streams of `InvokeModel` as server-sent events.
#![cfg(feature = "bedrock")]

#[path = "common/frames.rs"]
mod frames;

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderMap;
use proptest::prelude::*;
use tower_claude_cloud::bedrock::{EventStreamDecoder, InvocationMetrics};
use tower_claude_core::{ClassifyResponse, ClaudeClassify, Kind, STREAM_TRUNCATED};
use tower_claude_wire::{ApiError, StreamEvent, StreamState, Usage};

use frames::{
    BLOCK_START, BLOCK_STOP, DELTA, MESSAGE_DELTA, MESSAGE_START, MESSAGE_STOP, chunk, crc,
    exception, frame, frame_of, text_header, whole,
};

fn event(name: &str, data: &str) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

fn whole_as_events() -> String {
    [
        event("message_start", MESSAGE_START),
        event("content_block_start", BLOCK_START),
        event("content_block_delta", DELTA),
        event("content_block_stop", BLOCK_STOP),
        event("message_delta", MESSAGE_DELTA),
        event("message_stop", r#"{"type":"message_stop"}"#),
    ]
    .concat()
}

/// Decodes chunks to their end.
fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut decoder = EventStreamDecoder::new();
    let mut events = Vec::new();
    for chunk in chunks {
        events.extend(decoder.push(chunk));
    }
    events.extend(decoder.finish());
    String::from_utf8(events).expect("events are UTF-8")
}

fn decode_all(bytes: &[u8]) -> String {
    decode([bytes])
}

/// Returns the error at the end of a stream.
fn error_of(events: &str) -> Option<ApiError> {
    let mut state = StreamState::new();
    let mut last = None;
    state.feed_with(events.as_bytes(), |kind, _| last = Some(kind));
    assert!(state.at_boundary(), "every event is whole");
    let error = state.error().cloned();
    assert!(
        error.is_none() || last == Some(StreamEvent::Error),
        "nothing follows an error"
    );
    error
}

fn is_truncated(events: &str) -> bool {
    error_of(events).is_some_and(|error| {
        let kind = ClaudeClassify::default().stream_error(&error).kind;
        let is_code = error.error_code.as_deref() == Some(STREAM_TRUNCATED);
        assert_eq!(is_code, kind == Kind::Truncated);
        is_code
    })
}

#[test]
fn stream_is_written_byte_for_byte_without_the_metrics() {
    assert_eq!(decode_all(&whole()), whole_as_events());
}

#[test]
fn metrics_of_the_last_event_are_handed_out_and_agree_with_the_usage() {
    let mut decoder = EventStreamDecoder::new();
    let events = decoder.push(&whole());
    let metrics = *decoder.metrics().get().expect("metrics");
    assert_eq!(metrics.input_tokens, Some(12));
    assert_eq!(metrics.output_tokens, Some(8));
    assert_eq!(metrics.cache_read_input_tokens, Some(1800));
    assert_eq!(metrics.cache_write_input_tokens, Some(0));
    assert_eq!(metrics.latency, Some(Duration::from_millis(1245)));
    assert_eq!(metrics.first_byte_latency, Some(Duration::from_millis(412)));
    let mut state = StreamState::new();
    state.feed(&events);
    assert!(metrics.agrees_with(state.usage()));
    let mut other = state.usage().clone();
    other.cache_read_input_tokens = Some(0);
    assert!(!metrics.agrees_with(&other));
    assert!(
        metrics.agrees_with(&Usage::default()),
        "an absent count contradicts nothing"
    );
}

#[test]
fn metrics_are_cut_out_of_any_place_and_nothing_else_changes() {
    let metrics = r#""amazon-bedrock-invocationMetrics":{"inputTokenCount":"x"}"#;
    for (with, without) in [
        ("{\"type\":\"t\",@}", "{\"type\":\"t\"}"),
        ("{@,\"type\":\"t\"}", "{\"type\":\"t\"}"),
        ("{ @ , \"type\":\"t\" }", "{ \"type\":\"t\" }"),
        (
            "{\"type\":\"t\", @, \"a\":[1, 2]}",
            "{\"type\":\"t\", \"a\":[1, 2]}",
        ),
        ("{\"type\":\"t\" , @ }", "{\"type\":\"t\" }"),
        // Only a member of the event itself.
        (
            "{\"type\":\"t\",\"text\":\"amazon-bedrock-invocationMetrics\"}",
            "",
        ),
        (
            "{\"type\":\"t\",\"a\":{\"amazon-bedrock-invocationMetrics\":{}}}",
            "",
        ),
    ] {
        let with = with.replace('@', metrics);
        let without = if without.is_empty() { &*with } else { without };
        let mut decoder = EventStreamDecoder::new();
        let events = decoder.push(&chunk(&with));
        assert_eq!(events, event("t", without));
        // A count that is no number is absent.
        let is_cut = *without != with;
        assert_eq!(
            decoder.metrics().get(),
            is_cut.then_some(&InvocationMetrics::default())
        );
    }
}

#[test]
fn metrics_are_read_from_the_headers_of_a_response() {
    let mut headers = HeaderMap::new();
    assert_eq!(InvocationMetrics::from_headers(&headers), None);
    for (name, value) in [
        ("x-amzn-bedrock-input-token-count", "12"),
        ("x-amzn-bedrock-output-token-count", "8"),
        ("x-amzn-bedrock-cache-read-input-token-count", "1800"),
        ("x-amzn-bedrock-cache-write-input-token-count", "many"),
        ("x-amzn-bedrock-invocation-latency", "1245"),
    ] {
        headers.insert(name, value.parse().expect("a value"));
    }
    let metrics = InvocationMetrics::from_headers(&headers).expect("metrics");
    assert_eq!(metrics.input_tokens, Some(12));
    assert_eq!(metrics.output_tokens, Some(8));
    assert_eq!(metrics.cache_read_input_tokens, Some(1800));
    assert_eq!(metrics.cache_write_input_tokens, None);
    assert_eq!(metrics.latency, Some(Duration::from_millis(1245)));
}

/// The frames that are no errors, as the official SDK for Python (2.14.0) reads them. It differs
/// only in an empty chunk and in one that is no JSON, of which it makes a `completion`.
#[test]
fn frames_are_read_as_the_official_sdks_read_them() {
    let message = |headers: &[(&str, &str)], payload| frame(headers, payload);
    let event_frame = |payload| {
        message(
            &[(":event-type", "chunk"), (":message-type", "event")],
            payload,
        )
    };
    let cases = [
        (
            "an event is named by its type",
            chunk(r#"{"type":"ping"}"#),
            event("ping", r#"{"type":"ping"}"#),
        ),
        (
            "an unknown type is kept",
            chunk(r#"{"a":1,"type":"new_kind"}"#),
            event("new_kind", r#"{"a":1,"type":"new_kind"}"#),
        ),
        (
            "escapes in a type are resolved",
            chunk(r#"{"type":"p\u0069ng"}"#),
            event("ping", r#"{"type":"p\u0069ng"}"#),
        ),
        (
            "a legacy chunk is a completion",
            chunk(r#"{"completion":" Hi"}"#),
            event("completion", r#"{"completion":" Hi"}"#),
        ),
        (
            "a type that is no text does not count",
            chunk(r#"{"type":1,"completion":""}"#),
            event("completion", r#"{"type":1,"completion":""}"#),
        ),
        (
            "an event of neither kind is skipped",
            chunk(r#"{"amazon-bedrock-trace":{}}"#),
            String::new(),
        ),
        (
            "a frame without a chunk is skipped",
            event_frame("{}"),
            String::new(),
        ),
        (
            "an empty chunk is skipped",
            event_frame(r#"{"bytes":""}"#),
            String::new(),
        ),
        (
            "a frame of another kind is skipped",
            message(
                &[
                    (":event-type", "initial-response"),
                    (":message-type", "event"),
                ],
                "{}",
            ),
            String::new(),
        ),
        (
            "a frame of an unknown message type is read by its event type",
            message(
                &[(":event-type", "metadata"), (":message-type", "later")],
                "!",
            ),
            String::new(),
        ),
        (
            "a frame without headers is skipped",
            message(&[], "text"),
            String::new(),
        ),
        (
            "an event without padding is read",
            event_frame(&format!(
                r#"{{"bytes":"{}"}}"#,
                STANDARD.encode(r#"{"type":"ping"}"#)
            )),
            event("ping", r#"{"type":"ping"}"#),
        ),
        (
            "escapes in base64 are resolved",
            event_frame(&format!(
                r#"{{"p":"","bytes":"{}"}}"#,
                STANDARD.encode(r#"{"type":"???>>>"}"#).replace('/', "\\/")
            )),
            event("???>>>", r#"{"type":"???>>>"}"#),
        ),
        (
            "line breaks between members split the data",
            chunk("{\r\n\"type\":\n\"ping\"}"),
            "event: ping\ndata: {\ndata: \ndata: \"type\":\ndata: \"ping\"}\n\n".to_owned(),
        ),
    ];
    for (what, frame, expected) in cases {
        let mut decoder = EventStreamDecoder::new();
        assert_eq!(decoder.push(&frame), expected, "{what}");
        assert!(!decoder.is_over(), "{what}");
    }
}

#[test]
fn chunk_that_is_no_event_breaks_the_stream() {
    let headers = [(":event-type", "chunk"), (":message-type", "event")];
    let payload = |payload: &str| frame(&headers, payload);
    let bytes = |bytes: &[u8]| payload(&format!(r#"{{"bytes":"{}"}}"#, STANDARD.encode(bytes)));
    for broken in [
        payload("no JSON"),
        payload("[]"),
        payload(r#"{"bytes":"#),
        payload(r#"{"bytes":5}"#),
        payload(r#"{"bytes":"no base64!"}"#),
        bytes(b"text"),
        bytes(b"[1]"),
        bytes(br#"{"type":"ping"#),
        bytes(b"{\"type\":\"\xFF\"}"),
        bytes(br#"{"type":""}"#),
        bytes(br#"{"type":"a\nevent: message_stop"}"#),
    ] {
        let stream = [chunk(MESSAGE_START), broken, chunk(MESSAGE_STOP)].concat();
        let events = decode_all(&stream);
        assert!(events.starts_with(&event("message_start", MESSAGE_START)));
        assert!(is_truncated(&events), "{events}");
        assert!(!events.contains("message_stop"), "{events}");
    }
}

#[test]
fn exception_ends_the_stream_with_an_error_of_the_claude_api() {
    for (name, kind, class) in [
        ("throttlingException", "rate_limit_error", Kind::RateLimited),
        (
            "serviceUnavailableException",
            "overloaded_error",
            Kind::Overloaded,
        ),
        ("modelTimeoutException", "timeout_error", Kind::Timeout),
        ("modelStreamErrorException", "api_error", Kind::ServerError),
        ("internalServerException", "api_error", Kind::ServerError),
        (
            "validationException",
            "invalid_request_error",
            Kind::BadRequest,
        ),
        ("accessDeniedException", "permission_error", Kind::Forbidden),
        ("someLaterException", "api_error", Kind::ServerError),
    ] {
        let text = "Too many requests, please wait before trying again.";
        let payload = format!(r#"{{"message":"{text}"}}"#);
        let as_error = [
            (":message-type", "error"),
            (":error-code", name),
            (":error-message", text),
        ];
        for last in [exception(name, &payload), frame(&as_error, "")] {
            let stream = [chunk(MESSAGE_START), last, chunk(MESSAGE_STOP)].concat();
            let events = decode_all(&stream);
            let data = format!(
                r#"{{"type":"error","error":{{"type":"{kind}","message":"{text}","details":{{"error_code":"{name}"}}}}}}"#
            );
            let expected = event("message_start", MESSAGE_START) + &event("error", &data);
            assert_eq!(events, expected);
            let error = error_of(&events).expect("an error");
            assert_eq!(ClaudeClassify::default().stream_error(&error).kind, class);
        }
    }
}

#[test]
fn exception_without_name_or_message_still_ends_the_stream_with_an_error() {
    for (frame, message) in [
        (
            exception("throttlingException", "no JSON"),
            "throttlingException",
        ),
        (
            exception("throttlingException", r#"{"Message":"Wait"}"#),
            "Wait",
        ),
        (
            frame(&[(":message-type", "exception")], "{}"),
            "without a name",
        ),
        (frame(&[(":message-type", "error")], ""), "without a name"),
    ] {
        let error = error_of(&decode_all(&frame)).expect("an error");
        assert!(error.message.contains(message), "{error}");
        assert_ne!(error.error_code.as_deref(), Some(STREAM_TRUNCATED));
    }
}

#[test]
fn error_event_inside_a_chunk_is_the_end() {
    let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    assert_eq!(decode_all(&chunk(error)), event("error", error));
}

#[test]
fn every_cut_is_truncated() {
    let stream = whole();
    for end in 0..stream.len() {
        let events = decode_all(&stream[..end]);
        assert!(is_truncated(&events), "cut at {end}");
        let whole = whole_as_events();
        let before = events.rfind("event: error").expect("an error");
        assert!(
            whole.starts_with(&events[..before]),
            "what came before is kept"
        );
    }
}

#[test]
fn bytes_after_the_last_frame_are_truncated() {
    for rest in [&b"\0"[..], b"\0\0\0\x20\0\0\0\0", &chunk(BLOCK_STOP)[..40]] {
        let events = decode_all(&[&whole(), rest].concat());
        assert!(is_truncated(&events));
    }
}

#[test]
fn every_flipped_bit_is_truncated() {
    // Short, because there are as many streams as bits.
    let stop = r#"{"type":"message_stop","amazon-bedrock-invocationMetrics":{}}"#;
    let stream = [chunk(r#"{"type":"ping"}"#), chunk(stop)].concat();
    let whole = decode_all(&stream);
    assert!(error_of(&whole).is_none());
    for bit in 0..stream.len() * 8 {
        let mut flipped = stream.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let events = decode_all(&flipped);
        assert!(is_truncated(&events), "bit {bit}");
        let before = events.rfind("event: error").expect("an error");
        assert!(whole.starts_with(&events[..before]), "bit {bit}");
    }
}

#[test]
fn damaged_length_is_found_before_the_frames_that_follow_are_swallowed() {
    let mut stream = whole();
    stream[1] ^= 0x10; // The first frame seems to have a mebibyte more.
    let mut decoder = EventStreamDecoder::new();
    assert!(decoder.push(&stream[..11]).is_empty());
    let events = decoder.push(&stream[11..12]);
    assert!(is_truncated(std::str::from_utf8(&events).expect("UTF-8")));
    assert!(decoder.is_over());
    assert!(decoder.push(&whole()).is_empty());
    assert!(decoder.finish().is_empty(), "one error is enough");
}

#[test]
fn lengths_over_their_limits_are_refused_by_the_prelude() {
    let prelude = |length: u32, headers: u32| {
        let mut prelude = [length.to_be_bytes(), headers.to_be_bytes()].concat();
        prelude.extend(crc(&prelude));
        prelude
    };
    for (length, headers) in [
        (0, 0),
        (15, 0),
        (16, 1),
        (100, 85),
        ((16 << 20) + 1, 0),
        (1 << 20, (128 << 10) + 1),
        (u32::MAX, u32::MAX),
        (100, u32::MAX),
    ] {
        let mut decoder = EventStreamDecoder::new();
        let events = decoder.push(&prelude(length, headers));
        assert!(is_truncated(std::str::from_utf8(&events).expect("UTF-8")));
        assert!(decoder.is_over(), "{length} {headers}");
    }
    for (length, headers) in [(17, 1), (16 << 20, 128 << 10), (100, 84)] {
        let mut decoder = EventStreamDecoder::new();
        assert!(decoder.push(&prelude(length, headers)).is_empty());
        assert!(!decoder.is_over(), "{length} {headers}");
    }
}

#[test]
fn header_of_unknown_type_is_an_error_at_once() {
    for kind in 10..=255 {
        let mut headers = text_header(":event-type", "chunk");
        headers.extend([1, b'x', kind, 0, 1, 2, 3]);
        let mut decoder = EventStreamDecoder::new();
        let events = decoder.push(&frame_of(&headers, b"{}"));
        assert!(
            is_truncated(std::str::from_utf8(&events).expect("UTF-8")),
            "{kind}"
        );
        assert!(decoder.is_over());
    }
}

#[test]
fn headers_of_known_types_beside_the_text_are_skipped() {
    let widths = [
        (0, 0),
        (1, 0),
        (2, 1),
        (3, 2),
        (4, 4),
        (5, 8),
        (8, 8),
        (9, 16),
    ];
    for (kind, width) in widths {
        let mut headers = vec![1, b'x', kind];
        headers.extend(vec![7; width]);
        headers.extend(text_header(":event-type", "chunk"));
        let payload = format!(r#"{{"bytes":"{}"}}"#, STANDARD.encode(r#"{"type":"ping"}"#));
        let mut decoder = EventStreamDecoder::new();
        let events = decoder.push(&frame_of(&headers, payload.as_bytes()));
        assert_eq!(events, event("ping", r#"{"type":"ping"}"#), "{kind}");
    }
    // A name that is known, with a value that is no text.
    let mut headers = vec![11];
    headers.extend(b":event-type\x04\0\0\0\0");
    let mut decoder = EventStreamDecoder::new();
    assert!(decoder.push(&frame_of(&headers, b"{}")).is_empty());
    assert!(!decoder.is_over());
}

#[test]
fn official_frames_are_read_and_official_broken_frames_are_truncated() {
    macro_rules! data {
        ($($name:literal),*) => { [$(($name, &include_bytes!(concat!("data/aws/event-stream/", $name))[..])),*] };
    }
    for (name, bytes) in data![
        "valid_empty_payload",
        "valid_no_headers",
        "valid_with_all_headers_and_payload"
    ] {
        let stream = [bytes, &whole()].concat();
        assert_eq!(decode_all(&stream), whole_as_events(), "{name}");
        let bytewise = stream.chunks(1);
        assert_eq!(decode(bytewise), whole_as_events(), "{name}");
    }
    for (name, bytes) in data![
        "invalid_header_name_length",
        "invalid_header_name_length_too_long",
        "invalid_header_string_length_cut_off",
        "invalid_header_string_value_length",
        "invalid_header_value_type",
        "invalid_headers_length",
        "invalid_message_checksum",
        "invalid_prelude_checksum"
    ] {
        let mut decoder = EventStreamDecoder::new();
        let events = decoder.push(bytes);
        assert!(
            is_truncated(std::str::from_utf8(&events).expect("UTF-8")),
            "{name}"
        );
        assert!(decoder.is_over(), "{name}");
    }
}

#[test]
fn debug_shows_no_content() {
    let mut decoder = EventStreamDecoder::new();
    decoder.push(&whole()[..700]);
    let text = format!("{decoder:?}");
    assert!(!text.contains("msg_bdrk") && !text.contains("Gr"), "{text}");
}

/// Splits bytes at these places.
fn split<'a>(bytes: &'a [u8], at: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<_> = at.iter().map(|at| at % (bytes.len() + 1)).collect();
    places.sort_unstable();
    let mut parts = Vec::new();
    let mut start = 0;
    for place in places {
        parts.push(&bytes[start..place]);
        start = place;
    }
    parts.push(&bytes[start..]);
    parts
}

/// Any frames: of events, of exceptions, of other kinds, and damaged ones.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let event = prop_oneof![
        Just(MESSAGE_START.to_owned()),
        Just(MESSAGE_STOP.to_owned()),
        "\\{\"type\":\"[a-z_]{1,8}\",\"a\":\"[a-zé😀\r\n]{0,80}\"\\}",
        "[ -~]{0,30}",
    ];
    let frame = prop_oneof![
        6 => event.prop_map(|event| chunk(&event)),
        1 => "[a-zA-Z]{0,20}".prop_map(|name| exception(&name, "{}")),
        1 => proptest::collection::vec(any::<u8>(), 0..60).prop_map(|bytes| frame_of(&[], &bytes)),
        1 => proptest::collection::vec(any::<u8>(), 0..60).prop_map(|bytes| frame_of(&bytes, b"{}")),
        1 => proptest::collection::vec(any::<u8>(), 0..60),
    ];
    proptest::collection::vec(frame, 0..6).prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_events(
        stream in prop_oneof![any_stream(), Just(whole())],
        at in proptest::collection::vec(any::<usize>(), 0..12),
    ) {
        let expected = decode_all(&stream);
        prop_assert_eq!(&decode(split(&stream, &at)), &expected);
        prop_assert_eq!(&decode(stream.chunks(1)), &expected);
    }

    #[test]
    fn any_bytes_end_with_an_error_or_a_message_stop(
        stream in prop_oneof![any_stream(), proptest::collection::vec(any::<u8>(), 0..300)],
    ) {
        let events = decode_all(&stream);
        let is_whole = events.contains("event: message_stop\n");
        prop_assert!(is_whole || error_of(&events).is_some());
    }
}
