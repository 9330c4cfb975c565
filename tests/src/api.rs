//! A scripted API in paused time. Where a [`Script`](crate::Script) is driven poll by poll, this one takes its time:
//! it answers after a while, sends its body piece by piece, and keeps what it was asked.

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
use http_body::Body as HttpBody;
use tokio::time::{Instant, sleep};
use tower::ServiceExt;
use tower_claude_core::{Call, Class, RequestBody};
use tower_service::Service;

use crate::{Alive, read};

pub use reply::{Body, Piece, Reply};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Since the API was made.
    pub at: Duration,
    /// The model that was asked for; empty for none.
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
    /// Answers these, one after the other. One request more is a panic.
    pub fn new(replies: impl IntoIterator<Item = Reply>) -> Self {
        let mut replies: VecDeque<_> = replies.into_iter().collect();
        Self::by_model(move |_| {
            let next = replies.pop_front();
            next.expect("one request more than the script has answers")
        })
    }

    /// Answers what the script says for the model that is asked.
    pub fn by_model(script: impl FnMut(&str) -> Reply + Send + 'static) -> Self {
        Self(Arc::new(Shared {
            start: Instant::now(),
            script: Mutex::new(Box::new(script)),
            seen: Mutex::default(),
            alive: Alive::new(),
        }))
    }

    /// Since it was made.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.start.elapsed()
    }

    /// All requests.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.0.seen).clone()
    }

    /// When each request arrived, in whole seconds.
    #[must_use]
    pub fn arrivals(&self) -> Vec<u64> {
        self.seen().iter().map(|seen| seen.at.as_secs()).collect()
    }

    /// Which models were asked, in order.
    #[must_use]
    pub fn models(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.model).collect()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        lock(&self.0.seen).clear();
    }

    /// Calls and bodies that were not dropped yet.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.0.alive.count()
    }
}

/// A script may panic: that is its test's failure, not the next reader's.
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

/// A response, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The extensions.
    pub extensions: Extensions,
    /// What came of the body.
    pub body: Bytes,
    /// Whether the body ended in an error.
    pub broken: bool,
}

impl Answer {
    /// The body as text.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// What a layer says it means.
    ///
    /// # Panics
    /// When none does.
    #[must_use]
    pub fn class(&self) -> Class {
        *self.extensions.get().expect("a class")
    }
}

/// One whole call.
///
/// # Errors
/// The service's own.
pub async fn send<S, B>(service: S, request: Request<RequestBody>) -> io::Result<Answer>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = io::Error>,
    B: HttpBody<Data = Bytes, Error = io::Error> + Unpin,
{
    let (head, body) = service.oneshot(request).await?.into_parts();
    let (body, _, error) = read(body).await;
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        extensions: head.extensions,
        body,
        broken: error.is_some(),
    })
}
