//! The service.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_claude_core::{Classify, EstimateCost, RequestBody};
use tower_claude_limiter::{Gate, GateBody, GateFuture, Gated, Limiter};
use tower_service::Service;

/// The service of a [`HeaderBudgetLayer`](crate::HeaderBudgetLayer).
#[derive(Clone, Debug)]
pub struct HeaderBudget<S, L, E, C>(Gated<S, L, E, C>);

impl<S, L, E, C> HeaderBudget<S, L, E, C> {
    pub(crate) const fn new(inner: S, gate: Arc<Gate<L, E, C>>) -> Self {
        Self(Gated::new(inner, gate))
    }

    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        self.0.get_ref()
    }

    /// The inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        self.0.get_mut()
    }

    /// The inner service.
    pub fn into_inner(self) -> S {
        self.0.into_inner()
    }
}

impl<S, B, L, E, C> Service<Request<RequestBody>> for HeaderBudget<S, L, E, C>
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

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        self.0.call(request)
    }
}
