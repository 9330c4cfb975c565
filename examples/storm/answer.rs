//! Reads responses to their end, as an application does.

use std::pin::pin;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt as _;
use tower_claude_wire::{self as wire, StreamState};

/// The end of a request, as its caller saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The complete response arrived.
    Whole,
    /// The response failed.
    Failed {
        /// The status of the last response. `None` if the connection failed before it.
        status: Option<StatusCode>,
        /// True if content had arrived.
        after_content: bool,
    },
}

impl Ending {
    /// There was no response.
    pub(crate) const NO_ANSWER: Self = Self::Failed {
        status: None,
        after_content: false,
    };
}

/// Reads the body and checks it: a success is a JSON message with a `stop_reason`, or a stream up
/// to `message_stop`.
pub(crate) async fn read<B>(response: Response<B>) -> Ending
where
    B: Body<Data = Bytes>,
{
    let (head, body) = response.into_parts();
    let success = head.status.is_success();
    let stream = success && wire::is_event_stream(&head.headers);
    let mut body = pin!(body);
    let (mut state, mut json) = (StreamState::new(), Vec::new());
    let mut broken = false;
    while let Some(frame) = body.frame().await {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) if stream => state.feed(&data),
            Ok(Ok(data)) => json.extend_from_slice(&data),
            Ok(Err(_trailers)) => {}
            Err(_) => {
                broken = true;
                break;
            }
        }
    }
    let whole = if stream {
        state.is_complete() && state.error().is_none()
    } else {
        success && wire::stop_reason(&json).is_some()
    };
    if whole && !broken {
        return Ending::Whole;
    }
    Ending::Failed {
        status: Some(head.status),
        after_content: success && (state.has_content() || !json.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    async fn ending(status: u16, kind: &str, body: &'static str) -> Ending {
        let response = Response::builder()
            .status(status)
            .header("content-type", kind)
            .body(Full::new(Bytes::from_static(body.as_bytes())))
            .unwrap();
        read(response).await
    }

    fn failed(status: u16, after_content: bool) -> Ending {
        Ending::Failed {
            status: Some(StatusCode::from_u16(status).unwrap()),
            after_content,
        }
    }

    const START: &str =
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{}}}\n\n";

    #[tokio::test]
    async fn only_whole_answers_are_successes() {
        let json = "application/json";
        let stop = r#"{"type":"message","stop_reason":"end_turn"}"#;
        assert_eq!(ending(200, json, stop).await, Ending::Whole);
        assert_eq!(
            ending(200, json, r#"{"type":"mess"#).await,
            failed(200, true)
        );
        assert_eq!(
            ending(529, json, r#"{"type":"error"}"#).await,
            failed(529, false)
        );
        let sse = "text/event-stream; charset=utf-8";
        assert_eq!(ending(200, sse, START).await, failed(200, false));
        let content = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";
        let end = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
        let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"\"}}\n\n";
        let join = |parts: &[&str]| -> &'static str { parts.concat().leak() };
        assert_eq!(
            ending(200, sse, join(&[START, content, end])).await,
            Ending::Whole
        );
        assert_eq!(
            ending(200, sse, join(&[START, content])).await,
            failed(200, true)
        );
        assert_eq!(
            ending(200, sse, join(&[START, content, error])).await,
            failed(200, true)
        );
        assert_eq!(
            ending(200, sse, join(&[START, error])).await,
            failed(200, false)
        );
    }
}
