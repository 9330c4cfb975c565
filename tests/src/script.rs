//! A scripted inner service.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use http_body::Body;
use http_body_util::BodyExt;
use tower_claude_core::BoxError;
use tower_service::Service;

use crate::{Alive, Broken, FrameBody, Guard, Marker, Reply, read};

/// The result of a [`Script`]'s `poll_ready`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Ready at once.
    Ready,
    /// Pending this many times before each call, with a wake-up, for each clone.
    After(usize),
    /// Pending forever.
    Never,
    /// This error, always.
    Error(Broken),
}

/// A request that a [`Script`] received.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The method.
    pub method: Method,
    /// The URI.
    pub uri: Uri,
    /// The version.
    pub version: Version,
    /// The headers.
    pub headers: HeaderMap,
    /// The [`Marker`] in the extensions.
    pub marker: Option<Marker>,
    /// The body's data.
    pub body: Bytes,
    /// The body's trailers.
    pub trailers: Option<HeaderMap>,
    /// The body's error, if it is a [`Broken`]. `Broken("?")` stands for any other error.
    pub error: Option<Broken>,
}

/// An inner service with scripted responses. It records the requests, counts its live calls and
/// bodies, and panics if it is called before it was polled ready.
///
/// Clones share the script. A clone is never ready at first.
#[derive(Debug)]
pub struct Script {
    shared: Arc<Shared>,
    waited: usize,
    ready: bool,
    _guard: Guard,
}

#[derive(Debug)]
struct Shared {
    readiness: Readiness,
    replies: Mutex<VecDeque<Reply>>,
    seen: Mutex<Vec<Seen>>,
    arrivals: Option<tokio::sync::Barrier>,
    services: Alive,
    calls: Alive,
    bodies: Alive,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Script {
    /// Returns a service with these replies in order. The last reply repeats.
    ///
    /// # Panics
    /// If there is no reply.
    pub fn new(replies: impl IntoIterator<Item = Reply>) -> Self {
        let replies: VecDeque<_> = replies.into_iter().collect();
        assert!(!replies.is_empty(), "a script needs a reply");
        let services = Alive::new();
        Self {
            waited: 0,
            ready: false,
            _guard: services.guard(),
            shared: Arc::new(Shared {
                readiness: Readiness::Ready,
                replies: Mutex::new(replies),
                seen: Mutex::default(),
                arrivals: None,
                services,
                calls: Alive::new(),
                bodies: Alive::new(),
            }),
        }
    }

    /// Returns a service with this reply to each request.
    #[must_use]
    pub fn always(reply: Reply) -> Self {
        Self::new([reply])
    }

    /// Sets the readiness.
    ///
    /// # Panics
    /// If the service was cloned already.
    #[must_use]
    pub fn readiness(mut self, readiness: Readiness) -> Self {
        self.shared_mut().readiness = readiness;
        self
    }

    /// Withholds all responses until this number of requests is in flight.
    ///
    /// # Panics
    /// If the service was cloned already.
    #[must_use]
    pub fn together(mut self, requests: usize) -> Self {
        self.shared_mut().arrivals = Some(tokio::sync::Barrier::new(requests));
        self
    }

    fn shared_mut(&mut self) -> &mut Shared {
        Arc::get_mut(&mut self.shared).expect("set up before it is cloned")
    }

    /// Returns the requests received so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// Returns the number of requests received so far.
    #[must_use]
    pub fn calls(&self) -> usize {
        lock(&self.shared.seen).len()
    }

    /// Returns the number of live calls and response bodies.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.shared.calls.count() + self.shared.bodies.count()
    }

    /// Returns the number of live response bodies.
    #[must_use]
    pub fn bodies_alive(&self) -> usize {
        self.shared.bodies.count()
    }

    /// Returns the number of live clones of this service, without this one.
    #[must_use]
    pub fn clones_alive(&self) -> usize {
        self.shared.services.count() - 1
    }

    fn next_reply(&self) -> Reply {
        let mut replies = lock(&self.shared.replies);
        let reply = replies.front().cloned().expect("checked when it was made");
        if replies.len() > 1 {
            replies.pop_front();
        }
        reply
    }
}

impl Clone for Script {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            waited: 0,
            ready: false,
            _guard: self._guard.clone(),
        }
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<FrameBody>, Broken>> + Send>>;

impl<B> Service<Request<B>> for Script
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<FrameBody>;
    type Error = Broken;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self.shared.readiness {
            Readiness::Ready => {}
            Readiness::After(times) if self.waited < times => {
                self.waited += 1;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Readiness::After(_) => {}
            Readiness::Never => return Poll::Pending,
            Readiness::Error(error) => return Poll::Ready(Err(error)),
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answering {
        assert!(
            self.ready,
            "the inner service was called without having been polled ready (a clone is not ready)"
        );
        self.ready = false;
        self.waited = 0;
        let this = self.clone();
        let call = self.shared.calls.guard();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let (data, trailers, error) = read(body.map_err(Into::<BoxError>::into)).await;
            let error = error.map(|error| {
                error
                    .downcast_ref::<Broken>()
                    .copied()
                    .unwrap_or(Broken("?"))
            });
            lock(&this.shared.seen).push(Seen {
                method: head.method,
                uri: head.uri,
                version: head.version,
                headers: head.headers,
                marker: head.extensions.get::<Marker>().copied(),
                body: data,
                trailers,
                error,
            });
            // As a client does: a request that cannot be read to its end cannot be sent.
            if let Some(error) = error {
                return Err(error);
            }
            if let Some(arrivals) = &this.shared.arrivals {
                arrivals.wait().await;
            }
            let reply = this.next_reply();
            for _ in 0..reply.waits {
                pending_once().await;
            }
            let response = reply.response(this.shared.bodies.guard());
            drop(call);
            response
        })
    }
}

/// Waits for a second poll, with a wake-up.
pub(crate) async fn pending_once() {
    let mut waited = false;
    std::future::poll_fn(|cx| {
        if waited {
            return Poll::Ready(());
        }
        waited = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
