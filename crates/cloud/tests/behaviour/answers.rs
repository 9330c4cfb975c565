//! Responses in the shape of the Claude API.

use bytes::Bytes;
use http::{HeaderName, header::CONTENT_TYPE};
use tower_claude_cloud::Native;
use tower_claude_core::{Class, ClassifyResponse, ClaudeClassify, Kind, Reach};
use tower_claude_tests::{Broken, Piece, Received, Reply, paused};
use tower_claude_wire::{ApiError, cloud::Target};

use super::{answer, bedrock_messages, invoke_model, vertex};

fn json(status: u16, body: &str) -> Reply {
    Reply::status(status)
        .header(CONTENT_TYPE, "application/json")
        .data(body.to_owned())
}

fn amazon(status: u16, exception: &str, message: &str) -> Reply {
    json(status, &format!(r#"{{"message":"{message}"}}"#))
        .header(HeaderName::from_static("x-amzn-errortype"), exception)
        .header(HeaderName::from_static("x-amzn-requestid"), "11-22")
}

fn parsed(got: &Received<Broken>) -> ApiError {
    ApiError::parse(&got.body).unwrap_or_else(|| panic!("{}", got.text()))
}

/// Returns the class that outer layers find.
fn class(got: &Received<Broken>) -> Class {
    let status = http::StatusCode::from_u16(got.status).expect("a status");
    ClaudeClassify::default().body(status, &got.headers, &got.body)
}

#[test]
fn error_of_a_cloud_is_said_in_the_shape_of_the_api_and_the_native_one_kept() {
    paused(async {
        for (target, reply, kind, id) in [
            (
                invoke_model(),
                amazon(429, "ThrottlingException:http://x/", "Too many tokens"),
                "rate_limit_error",
                "11-22",
            ),
            (
                vertex(),
                json(
                    429,
                    r#"{"error":{"code":429,"message":"Too many tokens","status":"RESOURCE_EXHAUSTED"}}"#,
                ),
                "rate_limit_error",
                "",
            ),
        ] {
            for stream in [false, cfg!(feature = "bedrock")] {
                let got = answer(target.clone(), stream, reply.clone()).await;
                assert_eq!(got.status, 429);
                let error = parsed(&got);
                assert_eq!((&*error.kind, &*error.message), (kind, "Too many tokens"));
                assert_eq!(error.request_id.as_deref().unwrap_or_default(), id);
                assert_eq!(got.header("request-id"), id);
                assert_eq!(got.header("content-length"), got.body.len().to_string());
                let native = got.extensions.get::<Native>().expect("the native body");
                assert!(native.body.ends_with(b"}") && native.body != got.body);
                assert_eq!(native.content_type.as_ref().unwrap(), "application/json");
                assert_eq!(class(&got).kind, Kind::RateLimited);
            }
        }
    });
}

#[test]
fn error_that_has_the_shape_of_the_api_stays_byte_for_byte() {
    paused(async {
        let body = r#"{"type":"error", "error":{"type":"overloaded_error","message":"m"},"request_id":"req_vrtx_1"}"#;
        for target in [vertex(), bedrock_messages(), invoke_model()] {
            let got = answer(target, false, json(529, body)).await;
            assert_eq!((got.status, got.text()), (529, body));
            assert!(got.extensions.get::<Native>().is_none());
        }
    });
}

#[test]
fn error_of_the_claude_api_is_not_read() {
    paused(async {
        let body = r#"{"message":"a gateway"}"#;
        let got = answer(Target::claude_api(), false, json(500, body)).await;
        assert_eq!((got.status, got.text()), (500, body));
    });
}

#[test]
fn errors_of_setup_close_what_they_concern() {
    paused(async {
        for (reply, kind, reach, text) in [
            (
                amazon(
                    403,
                    "AccessDeniedException",
                    "You don't have access to the model with the specified model ID.",
                ),
                Kind::Forbidden,
                Reach::Model,
                "not enabled for this account",
            ),
            (
                amazon(404, "FTUFormNotFilledException", "Fill in the form"),
                Kind::Forbidden,
                Reach::Credential,
                "has not filled in the form",
            ),
            (
                amazon(
                    400,
                    "ValidationException",
                    "Invocation of model ID x with on-demand throughput isn't supported",
                ),
                Kind::BadRequest,
                Reach::Model,
                "Set the profile of the target",
            ),
            (
                amazon(
                    403,
                    "ExpiredTokenException",
                    "The security token included in the request is expired",
                ),
                Kind::Unauthorized,
                Reach::Credential,
                "The credential has expired",
            ),
        ] {
            let got = answer(invoke_model(), false, reply).await;
            assert!(parsed(&got).message.contains(text), "{}", got.text());
            let class = class(&got);
            assert_eq!((class.kind, class.reach), (kind, reach), "{text}");
        }
    });
}

#[test]
fn body_that_cannot_be_read_as_a_whole_stays_as_it_is() {
    paused(async {
        let long = "x".repeat(100 * 1024);
        let got = answer(vertex(), false, json(500, &long)).await;
        assert_eq!((got.status, got.text()), (500, &*long));

        let broken = Broken("reset");
        let cut = json(500, r#"{"message":"#)
            .chunked()
            .piece(Piece::Error(broken));
        let got = answer(vertex(), false, cut).await;
        assert_eq!((got.status, got.text()), (500, r#"{"message":"#));
        assert_eq!(got.error, Some(broken));

        let packed = json(500, r#"{"message":"m"}"#);
        let packed = packed.header(http::header::CONTENT_ENCODING, "gzip");
        let got = answer(vertex(), false, packed).await;
        assert_eq!(got.text(), r#"{"message":"m"}"#);
    });
}

#[test]
fn page_of_a_proxy_becomes_an_error() {
    paused(async {
        let page = Reply::status(502)
            .header(CONTENT_TYPE, "text/html")
            .data("<html>");
        let got = answer(vertex(), true, page).await;
        assert_eq!(got.status, 502);
        assert_eq!(parsed(&got).kind, "api_error");
        assert_eq!(got.header("content-type"), "application/json");
        assert_eq!(got.extensions.get::<Native>().unwrap().body, "<html>");
    });
}

#[test]
fn json_in_place_of_a_stream_is_an_error_unless_it_is_a_message() {
    paused(async {
        for target in [vertex(), bedrock_messages()] {
            let error = r#"{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT"}}"#;
            let got = answer(target.clone(), true, json(200, error)).await;
            assert_eq!(got.status, 200);
            assert_eq!(parsed(&got).kind, "invalid_request_error");
            let got = answer(target, true, Reply::message()).await;
            assert!(got.is_complete(false), "{}", got.text());
        }
    });
}

#[test]
fn events_of_messages_and_vertex_pass_byte_for_byte() {
    paused(async {
        let events =
            ": c\r\n\nevent: message_start\ndata: {\"type\":\"message_start\"}\n\nevent: x";
        for target in [vertex(), bedrock_messages()] {
            let reply = Reply::stream(events.as_bytes().chunks(7).map(Bytes::copy_from_slice));
            let got = answer(target, true, reply).await;
            assert_eq!(got.text(), events);
            assert_eq!(
                got.header("content-type"),
                "text/event-stream; charset=utf-8"
            );
        }
    });
}

#[cfg(feature = "bedrock")]
mod event_streams {
    use aws_smithy_eventstream::frame::write_message_to;
    use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use tower_claude_cloud::bedrock::ReportedMetrics;
    use tower_claude_core::STREAM_TRUNCATED;

    use super::*;

    fn frame(event: &str) -> Bytes {
        let payload = format!(r#"{{"bytes":"{}"}}"#, STANDARD.encode(event));
        let header = |name: &'static str, value: &'static str| {
            Header::new(name, HeaderValue::String(value.into()))
        };
        let message = Message::new(payload.into_bytes())
            .add_header(header(":event-type", "chunk"))
            .add_header(header(":message-type", "event"));
        let mut out = Vec::new();
        write_message_to(&message, &mut out).expect("a frame");
        out.into()
    }

    fn reply(pieces: impl IntoIterator<Item = Bytes>) -> Reply {
        let mut reply = Reply::status(200)
            .header(CONTENT_TYPE, "application/vnd.amazon.eventstream")
            .chunked();
        for piece in pieces {
            reply = reply.data(piece);
        }
        reply
    }

    const START: &str = r#"{"type":"message_start","message":{}}"#;
    const STOP: &str = r#"{"type":"message_stop"}"#;

    #[test]
    fn frames_become_server_sent_events_in_any_chunks() {
        paused(async {
            let whole: Vec<u8> = [frame(START), frame(STOP)].concat();
            let expected = format!(
                "event: message_start\ndata: {START}\n\nevent: message_stop\ndata: {STOP}\n\n"
            );
            for size in [1, 5, 64, usize::MAX] {
                let chunks = whole.chunks(size).map(Bytes::copy_from_slice);
                for reply in [reply(chunks.clone()), reply(chunks).slow_body()] {
                    let got = answer(invoke_model(), true, reply).await;
                    assert_eq!(got.text(), expected, "chunks of {size}");
                    assert_eq!(
                        got.header("content-type"),
                        "text/event-stream; charset=utf-8"
                    );
                    assert_eq!(got.header("content-length"), "");
                }
            }
        });
    }

    #[test]
    fn cut_stream_ends_with_an_error_and_not_silently() {
        paused(async {
            let got = answer(invoke_model(), true, reply([frame(START)])).await;
            assert!(got.contains("event: error") && got.contains(STREAM_TRUNCATED));
            let mut broken = frame(START).to_vec();
            *broken.last_mut().unwrap() ^= 1;
            let endless = reply([frame(START), broken.into()]).piece(Piece::Stall);
            let got = answer(invoke_model(), true, endless).await;
            assert!(got.contains("event: error") && got.contains(STREAM_TRUNCATED));
        });
    }

    #[test]
    fn error_of_the_connection_comes_after_the_events() {
        paused(async {
            let error = Broken("reset");
            let cut = reply([frame(START)]).piece(Piece::Error(error));
            let got = answer(invoke_model(), true, cut).await;
            assert!(got.text().ends_with("\n\n") && !got.contains("event: error"));
            assert_eq!(got.error, Some(error));
        });
    }

    #[test]
    fn events_of_a_proxy_are_not_decoded() {
        paused(async {
            let events = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
            let got = answer(invoke_model(), true, Reply::stream([events])).await;
            assert_eq!(got.text(), events);
        });
    }

    #[test]
    fn json_in_place_of_frames_is_an_error() {
        paused(async {
            let body = r#"{"message":"bad input"}"#;
            let got = answer(invoke_model(), true, json(200, body)).await;
            assert_eq!(parsed(&got).message, "bad input");
        });
    }

    #[test]
    fn counts_in_headers_are_an_extension() {
        paused(async {
            let name = HeaderName::from_static("x-amzn-bedrock-input-token-count");
            let got = answer(invoke_model(), false, Reply::message().header(name, "7")).await;
            let reported = got.extensions.get::<ReportedMetrics>().unwrap();
            assert_eq!(reported.get().unwrap().input_tokens, Some(7));
            assert!(got.is_complete(false));
        });
    }
}
