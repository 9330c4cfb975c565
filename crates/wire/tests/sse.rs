//! `SseScanner`: the standard's parsing, the same for any chunking, in bounded memory.

use proptest::prelude::*;
use tower_claude_wire::{SseEvent, SseScanner};

type Event = (Vec<u8>, Vec<u8>, bool);

fn owned(event: SseEvent<'_>) -> Event {
    (event.name.to_vec(), event.data.to_vec(), event.overflowed)
}

fn scan<'a>(
    mut scanner: SseScanner,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Event>, bool) {
    let mut events = Vec::new();
    for chunk in chunks {
        scanner.feed(chunk, |event| events.push(owned(event)));
    }
    (events, scanner.at_boundary())
}

fn events(stream: &str) -> Vec<(String, String)> {
    let (events, _) = scan(SseScanner::new(), [stream.as_bytes()]);
    let text = |bytes| String::from_utf8(bytes).expect("text");
    events
        .into_iter()
        .map(|(name, data, overflowed)| {
            assert!(!overflowed);
            (text(name), text(data))
        })
        .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(name, data)| ((*name).to_owned(), (*data).to_owned()))
        .collect()
}

/// The standard's algorithm, line by line, on the whole text.
fn reference(stream: &[u8]) -> Vec<Event> {
    let stream = stream.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(stream);
    let (mut lines, mut line, mut previous) = (Vec::new(), Vec::new(), 0);
    for &byte in stream {
        match (previous, byte) {
            (b'\r', b'\n') => {}
            (_, b'\r' | b'\n') => lines.push(std::mem::take(&mut line)),
            _ => line.push(byte),
        }
        previous = byte;
    }
    let (mut events, mut name, mut data) = (Vec::new(), Vec::new(), None::<Vec<u8>>);
    for line in lines {
        if line.is_empty() {
            let name = std::mem::take(&mut name);
            events.extend(data.take().map(|data| (name, data, false)));
            continue;
        }
        let colon = line.iter().position(|b| *b == b':');
        let (field, value) = colon.map_or((&*line, &b""[..]), |at| (&line[..at], &line[at + 1..]));
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => name = value.to_vec(),
            b"data" => match &mut data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => data = Some(value.to_vec()),
            },
            _ => {}
        }
    }
    events
}

#[test]
fn line_ends_bom_comments_and_unknown_fields_are_accepted() {
    let expected = pairs(&[("a", "1"), ("", "2\n3")]);
    for end in ["\n", "\r", "\r\n"] {
        let stream = "\u{feff}event: a|data: 1||: comment|id: 7|data:2|retry|what: x|data: 3||"
            .replace('|', end);
        assert_eq!(events(&stream), expected, "{end:?}");
    }
}

#[test]
fn edge_cases_are_as_in_the_standard() {
    assert_eq!(events("data\n\n"), pairs(&[("", "")]));
    assert_eq!(events("data:\ndata:\n\n"), pairs(&[("", "\n")]));
    assert_eq!(
        events("data:  two\n\n"),
        pairs(&[("", " two")]),
        "one space is taken off"
    );
    assert_eq!(
        events("event: a\n\ndata: 1\n\n"),
        pairs(&[("", "1")]),
        "a name without data is forgotten"
    );
    assert_eq!(
        events("event: a\nevent: b\ndata: 1\n\n"),
        pairs(&[("b", "1")])
    );
    assert_eq!(events("event: a\ndata: 1\nevent\n\n"), pairs(&[("", "1")]));
    assert_eq!(events(" data: 1\ndatax: 2\nevents: 3\n\n"), []);
    assert_eq!(events("data: 1\n"), [], "no blank line, no event");
    assert_eq!(events("data: \u{feff}\n\n"), pairs(&[("", "\u{feff}")]));
    assert_eq!(
        events("\u{feff}\u{feff}data: 1\n\n"),
        [],
        "only one mark is taken off"
    );
}

#[test]
fn boundary_is_between_two_events() {
    let at = |chunks: &[&str]| {
        scan(
            SseScanner::new(),
            chunks.iter().map(|chunk| chunk.as_bytes()),
        )
        .1
    };
    assert!(at(&[]));
    assert!(at(&["data: 1\n\n"]));
    assert!(at(&["data: 1\r\n\r"]));
    assert!(at(&["data: 1\r\n\r", "\n"]));
    assert!(at(&["\n\n: comment\n"]));
    assert!(!at(&["data: 1\n"]));
    assert!(!at(&["event: a\n"]));
    assert!(!at(&["id: 1\n"]));
    assert!(!at(&["data: 1\n\nd"]));
    assert!(!at(&[": comm"]));
    // In the midst of a byte order mark, and after it.
    let mark = "\u{feff}".as_bytes();
    for (length, expected) in [(1, false), (2, false), (3, true)] {
        let (_, at) = scan(SseScanner::new(), [&mark[..length]]);
        assert_eq!(at, expected, "{length}");
    }
}

