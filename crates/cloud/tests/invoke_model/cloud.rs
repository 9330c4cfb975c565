//! Translation, signature and decoder in a row.

use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use tower::{Service, ServiceExt};
use tower_claude_cloud::{
    Authorization, Authorize, Translator,
    bedrock::{EventStreamDecoder, SigV4},
};
use tower_claude_core::{BoxError, RequestBody};
use tower_claude_fake_claude::FakeClaude;
use tower_claude_wire::cloud::Target;

#[derive(Clone)]
pub(crate) struct Cloud {
    inner: FakeClaude,
    target: Target,
    signer: SigV4,
}

impl Cloud {
    pub(crate) fn new(inner: FakeClaude, target: Target, signer: SigV4) -> Self {
        Self {
            inner,
            target,
            signer,
        }
    }
}

impl Service<Request<RequestBody>> for Cloud {
    type Response = Response<BoxBody<Bytes, BoxError>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), BoxError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let this = self.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let sent =
                Translator::new().translate(&head.uri, &head.headers, &body, &this.target)?;
            let mut request = Request::post(sent.uri).body(())?;
            *request.headers_mut() = sent.headers;
            let (mut head, ()) = request.into_parts();
            match this
                .signer
                .authorize(&mut head, &sent.body, SystemTime::now())
            {
                Authorization::Done(_) => {}
                other => panic!("{other:?}"),
            }
            let request = Request::from_parts(head, Full::new(sent.body));
            let (mut head, body) = this.inner.oneshot(request).await?.into_parts();
            let is_frames = head.headers["content-type"] == "application/vnd.amazon.eventstream";
            if !is_frames {
                return Ok(Response::from_parts(head, body.map_err(Into::into).boxed()));
            }
            head.headers.insert(
                "content-type",
                http::HeaderValue::from_static("text/event-stream"),
            );
            head.headers.remove("content-length");
            let state = (Box::pin(body), EventStreamDecoder::new(), false);
            let events = stream::unfold(state, async |(mut body, mut decoder, over)| {
                loop {
                    if over || decoder.is_over() {
                        return None;
                    }
                    match body.frame().await {
                        None => {
                            let last = decoder.finish();
                            return (!last.is_empty())
                                .then_some((Ok(Frame::data(last)), (body, decoder, true)));
                        }
                        Some(Err(error)) => {
                            return Some((Err(BoxError::from(error)), (body, decoder, true)));
                        }
                        Some(Ok(frame)) => {
                            let Ok(data) = frame.into_data() else {
                                continue;
                            };
                            let events = decoder.push(&data);
                            if !events.is_empty() {
                                return Some((Ok(Frame::data(events)), (body, decoder, false)));
                            }
                        }
                    }
                }
            });
            Ok(Response::from_parts(
                head,
                BodyExt::boxed(StreamBody::new(Box::pin(events))),
            ))
        }
        .boxed()
    }
}
