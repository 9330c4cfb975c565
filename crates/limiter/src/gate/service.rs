//! The service of a limiter layer.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_claude_core::{Call, Classify, EstimateCost, RequestBody, take_ready};
use tower_service::Service;

use super::{Gate, GateBody, GateFuture, entry::Entry};
use crate::Limiter;

/// A service behind a [`Gate`].
#[derive(Clone, Debug)]
pub struct Gated<S, L, E, C> {
    inner: S,
    gate: Arc<Gate<L, E, C>>,
}

impl<S, L, E, C> Gated<S, L, E, C> {
    /// Puts `inner` behind `gate`.
    #[must_use]
    pub const fn new(inner: S, gate: Arc<Gate<L, E, C>>) -> Self {
        Self { inner, gate }
    }

    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, L, E, C> Service<Request<RequestBody>> for Gated<S, L, E, C>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone,
    B: Body<Data = Bytes> + Unpin,
    L: Limiter,
    E: EstimateCost,
    C: Classify<S::Error> + Clone,
{
    type Response = Response<GateBody<B, C>>;
    type Error = S::Error;
    type Future = GateFuture<S, B, L, E, C>;

    /// Always ready: the request, and with it its cost, is not known yet.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> Self::Future {
        let mut entry = Entry::new(context_of(&request));
        let gate = self.gate.clone();
        // No waker is needed: the future is polled as soon as it is returned (see `BufferRequest`), and asks again then.
        let cx = &mut Context::from_waker(Waker::noop());
        match gate.enter(&mut entry, &mut self.inner, &mut request, cx) {
            Poll::Ready(Ok(())) => {
                GateFuture::calling(gate, self.inner.call(request), entry.passage)
            }
            Poll::Ready(Err(why)) => {
                // A service is not polled again after an error: the next call has a fresh one.
                self.inner = self.inner.clone();
                GateFuture::unsent(gate, why)
            }
            Poll::Pending => {
                let service = take_ready(&mut self.inner);
                GateFuture::waiting(gate, service, request, entry)
            }
        }
    }
}

/// The context that came with the request, or a new one.
fn context_of(request: &Request<RequestBody>) -> Arc<Call> {
    match Call::of(request) {
        Some(context) => context.clone(),
        None => Arc::new(Call::new(request.extensions(), Instant::now())),
    }
}
