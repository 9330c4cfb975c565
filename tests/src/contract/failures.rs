//! Failures of the inner service pass through unchanged.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use tower_claude_core::{Class, Dimension, REJECTED_BY, RejectReason, Rejection};

use super::{Subject, answer, assert_nothing_alive, request};
use crate::{Broken, Piece, Reply, Script, paused, received::pairs};

/// Checks that the inner service's error value is the error of the call, at once or after all
/// attempts.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn service_error_comes_through<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        let error = Broken("connection refused");
        for reply in [Reply::error(error), Reply::error(error).waits(2)] {
            let script = Script::always(reply);
            let result = answer(&layer(), &script, request()).await;
            assert_eq!(
                result.err(),
                Some(error),
                "the error must come out as it was"
            );
            assert!(script.calls() > 0);
            assert_nothing_alive(&script, "an error");
        }
    });
}

/// Checks that an error response keeps its bytes, at once or after all attempts. A layer may add
/// headers, and removes none.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn error_responses_come_through<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        let huge = Bytes::from(vec![b'x'; 200 * 1024]);
        let mut replies = vec![
            Reply::claude_error(400, "invalid_request_error"),
            Reply::claude_error(401, "authentication_error"),
            Reply::claude_error(403, "permission_error"),
            Reply::claude_error(404, "not_found_error"),
            Reply::claude_error(413, "request_too_large"),
            Reply::claude_error(418, "teapot_error"),
            Reply::claude_error(429, "rate_limit_error").header(RETRY_AFTER, "2"),
            Reply::claude_error(500, "api_error"),
            Reply::claude_error(504, "timeout_error"),
            Reply::claude_error(529, "overloaded_error"),
            Reply::status(400),
            Reply::status(503)
                .header(CONTENT_TYPE, "text/html")
                .data("<html>"),
        ];
        for status in [400, 429, 529] {
            let big = Reply::status(status).header(CONTENT_TYPE, "application/json");
            replies.push(big.clone().data(huge.clone()).chunked());
            replies.push(big.clone().data("{\"ty").data("pe\":").data(huge.clone()));
            // Frames after the first, an error in the middle, bytes nobody can read.
            replies.push(
                big.clone()
                    .data("{\"a")
                    .piece(Piece::Error(Broken("cut")))
                    .chunked(),
            );
            replies.push(big.clone().data("{}").slow_body());
            replies.push(
                big.header(CONTENT_ENCODING, "gzip")
                    .data(&b"\x1f\x8b\x08\0\xff"[..]),
            );
        }
        for reply in replies {
            // A fresh layer for each: a breaker may have had enough by now.
            let layer = layer();
            let bare = bare(&reply).await;
            let script = Script::always(reply);
            let got = answer(&layer, &script, request()).await.expect("an answer");
            let status = bare.status;
            assert_eq!(got.status, status);
            assert_eq!(got.body, bare.body, "the body of a {status} was changed");
            assert_eq!(
                got.error, bare.error,
                "the error in the body of a {status} was lost"
            );
            let got = pairs(&got.headers);
            for pair in pairs(&bare.headers) {
                assert!(got.contains(&pair), "a {status} lost its header {}", pair.0);
            }
            assert_nothing_alive(&script, "an error answer");
        }
    });
}

/// Returns the response without any layer.
pub(crate) async fn bare(reply: &Reply) -> crate::Received<Broken> {
    let guard = crate::Alive::new().guard();
    crate::Received::read(reply.response(guard).expect("a reply with a head")).await
}

/// Checks that the rejection by an inner layer passes through unchanged, with its extensions.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn inner_refusals_come_through<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        let reasons = [
            RejectReason::QueueFull {
                waiting: 7,
                limit: 7,
            },
            RejectReason::WaitTooLong {
                estimated: Duration::from_secs(90),
                max_wait: Duration::from_secs(60),
            },
            RejectReason::DeadlineWouldPass {
                estimated: Duration::from_secs(9),
                remaining: Duration::from_secs(3),
            },
            RejectReason::Oversized {
                dimension: Dimension::InputTokens,
                cost: 9_000,
                limit: 5_000,
            },
        ];
        for reason in reasons {
            let refusal = Rejection::new("inner-layer", reason)
                .with_retry_after(Some(Duration::from_secs(4)));
            let reply = Reply::refusal(refusal);
            let bare = bare(&reply).await;
            let script = Script::always(reply);
            let got = answer(&layer(), &script, request())
                .await
                .expect("an answer");
            assert_eq!(got.status, bare.status);
            assert_eq!(
                pairs(&got.headers),
                pairs(&bare.headers),
                "the headers of an inner refusal were changed"
            );
            assert_eq!(got.headers[REJECTED_BY], "inner-layer");
            assert_eq!(
                got.body, bare.body,
                "the body of an inner refusal was changed"
            );
            let refused = got.extensions.get::<Rejection>();
            assert_eq!(
                refused,
                bare.extensions.get::<Rejection>(),
                "the Rejection extension of an inner refusal was changed"
            );
            assert_eq!(
                got.extensions.get::<Class>(),
                Some(&refusal.class()),
                "the Class of an inner refusal was changed"
            );
        }
    });
}
