//! A layer that counts calls and retries, with a fault of one's choice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::sync::Semaphore;
use tower_claude_core::{RequestBody, toolkit::BufferRequest};
use tower_layer::Layer;
use tower_service::Service;

use crate::{body::SampleBody, future::SampleFuture};

/// A fault of a [`Sample`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    ForwardsReadiness,
    CallsUnready,
    RetriesForEver,
    OneAtATime,
    StateInLayer,
    CloneForgets,
    AddsRequestHeader,
    LosesRequestExtensions,
    SendsTwice,
    AddsResponseHeader,
    SortsResponseHeaders,
    LosesResponseExtensions,
    DropsComments,
    LosesEncoding,
    LosesTrailers,
    LosesLengthOfEmpty,
    LosesBodyError,
    AnswersErrors,
    LosesErrorBody,
    CutsErrorBody,
    RefusesOtherBodies,
    CopiesRequest,
    LosesStreams,
    CountsByHand,
    LeaksBody,
    SleepsOnResponse,
    OneFrameLate,
}

/// The state every service of the layer shares.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) calls: AtomicUsize,
    pub(crate) turn: Arc<Semaphore>,
}

impl State {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            calls: AtomicUsize::new(0),
            turn: Arc::new(Semaphore::new(1)),
        })
    }
}

/// Counts calls, and tries three times.
#[derive(Debug)]
pub(crate) struct Sample {
    fault: Fault,
    state: Arc<State>,
}

impl Sample {
    pub(crate) fn new(fault: Fault) -> Self {
        Self {
            fault,
            state: State::new(),
        }
    }

    pub(crate) fn calls(&self) -> usize {
        self.state.calls.load(Ordering::Relaxed)
    }
}

impl Clone for Sample {
    fn clone(&self) -> Self {
        Self {
            fault: self.fault,
            state: match self.fault {
                Fault::CloneForgets => State::new(),
                _ => self.state.clone(),
            },
        }
    }
}

impl<S> Layer<S> for Sample {
    type Service = BufferRequest<Sampled<S>>;

    fn layer(&self, inner: S) -> Self::Service {
        BufferRequest::new(Sampled {
            inner,
            fault: self.fault,
            state: match self.fault {
                Fault::StateInLayer => State::new(),
                _ => self.state.clone(),
            },
        })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Sampled<S> {
    inner: S,
    fault: Fault,
    state: Arc<State>,
}

impl<S, R> Service<Request<RequestBody>> for Sampled<S>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone + Unpin,
    S::Future: Unpin,
    R: Body<Data = Bytes> + Unpin,
{
    type Response = Response<SampleBody<R>>;
    type Error = S::Error;
    type Future = SampleFuture<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        match self.fault {
            Fault::ForwardsReadiness => self.inner.poll_ready(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        self.state.calls.fetch_add(1, Ordering::Relaxed);
        SampleFuture::new(self.inner.clone(), request, self.fault, self.state.clone())
    }
}