#[test]
fn event_over_the_limit_is_cut_and_the_next_is_complete() {
    let long = "x".repeat(500);
    for (stream, data) in [
        (
            format!("event: e\ndata: {long}\n\ndata: next\n\n"),
            100 - "data: ".len(),
        ),
        (
            format!(
                "event: e\n{}\ndata: next\n\n",
                format!("data: {}\n", "x".repeat(60)).repeat(5)
            ),
            100,
        ),
    ] {
        let (whole, _) = scan(SseScanner::with_limit(100), [stream.as_bytes()]);
        assert_eq!(whole.len(), 2);
        assert_eq!(
            (whole[0].0.as_slice(), whole[0].1.len(), whole[0].2),
            (&b"e"[..], data, true)
        );
        assert_eq!(whole[1], (Vec::new(), b"next".to_vec(), false));
        let (bytewise, _) = scan(SseScanner::with_limit(100), stream.as_bytes().chunks(1));
        assert_eq!(bytewise, whole);
    }
}

#[test]
fn event_at_the_limit_is_not_cut() {
    let value = "x".repeat(100 - "data: ".len());
    let (whole, _) = scan(
        SseScanner::with_limit(100),
        [format!("data: {value}\n\n").as_bytes()],
    );
    assert_eq!(whole, [(Vec::new(), value.clone().into_bytes(), false)]);
    let (over, _) = scan(
        SseScanner::with_limit(100),
        [format!("data: {value}y\n\n").as_bytes()],
    );
    assert_eq!(over, [(Vec::new(), value.into_bytes(), true)]);
}

#[test]
fn long_comment_does_not_overflow() {
    let stream = format!(":{}\ndata: 1\n\n", "x".repeat(500));
    for size in [1, 1000] {
        let (events, _) = scan(SseScanner::with_limit(100), stream.as_bytes().chunks(size));
        assert_eq!(events, [(Vec::new(), b"1".to_vec(), false)]);
    }
}

#[test]
fn complete_event_is_borrowed_from_the_chunk() {
    let chunk = b"event: a\ndata: 1\n\nevent: b\r\ndata: 2\r\n\r\n";
    let range = chunk.as_ptr_range();
    let mut seen = 0;
    SseScanner::new().feed(chunk, |event| {
        assert!(range.contains(&event.name.as_ptr()) && range.contains(&event.data.as_ptr()));
        seen += 1;
    });
    assert_eq!(seen, 2);
}

#[test]
fn debug_output_has_no_event_data() {
    let mut scanner = SseScanner::new();
    scanner.feed(b"event: e\ndata: secret\ndata: sec", |_| {});
    assert!(!format!("{scanner:?}").contains("sec"));
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let part = proptest::sample::select(vec![
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        "data: ",
        "data:",
        "data",
        "event: ",
        "event:",
        "event",
        ":",
        " ",
        "id: 1",
        "x",
        "{\"a\":1}",
        "\u{feff}",
        "\u{0}",
        "é",
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ]);
    let part = prop_oneof![
        20 => part.prop_map(|part| part.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..6),
    ];
    proptest::collection::vec(part, 0..60).prop_map(|parts| parts.concat())
}

/// Cuts the stream at the given points.
fn cut<'a>(stream: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut points: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    points.extend([0, stream.len()]);
    points.sort_unstable();
    points
        .windows(2)
        .map(|pair| &stream[pair[0]..pair[1]])
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_stream_agrees_with_the_reference_parser(stream in stream()) {
        let (events, _) = scan(SseScanner::new(), [stream.as_slice()]);
        prop_assert_eq!(events, reference(&stream));
    }

    #[test]
    fn any_chunking_gives_the_same_events(
        stream in stream(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        limit in prop_oneof![Just(64usize), 64usize..200, Just(1 << 20)],
    ) {
        let whole = scan(SseScanner::with_limit(limit), [stream.as_slice()]);
        prop_assert_eq!(&scan(SseScanner::with_limit(limit), cut(&stream, &cuts)), &whole);
        prop_assert_eq!(&scan(SseScanner::with_limit(limit), stream.chunks(1)), &whole);
        for (_, data, _) in &whole.0 {
            prop_assert!(data.len() <= limit);
        }
    }

    #[test]
    fn any_bytes_do_not_panic(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8)) {
        let whole = chunks.concat();
        let chunked = scan(SseScanner::with_limit(0), chunks.iter().map(Vec::as_slice));
        prop_assert_eq!(chunked, scan(SseScanner::with_limit(0), [whole.as_slice()]));
    }
}
