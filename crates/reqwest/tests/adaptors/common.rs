//! Helpers of these tests.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use tokio::sync::mpsc;
use tower_claude_fake_claude::{FakeClaude, GroupLimits};
use tower_claude_reqwest::ReqwestClassify;
use tower_claude_retry::{Backoff, Jitter, RetryLayer};

pub(crate) use tower_claude_tests::{HOUR, SONNET, prompt, request_to};

/// A limit much longer than any of these tests takes, so that a hang is a failure.
pub(crate) async fn bounded<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), test)
        .await
        .expect("the test hangs")
}

/// Returns a server whose limits are never reached.
pub(crate) fn quiet() -> FakeClaude {
    FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .build()
}

/// Returns a retry layer that does not wait.
pub(crate) fn at_once() -> RetryLayer<ReqwestClassify> {
    RetryLayer::new()
        .with_backoff(Backoff::new(Duration::ZERO, Duration::ZERO, Jitter::None))
        .with_classifier(ReqwestClassify::new())
}

pub(crate) fn middleware() -> ClientWithMiddleware {
    ClientBuilder::new(reqwest::Client::new()).build()
}

/// Returns a Messages request without a body as reqwest's builder.
pub(crate) fn post(
    client: &ClientWithMiddleware,
    base: &str,
) -> reqwest_middleware::RequestBuilder {
    let (head, _) = tower_claude_tests::post::<String>(base, "").into_parts();
    client.post(head.uri.to_string()).headers(head.headers)
}

/// Returns the headers without dates and request ids.
pub(crate) fn timeless(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), format!("{value:?}")))
        .filter(|(name, _)| name != "date" && !name.ends_with("-reset"))
        .collect();
    headers.sort();
    headers
}

pub(crate) fn statuses(fake: &FakeClaude) -> Vec<u16> {
    fake.with_log(|log| log.iter().map(|attempt| attempt.status).collect())
}

/// A body of the frames sent into a channel.
pub(crate) struct ChannelBody(pub(crate) mpsc::UnboundedReceiver<Bytes>);

impl Body for ChannelBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let received = self.0.poll_recv(cx);
        received.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// Returns a body of these chunks that cannot be cloned.
pub(crate) fn pieces(pieces: &[&'static str]) -> ChannelBody {
    let (send, receive) = mpsc::unbounded_channel();
    for piece in pieces {
        send.send(Bytes::from_static(piece.as_bytes()))
            .expect("the receiver is here");
    }
    ChannelBody(receive)
}
