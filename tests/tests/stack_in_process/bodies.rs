//! Bodies that are odd but not wrong.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use tower::{ServiceExt, service_fn};
use tower_claude_core::RequestBody;
use tower_claude_limiter::Limits;

use crate::common::{SONNET, Stack, request, send};

/// So many empty frames, then this text.
struct Padded {
    empty: usize,
    text: Option<&'static str>,
}

impl Body for Padded {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.empty > 0 {
            self.empty -= 1;
            return Poll::Ready(Some(Ok(Frame::data(Bytes::new()))));
        }
        let text = self.text.take();
        Poll::Ready(text.map(|text| Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
    }
}

/// Frames without data are not kept while an answer is held: they never fill the hold.
#[tokio::test(start_paused = true)]
async fn empty_frames_are_not_buffered() {
    for (status, text) in [
        (
            200,
            r#"{"type":"message","usage":{"input_tokens":1,"output_tokens":1}}"#,
        ),
        (
            400,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"no"}}"#,
        ),
    ] {
        let inner = service_fn(move |_: Request<RequestBody>| {
            let body = Padded {
                empty: 10_000,
                text: Some(text),
            };
            let response = Response::builder()
                .status(status)
                .header("content-type", "application/json");
            std::future::ready(Ok::<_, Infallible>(response.body(body).expect("valid")))
        });
        let stack = Stack::new(inner, Limits::new());
        let response = stack.service.clone().oneshot(request(SONNET, false)).await;
        let mut body = response.expect("an answer").into_body();
        let mut frames = 0;
        let mut data = Vec::new();
        while let Some(frame) = http_body_util::BodyExt::frame(&mut body).await {
            frames += 1;
            let frame = frame.expect("no error");
            data.extend_from_slice(frame.data_ref().expect("data"));
        }
        assert_eq!(data, text.as_bytes());
        assert_eq!(frames, 1, "{status}");
        stack.assert_idle("empty frames");
    }
}

/// A body other than a JSON object passes, with any `content-type`. It is retried if it answers a
/// Messages request.
#[tokio::test(start_paused = true)]
async fn response_other_than_a_json_object_passes() {
    for text in ["", " ", "null", "plain words", "{\"a\":1}\n\n", " {} "] {
        let inner = service_fn(move |_: Request<RequestBody>| {
            let body = http_body_util::Full::new(Bytes::from_static(text.as_bytes()));
            let response = Response::builder().header("content-type", "application/json");
            std::future::ready(Ok::<_, Infallible>(response.body(body).expect("valid")))
        });
        let stack = Stack::new(inner, Limits::new());
        for (path, retries) in [("/v1/other", 0), ("/v1/messages", 4)] {
            let mut request = request(SONNET, false);
            *request.uri_mut() = path.parse().expect("a path");
            let seen = send(&stack.service, request).await.expect("an answer");
            assert_eq!(seen.text(), text);
            assert_eq!(stack.retry.snapshot().retries, retries, "{text:?}");
        }
    }
}
