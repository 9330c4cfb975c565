//! Parsing on its own, on the inputs of the call rows and on larger ones, beside general parsers.

use std::{borrow::Cow, convert::Infallible, hint::black_box};

use bytes::Bytes;
use eventsource_stream::Eventsource;
use futures_util::{FutureExt, Stream, StreamExt};
use serde::Deserialize;
use tower_claude_wire::{self as wire, JsonResponse, Peek, RateLimits, StreamState, Usage};

use crate::{
    floor::{ANSWER_HEADERS, REQUEST_BODY},
    harness::Case,
    texts,
};

/// The row of the response head.
pub(crate) const HEAD: &str = "parsing: the head (all rate limits, and the date)";

/// The row of the check of a success whose usage no layer reads. It is a part of the next row.
pub(crate) const CHECK: &str = "parsing: check of the answer alone";

/// Returns the parsing of one call by the three layers: once each, on exactly the inputs of the
/// call rows. Of the head these are the rate limits and the date. Content type, encoding and
/// request id are measured with their layers.
pub(crate) fn of_one_call() -> Vec<Case> {
    let body: &'static [u8] = &REQUEST_BODY;
    vec![
        Case::of(HEAD, || {
            let headers = black_box(&*ANSWER_HEADERS);
            (RateLimits::from_headers(headers), wire::date(headers))
        }),
        Case::of(CHECK, || JsonResponse::of(black_box(texts::MESSAGE))),
        Case::of("parsing: check and usage of the answer", || {
            let mut usage = None;
            let response = JsonResponse::with_usage(black_box(texts::MESSAGE), &mut usage);
            (response, usage)
        }),
        Case::of("parsing: peek of the 2 KiB request", move || {
            Peek::parse(black_box(body))
        }),
    ]
}

/// Every case here but those of one call.
pub(crate) fn all() -> Vec<Case> {
    let mut cases: Vec<Case> = heads().into();
    cases.extend(usages());
    cases.extend(streams());
    cases.extend(bodies().into_iter().flat_map(|(_, cases)| cases));
    cases
}

/// Three fields of a request, the way one would read them with serde.
#[derive(Deserialize)]
struct Three<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    max_tokens: u64,
    stream: bool,
}

/// Request bodies: ours, serde's and a copy, for each kind and size.
pub(crate) fn bodies() -> Vec<(String, [Case; 3])> {
    type Make = fn(usize) -> Vec<u8>;
    let kinds: [(&str, Make); 3] = [
        ("prose", texts::prose),
        ("code", texts::code),
        ("tools", texts::tools),
    ];
    let sizes = [
        ("2 KiB", 2 << 10),
        ("100 KiB", 100 << 10),
        ("1 MiB", 1 << 20),
    ];
    let mut rows = Vec::new();
    for (kind, make) in kinds {
        for (size, bytes) in sizes {
            let body: &'static [u8] = make(bytes).leak();
            let name = format!("{kind}, {size}");
            let few = (4 << 20) / bytes as u64;
            let peek = Case::of(format!("peek {name}"), move || Peek::parse(black_box(body)));
            let serde = Case::of(format!("serde_json {name}"), move || {
                let three: Three<'_> = serde_json::from_slice(black_box(body)).expect("valid JSON");
                (three.model.len(), three.max_tokens, three.stream)
            });
            let copy = Case::of(format!("copy {name}"), move || black_box(body).to_vec());
            rows.push((name, [peek, serde, copy].map(|case| case.with_probe(few))));
        }
    }
    rows
}

/// One stream, chunk by chunk: passed through, observed by us, and parsed by a general parser.
pub(crate) fn streams() -> [Case; 3] {
    let chunks: &'static [Bytes] = texts::stream().leak();
    [
        Case::of("pass-through", move || {
            run(source(chunks).fold(0, async |sum, chunk| sum + text(chunk).len()))
        }),
        Case::of("StreamState::feed", move || {
            run(
                source(chunks).fold(StreamState::new(), async |mut state, chunk| {
                    state.feed(&text(chunk));
                    state
                }),
            )
        }),
        Case::of("eventsource-stream", move || {
            run(source(chunks).eventsource().fold(0, async |sum, event| {
                sum + event.expect("a valid stream").data.len()
            }))
        }),
    ]
    .map(|case| case.with_items(texts::EVENTS).with_probe(2))
}

fn source(chunks: &'static [Bytes]) -> impl Stream<Item = Result<Bytes, Infallible>> + Unpin {
    futures_util::stream::iter(chunks.iter().cloned().map(Ok))
}

fn text(chunk: Result<Bytes, Infallible>) -> Bytes {
    match chunk {
        Ok(chunk) => chunk,
        Err(never) => match never {},
    }
}

fn run<R>(future: impl Future<Output = R>) -> R {
    future.now_or_never().expect("all chunks are there")
}

/// Response heads: ours, and the lookups one would write by hand.
pub(crate) fn heads() -> [Case; 2] {
    const NAMES: [&str; 12] = [
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
        "anthropic-ratelimit-input-tokens-limit",
        "anthropic-ratelimit-input-tokens-remaining",
        "anthropic-ratelimit-input-tokens-reset",
        "anthropic-ratelimit-output-tokens-limit",
        "anthropic-ratelimit-output-tokens-remaining",
        "anthropic-ratelimit-output-tokens-reset",
        "anthropic-ratelimit-tokens-limit",
        "anthropic-ratelimit-tokens-remaining",
        "anthropic-ratelimit-tokens-reset",
    ];
    [
        Case::of("RateLimits::from_headers, values parsed", || {
            RateLimits::from_headers(black_box(&*ANSWER_HEADERS))
        }),
        Case::of("12 lookups by name, values not parsed", || {
            let headers = black_box(&*ANSWER_HEADERS);
            NAMES
                .iter()
                .filter(|name| headers.get(**name).is_some())
                .count()
        }),
    ]
}

/// The usage of an answer, the way one would read it with serde.
#[derive(Deserialize)]
struct Answer {
    usage: Counts,
}

#[derive(Deserialize)]
struct Counts {
    input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

/// Usage of the answer: ours and serde's.
pub(crate) fn usages() -> [Case; 2] {
    [
        Case::of("Usage::from_message", || {
            Usage::from_message(black_box(texts::MESSAGE))
        }),
        Case::of("serde_json struct", || {
            let answer: Answer =
                serde_json::from_slice(black_box(texts::MESSAGE)).expect("valid JSON");
            let counts = answer.usage;
            [
                counts.input_tokens,
                counts.cache_creation_input_tokens,
                counts.cache_read_input_tokens,
                counts.output_tokens,
            ]
        }),
    ]
}
