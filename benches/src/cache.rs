//! A cache hit beside the peer's, which is given its key.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt};
use tower_claude_cache::{CacheLayer, Cacheable};
use tower_claude_core::RequestBody;
use tower_service::Service;

use crate::{
    floor::{Answer, REQUEST_BODY, calls, request},
    harness::Case,
    texts,
};

const LONG: Duration = Duration::from_secs(24 * 3_600);

/// The loop alone, the hash of the body alone, the peer's hit, ours.
pub(crate) fn hits() -> [Case; 4] {
    let body: &'static [u8] = &REQUEST_BODY;
    let theirs = tower_resilience::cache::CacheLayer::builder()
        .max_size(100)
        .ttl(LONG)
        .key_extractor(|_: &Request<Full<Bytes>>| 7_u64)
        .build()
        .expect("a valid configuration");
    let ours = CacheLayer::new(LONG).with_policy(|_| Some(Cacheable::new()));
    let ours = ours.layer(Answer);
    // Stored at the end of the first answer's body.
    for expected in ["miss", "hit"] {
        let call = ours
            .clone()
            .oneshot(request(RequestBody::from(Bytes::from_static(body))));
        let response = call.now_or_never().and_then(Result::ok);
        let response = response.expect("answered at once");
        assert_eq!(response.headers()["x-tower-claude-cache"], expected);
        let _ = response.into_body().collect().now_or_never();
    }
    [
        calls(
            "the loop: a request, an answer without headers",
            Bare,
            Full::<Bytes>::new,
        ),
        Case::of("BLAKE3 of the 2 KiB request, keyed", move || {
            blake3::keyed_hash(black_box(&[7; 32]), black_box(body))
        }),
        calls(
            "tower-resilience: cache hit, key given",
            theirs.layer(Answer),
            Full::new,
        ),
        calls(
            "cache hit, key made of the request",
            ours,
            RequestBody::from,
        ),
    ]
}

/// Answers with a body and nothing else.
#[derive(Clone, Copy)]
struct Bare;

impl<B> Service<Request<B>> for Bare {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<B>) -> Self::Future {
        ready(Ok(Response::new(Full::new(Bytes::from_static(
            texts::MESSAGE,
        )))))
    }
}
