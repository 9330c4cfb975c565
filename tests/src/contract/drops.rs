//! Dropped calls and bodies release all that they held.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use tower_service::Service;

use super::{Subject, assert_nothing_alive, request, request_of, still_serves};
use crate::{Broken, FrameBody, Piece, Readiness, Reply, Script, Steps, paused, serve};

/// A number of polls that no call needs.
const ENOUGH: usize = 2_000;

/// A scripted call that is pending once at each stage: readiness, head and each frame.
struct Scene {
    name: &'static str,
    script: fn() -> Script,
    body: fn() -> FrameBody,
}

fn slow_request() -> FrameBody {
    let text = super::prompt();
    FrameBody::new([Piece::Wait, Piece::Data(text.into()), Piece::Wait])
}

fn slow(replies: impl IntoIterator<Item = Reply>) -> Script {
    let replies = replies.into_iter().map(|reply| reply.waits(1).slow_body());
    Script::new(replies).readiness(Readiness::After(1))
}

const CONTENT: &str = "event: content_block_start\ndata: {\"type\":\"content_block_start\"}\n\n";
const STOP: &str = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
const ERROR: &str = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"\"}}\n\n";

fn scenes() -> Vec<Scene> {
    vec![
        Scene {
            name: "a message",
            script: || slow([Reply::message().data(" ").data("\n")]),
            body: slow_request,
        },
        Scene {
            name: "a stream",
            script: || slow([Reply::stream([": c\n\n", CONTENT, CONTENT, STOP])]),
            body: slow_request,
        },
        Scene {
            name: "an overloaded answer, then a message",
            script: || {
                let error = Reply::claude_error(529, "overloaded_error").data(" ");
                slow([error, Reply::message()])
            },
            body: slow_request,
        },
        Scene {
            name: "a rate limit, then a message",
            script: || {
                slow([
                    Reply::claude_error(429, "rate_limit_error"),
                    Reply::message(),
                ])
            },
            body: slow_request,
        },
        Scene {
            name: "a transport error, then a message",
            script: || slow([Reply::error(Broken("refused")), Reply::message()]),
            body: slow_request,
        },
        Scene {
            name: "an error event before content, then a stream",
            script: || {
                slow([
                    Reply::stream([": c\n\n", ERROR]),
                    Reply::stream([CONTENT, STOP]),
                ])
            },
            body: slow_request,
        },
        Scene {
            name: "an error event after content",
            script: || slow([Reply::stream([CONTENT, ERROR])]),
            body: slow_request,
        },
        Scene {
            name: "a body that breaks off, then a message",
            script: || {
                let cut = Reply::status(200)
                    .header(CONTENT_TYPE, "application/json")
                    .data("{");
                slow([cut.piece(Piece::Error(Broken("cut"))), Reply::message()])
            },
            body: slow_request,
        },
        Scene {
            name: "a request that fails while it is read",
            script: || slow([Reply::message()]),
            body: || FrameBody::new([Piece::Wait, Piece::Error(Broken("cut"))]),
        },
    ]
}

/// Drops the call after 0, 1, 2 … polls, until it would have ended. Checks that nothing inner is
/// alive then, and that the layer serves the next call.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn dropped_at_any_poll<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        for scene in scenes() {
            let mut polls = 0;
            loop {
                let layer = layer();
                let script = (scene.script)();
                let mut service = layer.layer(script.clone());
                let ended = {
                    let _ = std::future::poll_fn(|cx| service.poll_ready(cx)).await;
                    let mut steps = Steps::new(service.call(request_of((scene.body)())));
                    drive(&mut steps, &script, polls).await
                };
                drop(service);
                let after = format!("{}, dropped after {polls} polls", scene.name);
                assert_nothing_alive(&script, &after);
                still_serves(&layer, &after).await;
                if ended {
                    break;
                }
                polls += 1;
                assert!(polls < ENOUGH, "{} does not end", scene.name);
            }
            assert!(polls > 2, "{} was never Pending", scene.name);
        }
    });
}

/// Polls this often. Returns true if the call had ended before.
async fn drive<F, B>(steps: &mut Steps<F, B>, script: &Script, polls: usize) -> bool
where
    F: Future<Output = Result<http::Response<B>, Broken>>,
    B: http_body::Body<Data = bytes::Bytes, Error = Broken> + Unpin,
{
    for _ in 0..polls {
        if !steps.step() {
            return true;
        }
        // A fresh budget of tokio's; and time goes on where the layer can only be sleeping.
        tokio::task::yield_now().await;
        if script.alive() == 0 && !steps.has_head() {
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }
    false
}

/// Drops the body after 0, 1, 2 … frames.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn body_dropped_at_any_frame<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        for frames in 0..6 {
            let layer = layer();
            for reply in [
                Reply::message().data(" ").chunked(),
                Reply::stream([CONTENT, CONTENT, CONTENT]).piece(Piece::Stall),
                Reply::stream([CONTENT, STOP]),
                Reply::claude_error(400, "invalid_request_error"),
            ] {
                let script = Script::always(reply);
                let service = layer.layer(script.clone());
                let response = serve(&service, request()).await.expect("an answer");
                let mut steps = Steps::new(std::future::ready(Ok(response)));
                // One more, which takes the response itself.
                let _ = drive(&mut steps, &script, frames + 1).await;
                drop((steps, service));
                assert_nothing_alive(&script, &format!("a body dropped after {frames} frames"));
            }
            still_serves(&layer, "dropped bodies").await;
        }
    });
}

/// Checks that many calls without a response can be dropped, and block no other call.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn stalled_calls_can_be_dropped<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        let layer = layer();
        for reply in [
            Reply::message().waits(usize::MAX),
            Reply::status(200).piece(Piece::Stall).chunked(),
            Reply::claude_error(500, "api_error")
                .piece(Piece::Stall)
                .chunked(),
        ] {
            let script = Script::always(reply);
            let mut service = layer.layer(script.clone());
            let mut calls = Vec::new();
            for _ in 0..4 {
                let _ = std::future::poll_fn(|cx| service.poll_ready(cx)).await;
                let mut steps = Steps::new(service.call(request()));
                for _ in 0..5 {
                    steps.step();
                    tokio::task::yield_now().await;
                }
                calls.push(steps);
            }
            assert!(script.calls() > 0, "no call reached the inner service");
            drop((calls, service));
            assert_nothing_alive(&script, "stalled calls were dropped");
        }
        still_serves(&layer, "stalled calls were dropped").await;
    });
}
