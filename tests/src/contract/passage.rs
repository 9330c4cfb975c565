//! Requests, responses and streams pass through unchanged.

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Version,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
};

use super::{Subject, answer, assert_nothing_alive, failures::bare, prompt, request_of};
use crate::{FrameBody, Marker, Piece, Reply, Script, paused, received::pairs};

fn odd_headers() -> Vec<(HeaderName, HeaderValue)> {
    let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).expect("a valid header value");
    [
        ("x-unknown", &b"  kept  "[..]),
        ("x-many", b"2"),
        ("x-many", b"1"),
        ("x-many", b"2"),
        ("x-bytes", b"\xff\xfe"),
        ("x-empty", b""),
        ("anthropic-beta", b"a-2026-01-01,b-2026-01-01"),
    ]
    .into_iter()
    .map(|(name, bytes)| (HeaderName::from_static(name), value(bytes)))
    .collect()
}

/// Checks method, URI, version, headers, extensions and bytes of the request. The headers of a name
/// keep their order.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn request_is_untouched<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        let body = prompt();
        let (head, tail) = body.split_at(body.len() / 2);
        let chunks = [head, tail].map(|part| Piece::Data(Bytes::copy_from_slice(part.as_bytes())));
        for sent in [FrameBody::full(body.clone()), FrameBody::new(chunks)] {
            let mut request = request_of(sent);
            *request.uri_mut() = "https://proxy.example:8443/base/v1/messages?beta=true&x=%20"
                .parse()
                .expect("a URI");
            *request.method_mut() = Method::POST;
            *request.version_mut() = Version::HTTP_2;
            for (name, value) in odd_headers() {
                request.headers_mut().append(name, value);
            }
            let length = HeaderValue::from(body.len());
            request.headers_mut().insert(CONTENT_LENGTH, length);
            request.extensions_mut().insert(Marker(7));
            let (uri, headers) = (request.uri().clone(), request.headers().clone());

            let script = Script::always(Reply::message());
            answer(&layer(), &script, request).await.expect("an answer");
            let seen = script.seen();
            assert_eq!(seen.len(), 1, "one request must be sent once");
            assert_eq!(seen[0].method, Method::POST);
            assert_eq!(seen[0].uri, uri, "the URI was changed");
            assert_eq!(seen[0].version, Version::HTTP_2, "the version was changed");
            assert_eq!(
                pairs(&seen[0].headers),
                pairs(&headers),
                "the request headers were changed"
            );
            assert_eq!(
                seen[0].marker,
                Some(Marker(7)),
                "the request's extensions were lost"
            );
            assert_eq!(seen[0].body, body, "the request's bytes were changed");
            assert_eq!((&seen[0].trailers, seen[0].error), (&None, None));
        }
    });
}

/// Checks status, version, headers, extensions and bytes of the response. The headers of a name
/// keep their order.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn response_is_untouched<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        let split = Reply::status(200)
            .header(CONTENT_TYPE, "application/json")
            .chunked()
            .data("{\"x_new\": [1.50,")
            .data(" 2]}");
        let text = Reply::status(299)
            .header(CONTENT_TYPE, "text/plain")
            .data(&b"\xff\0\r\n"[..]);
        for reply in [
            Reply::message(),
            Reply::message().slow_body(),
            split,
            text,
            Reply::status(302).header(http::header::LOCATION, "/elsewhere"),
            Reply::json("not json at all"),
            Reply::json(vec![b'7'; 300 * 1024]),
        ] {
            let mut reply = reply.extension(Marker(9));
            for (name, value) in odd_headers() {
                reply = reply.raw_header(name, value);
            }
            let bare = bare(&reply).await;
            let script = Script::always(reply);
            let got = answer(&layer(), &script, super::request())
                .await
                .expect("an answer");
            assert_eq!(got.status, bare.status);
            assert_eq!(got.version, bare.version);
            assert_eq!(
                pairs(&got.headers),
                pairs(&bare.headers),
                "the response headers were changed"
            );
            let marker = got.extensions.get::<Marker>();
            assert_eq!(
                marker,
                Some(&Marker(9)),
                "the response's extensions were lost"
            );
            assert_eq!(got.body, bare.body, "the response's bytes were changed");
            assert_eq!((&got.trailers, got.error), (&None, None));
            assert_nothing_alive(&script, "a response");
        }
    });
}

/// Checks event streams in any chunks: whole, foreign or truncated, with an error before or after
/// content, with unknown events and comments.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn streams_are_untouched<L: Subject>(layer: impl Fn() -> L) {
    const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"usage\":{\"input_tokens\":5,\"output_tokens\":1}}}\n\n";
    const PING: &str = ": comment\r\nevent: ping\r\ndata: {\"type\": \"ping\"}\r\n\r\n";
    const NEW: &str = "event: x_new\nid: 4\ndata: {\"type\":\"x_new\",\ndata: \"a\":1}\n\n";
    const CONTENT: &str = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";
    const DELTA: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n";
    const END: &str = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":9}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    const ERROR: &str = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
    let streams: [&[&str]; 7] = [
        &[
            START,
            PING,
            NEW,
            CONTENT,
            DELTA,
            NEW,
            END,
            ": after the end\n\n",
        ],
        &[START, CONTENT, DELTA, ERROR],
        &[START, PING, ERROR],
        &[ERROR],
        &[START, CONTENT, DELTA],
        &["data: {\"choices\":[]}\n\n", "data: [DONE]\n\n"],
        &[],
    ];
    paused(async {
        for events in streams {
            let whole = events.concat();
            for size in [1, 7, 64, usize::MAX] {
                let chunks = || whole.as_bytes().chunks(size).map(Bytes::copy_from_slice);
                for reply in [Reply::stream(chunks()), Reply::stream(chunks()).slow_body()] {
                    let script = Script::always(reply);
                    let got = answer(&layer(), &script, super::request()).await;
                    let got = got.expect("an answer");
                    assert_eq!(got.status, 200);
                    assert_eq!(
                        String::from_utf8_lossy(&got.body),
                        whole,
                        "the bytes of a stream were changed (chunks of {size})"
                    );
                    assert_eq!(got.error, None);
                    assert_nothing_alive(&script, "a stream");
                }
            }
        }
    });
}

/// Checks that a compressed body passes through unchanged.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn compressed_body_is_untouched<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        let bytes = b"\x1f\x8b\x08\0\0event: error\ndata: {}\n\n";
        for kind in ["application/json", "text/event-stream"] {
            let reply = Reply::status(200)
                .header(CONTENT_TYPE, kind)
                .header(CONTENT_ENCODING, "gzip")
                .data(&bytes[..])
                .chunked();
            let bare = bare(&reply).await;
            let script = Script::always(reply);
            let got = answer(&layer(), &script, super::request())
                .await
                .expect("an answer");
            assert_eq!(got.body, bare.body, "a compressed body was changed");
            assert_eq!(pairs(&got.headers), pairs(&bare.headers));
        }
    });
}
