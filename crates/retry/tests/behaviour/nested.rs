//! A retry layer inside another, which passes calls through.

use std::{
    future::Pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
};

use http::{Request, Response};
use tower::{Layer, Service};
use tower_claude_core::RequestBody;
use tower_claude_retry::Timeouts;

use crate::api::*;

/// A service that fails to become ready.
#[derive(Clone)]
struct Broken(Arc<AtomicU32>);

impl Service<Request<RequestBody>> for Broken {
    type Response = Response<Body>;
    type Error = io::Error;
    type Future = Pending<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }

    fn call(&mut self, _: Request<RequestBody>) -> Self::Future {
        unreachable!("not ready")
    }
}

#[tokio::test(start_paused = true)]
async fn nested_layer_over_unready_service_does_not_retry() {
    let ((outer, _), (inner, events)) = (layer(), layer());
    let broken = Broken(Arc::default());
    let stack = outer.layer(inner.layer(broken.clone()));
    assert!(send(&stack, request()).await.is_err());
    assert_eq!(broken.0.load(Ordering::Relaxed), 5);
    let told = inner.handle().snapshot();
    assert_eq!((told.retries, told.gave_up), (0, 0));
    assert!(events.lines().is_empty());
}

#[tokio::test(start_paused = true)]
async fn nested_layer_with_short_head_timeout_does_not_time_out() {
    let ((outer, _), (inner, _)) = (layer(), layer());
    let inner = inner.with_timeouts(Timeouts::NONE.with_head(Some(SECOND)));
    let api = Api::new([Reply::fine().after(5 * SECOND)]);
    let stack = outer.layer(inner.layer(api.clone()));
    assert_eq!(send(&stack, request()).await.unwrap().status, 200);
    assert_eq!(inner.handle().snapshot().timed_out, 0);
}
