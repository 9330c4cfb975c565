//! Waits of the layer, and waits of the caller.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http_body::Body;
use tower_service::Service;

use super::{Subject, request};
use crate::{Broken, Piece, Reply, Script, Steps, paused};

/// A number of polls that exceeds the stages of any call.
const ENOUGH: usize = 200;

/// Checks that a layer drops a response before it sleeps, for example before a retry. A response
/// holds a connection, and a permit of the inner layers.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn sleeping_holds_nothing<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"\"}}\n\n";
        let big = Bytes::from(vec![b'x'; 200 * 1024]);
        let cut = Reply::status(200)
            .header(CONTENT_TYPE, "application/json")
            .data("{");
        for reply in [
            Reply::claude_error(429, "rate_limit_error").header(RETRY_AFTER, "3"),
            Reply::claude_error(529, "overloaded_error"),
            Reply::claude_error(500, "api_error").slow_body(),
            // Longer than what is read of an error body: the rest is dropped with it.
            Reply::status(529).data(big.clone()).data(big).chunked(),
            Reply::stream([": c\n\n", error]).piece(Piece::Wait),
            cut.chunked().piece(Piece::Error(Broken("cut"))),
            Reply::error(Broken("refused")),
        ] {
            let script = Script::always(reply);
            let mut service = layer().layer(script.clone());
            let _ = std::future::poll_fn(|cx| service.poll_ready(cx)).await;
            let mut steps = Steps::new(service.call(request()));
            steps.settle(ENOUGH).await;
            assert!(
                script.calls() > 0,
                "the call did not reach the inner service"
            );
            if !steps.has_head() {
                assert_eq!(
                    script.alive(),
                    0,
                    "a failed response is held while the layer sleeps"
                );
            }
        }
    });
}

/// Checks that the caller gets the head and each frame at once. This holds for a Claude stream from
/// its first content, and for a body that is neither text nor JSON from its first frame.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn content_is_not_held_back<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\n";
        let content = "event: content_block_start\ndata: {\"type\":\"content_block_start\"}\n\n";
        let foreign = "data: {\"choices\":[]}\n\n";
        for frames in [
            vec![start, content, content],
            vec![content],
            vec![foreign, foreign],
            vec!["plain", "text"],
        ] {
            let mut reply = match frames[0] {
                "plain" => Reply::status(200)
                    .header(CONTENT_TYPE, "application/x-ndjson")
                    .chunked(),
                _ => Reply::stream::<&str>([]),
            };
            for frame in &frames {
                reply = reply.data(*frame);
            }
            let script = Script::always(reply.piece(Piece::Stall));
            let mut service = layer().layer(script.clone());
            let _ = std::future::poll_fn(|cx| service.poll_ready(cx)).await;
            let mut steps = Steps::new(service.call(request()));
            steps.settle(ENOUGH).await;
            assert!(
                steps.has_head(),
                "the head waits for the end of a stream that has content"
            );
            let mut body = steps.into_body().expect("a response");
            let mut got = Vec::new();
            let mut cx = Context::from_waker(Waker::noop());
            for _ in 0..ENOUGH {
                if let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(&mut cx) {
                    let frame = frame.expect("not the end").expect("no error");
                    got.extend(frame.into_data().into_iter().flatten());
                }
                tokio::task::yield_now().await;
            }
            let whole = frames.concat();
            assert_eq!(
                String::from_utf8_lossy(&got),
                whole,
                "a frame is held back until the next one comes"
            );
        }
    });
}
