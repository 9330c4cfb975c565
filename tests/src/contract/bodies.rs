//! Bodies with trailers, without frames and with errors.

use http::{
    HeaderMap, HeaderValue, Method, Request,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};

use super::{Subject, answer, assert_nothing_alive, failures::bare, request};
use crate::{Broken, FrameBody, Piece, Reply, Script, paused, received::pairs};

fn trailers() -> HeaderMap {
    let mut map = HeaderMap::new();
    map.insert("x-checksum", HeaderValue::from_static("abc"));
    map.append("x-many", HeaderValue::from_static("1"));
    map.append("x-many", HeaderValue::from_static("2"));
    map
}

/// Checks that the trailers of a response pass through.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn trailers_come_through<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        let end = || Piece::Trailers(trailers());
        let sse = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
        for reply in [
            Reply::message().chunked().piece(end()),
            Reply::message().slow_body().piece(end()),
            Reply::stream([sse]).piece(end()),
            Reply::status(200).data("plain").chunked().piece(end()),
            Reply::claude_error(400, "invalid_request_error")
                .chunked()
                .piece(end()),
        ] {
            let script = Script::always(reply);
            let got = answer(&layer(), &script, request())
                .await
                .expect("an answer");
            assert_eq!(got.trailers, Some(trailers()), "the trailers were lost");
            assert_nothing_alive(&script, "trailers");
        }
    });
}

/// Checks that responses to HEAD, 204, 304 and empty bodies pass through with `content-length`.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn bodies_without_frames<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        let of_head = Reply::status(200)
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_LENGTH, "4711");
        let json = Reply::status(200).header(CONTENT_TYPE, "application/json");
        for (method, reply) in [
            (Method::HEAD, of_head),
            (Method::GET, Reply::status(204)),
            (Method::GET, Reply::status(304)),
            (Method::POST, Reply::status(200).header(CONTENT_LENGTH, "0")),
            (Method::POST, json.clone()),
            // An end that only shows when it is polled.
            (Method::POST, json.chunked()),
            (Method::POST, Reply::status(200).slow_body()),
        ] {
            let mut request = Request::new(FrameBody::default().exact());
            *request.method_mut() = method.clone();
            *request.uri_mut() = "https://api.anthropic.com/v1/models"
                .parse()
                .expect("a URI");
            let bare = bare(&reply).await;
            let script = Script::always(reply);
            let got = answer(&layer(), &script, request).await.expect("an answer");
            assert_eq!(got.status, bare.status, "{method}");
            assert_eq!(pairs(&got.headers), pairs(&bare.headers), "{method}");
            assert!(got.body.is_empty() && got.error.is_none());
            assert_eq!(script.seen()[0].method, method);
            assert_nothing_alive(&script, "a body without frames");
        }
    });
}

/// Checks that an error in the middle of a body passes through unchanged and in its place.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn body_error_comes_through<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        let error = Broken("connection reset");
        let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\n";
        let content =
            "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0}\n\n";
        let json = Reply::status(200)
            .header(CONTENT_TYPE, "application/json")
            .chunked();
        for reply in [
            json.clone().piece(Piece::Error(error)),
            json.clone()
                .data("{\"id\":")
                .data("\"msg")
                .piece(Piece::Error(error)),
            Reply::stream([start]).piece(Piece::Error(error)),
            Reply::stream([start, content]).piece(Piece::Error(error)),
            Reply::status(200)
                .data("plain")
                .chunked()
                .piece(Piece::Error(error)),
        ] {
            for reply in [reply.clone(), reply.slow_body()] {
                let bare = bare(&reply).await;
                let script = Script::always(reply);
                let got = answer(&layer(), &script, request())
                    .await
                    .expect("an answer");
                assert_eq!(got.body, bare.body, "data before the error was changed");
                assert_eq!(got.error, Some(error), "the error in the body was lost");
                assert_nothing_alive(&script, "an error in the body");
            }
        }
    });
}
