//! One layer inside another: the inner one stands aside.

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

use crate::api::*;

/// Has broken before it is asked.
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
async fn a_nested_layer_does_not_wait_for_readiness_again() {
    let ((outer, _), (inner, diary)) = (layer(), layer());
    let broken = Broken(Arc::default());
    let stack = outer.layer(inner.layer(broken.clone()));
    assert!(send(stack, request()).await.is_err());
    assert_eq!(broken.0.load(Ordering::Relaxed), 5);
    let told = inner.handle().snapshot();
    assert_eq!((told.retries, told.gave_up), (0, 0));
    assert!(diary.lines().is_empty());
}
