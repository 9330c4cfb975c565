//! A scripted inner service with a lifetime.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_claude_core::BoxError;
use tower_service::Service;

use crate::{Broken, FrameBody, Script};

/// A [`Script`] with a lifetime, as reqwest-middleware's `Next<'_>` has one.
#[derive(Clone, Debug)]
pub struct Borrowed<'a> {
    script: Script,
    _name: &'a str,
}

impl<'a> Borrowed<'a> {
    /// Returns a service that borrows `name`.
    #[must_use]
    pub const fn new(script: Script, name: &'a str) -> Self {
        Self {
            script,
            _name: name,
        }
    }
}

impl<'a, B> Service<Request<B>> for Borrowed<'a>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<FrameBody>;
    type Error = Broken;
    type Future = Pin<Box<dyn Future<Output = Result<Response<FrameBody>, Broken>> + Send + 'a>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Service::<Request<B>>::poll_ready(&mut self.script, cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.script.call(request)
    }
}
