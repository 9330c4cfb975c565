//! A scripted API in paused time. A [`Script`](crate::Script) is driven poll by poll. This API
//! answers after a delay, sends its body piece by piece, and records the requests.

mod reply;
pub mod sse;

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, Request, Response};
use tokio::time::{Instant, sleep};
use tower_claude_core::{Call, RequestBody};
use tower_service::Service;

use crate::{Alive, read};

pub use reply::{Body, Piece, Reply};

/// A request that an [`Api`] received.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The time since the API was made.
    pub at: Duration,
    /// The model in the body, or an empty text.
    pub model: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The extensions.
    pub extensions: Extensions,
    /// The whole body.
    pub body: Bytes,
}

/// An API that answers by script.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

type Script = Box<dyn FnMut(&str) -> Reply + Send>;

struct Shared {
    start: Instant,
    script: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
    alive: Alive,
}

impl Api {
    /// Returns an API that answers with these replies in order, and panics at a further request.
    pub fn new(replies: impl IntoIterator<Item = Reply>) -> Self {
        let mut replies: VecDeque<_> = replies.into_iter().collect();
        Self::by_model(move |_| {
            let next = replies.pop_front();
            next.expect("one request more than the script has answers")
        })
    }

    /// Returns an API whose script chooses the reply by the model.
    pub fn by_model(script: impl FnMut(&str) -> Reply + Send + 'static) -> Self {
        Self(Arc::new(Shared {
            start: Instant::now(),
            script: Mutex::new(Box::new(script)),
            seen: Mutex::default(),
            alive: Alive::new(),
        }))
    }

    /// Returns the time since the API was made.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.start.elapsed()
    }

    /// Returns all requests.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.0.seen).clone()
    }

    /// Returns the time of each request, in whole seconds.
    #[must_use]
    pub fn arrivals(&self) -> Vec<u64> {
        self.seen().iter().map(|seen| seen.at.as_secs()).collect()
    }

    /// Returns the models of the requests in order.
    #[must_use]
    pub fn models(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.model).collect()
    }

    /// Removes the recorded requests.
    pub fn forget(&self) {
        lock(&self.0.seen).clear();
    }

    /// Returns the number of live calls and bodies.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.0.alive.count()
    }
}

/// Locks a mutex. A panic of the script fails its own test, not the next reader.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Service<Request<RequestBody>> for Api {
    type Response = Response<Body>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let api = self.0.clone();
        let guard = api.alive.guard();
        Box::pin(async move {
            let mut request = request;
            Call::leave_in_extensions(&mut request);
            let (head, body) = request.into_parts();
            let model = body.model().unwrap_or_default().to_owned();
            let (body, ..) = read(body).await;
            let reply = (lock(&api.script))(&model);
            lock(&api.seen).push(Seen {
                at: api.start.elapsed(),
                model,
                headers: head.headers,
                extensions: head.extensions,
                body,
            });
            match reply.after {
                None => std::future::pending().await,
                Some(Duration::ZERO) => {}
                Some(wait) => sleep(wait).await,
            }
            reply.into_response(guard)
        })
    }
}
