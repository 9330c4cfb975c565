//! The request body of all layers.

use std::{
    any::Any,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tower_claude_wire::{Model, ModelCatalog, Peek};

use crate::{
    BoxError,
    body_failure::BodyFailure,
    call::{Call, Upload},
    erase::Erase,
    held_body::HeldBody,
    rejection::{RejectReason, Rejection},
};

type Stream = Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>;

/// A request body, either buffered or a stream.
///
/// A buffered body can be read and sent again at no cost. Its JSON is parsed at most once, and
/// clones share the result ([`peek`](Self::peek)).
///
/// A stream is a body over the buffer limit, a body with trailers, or a body that failed while it
/// was read. It is never sent again, so [`try_clone`](Self::try_clone) returns `None`. A body that
/// failed is not sent at all: the layers answer with its [`rejection`](Self::rejection).
// Small, because requests are moved often: a copy of more than 256 bytes takes twice the time.
pub struct RequestBody {
    repr: Repr,
    /// True if the only frame of a buffered body was returned.
    sent: bool,
    /// The record of the call. Stored here because the first extension of a request takes three
    /// allocations.
    call: Option<Arc<Call>>,
}

enum Repr {
    Buffered(Arc<Buffered>),
    Stream(Box<Streamed>),
}

/// A body in memory. Copies of a request share it.
struct Buffered {
    bytes: Bytes,
    parsed: Parse,
}

/// The parsed JSON of a body, or the place for it. The JSON itself is `None` if there is none.
enum Parse {
    /// Parsed before the body was shared, which needs no synchronization.
    Done(Option<Parsed>),
    /// Empty until the body is first read.
    OnFirstUse(OnceLock<Option<Parsed>>),
}

struct Streamed {
    /// The mutex makes the stream `Sync`. Polling uses `get_mut` and takes no lock.
    stream: Mutex<Stream>,
    failure: Option<BodyFailure>,
}

impl Streamed {
    fn lock(&self) -> MutexGuard<'_, Stream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The parsed JSON of a body.
struct Parsed {
    peek: Peek,
    /// The entry of the model in the built-in catalog. Kept because limiters read it twice.
    listed: Option<&'static Model>,
    /// The name of the model, if the catalog has the same name.
    name: Option<&'static str>,
}

impl Parsed {
    fn new(body: &[u8]) -> Option<Self> {
        let peek = Peek::parse(body)?;
        let (name, listed) = match peek.model_bytes(body) {
            Some(model) => ModelCatalog::builtin().get_named(model),
            None => (None, None),
        };
        Some(Self { peek, listed, name })
    }
}

/// The name in rejections of requests whose body failed.
const REJECTED_BY: &str = "request-body";

/// The greatest length of a model name in bytes. The names of cloud resources are shorter, too.
pub(crate) const MAX_NAME_LENGTH: usize = 1_024;

impl RequestBody {
    /// The default buffer limit of a layer: 32 MiB, which is the limit of the API.
    pub const DEFAULT_LIMIT: usize = 32 * 1024 * 1024;

    /// Wraps a body without reading it. A body that is already a `RequestBody` is returned
    /// unchanged.
    pub fn new<B>(body: B) -> Self
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        match downcast(body) {
            Ok(body) => body,
            Err(body) => Self::stream(Erase::new(body), None),
        }
    }

    /// Creates a body that has failed. It yields what was read, and then the error.
    pub(crate) fn failed<B>(held: B, failure: BodyFailure) -> Self
    where
        B: Body<Data = Bytes, Error = BoxError> + Send + 'static,
    {
        Self::stream(held, Some(failure))
    }

    /// Creates a body of which nothing can be sent. It yields an error.
    pub(crate) fn unread(failure: BodyFailure) -> Self {
        let error = HeldBody::<Self>::failed(failure.message().into());
        Self::failed(error, failure)
    }

    fn stream<B>(body: B, failure: Option<BodyFailure>) -> Self
    where
        B: Body<Data = Bytes, Error = BoxError> + Send + 'static,
    {
        let stream = Mutex::new(Box::pin(body) as Stream);
        Repr::Stream(Box::new(Streamed { stream, failure })).into()
    }

    /// Returns the rejection of the request if its body failed while it was buffered.
    ///
    /// The driver and the cache answer with it. A layer with a service of its own that neither
    /// sends the request nor has a driver inside should do the same.
    #[must_use]
    pub fn rejection(&self) -> Option<Rejection> {
        let Repr::Stream(stream) = &self.repr else {
            return None;
        };
        let failure = stream.failure?;
        Some(Rejection::new(REJECTED_BY, RejectReason::Body { failure }))
    }

    /// Returns the bytes of a buffered body.
    ///
    /// # Errors
    /// Returns the body itself if it is a stream.
    pub fn try_into_bytes(self) -> Result<Bytes, Self> {
        match self.repr {
            Repr::Stream(_) => Err(self),
            Repr::Buffered(_) if self.sent => Ok(Bytes::new()),
            Repr::Buffered(body) => Ok(match Arc::try_unwrap(body) {
                Ok(body) => body.bytes,
                Err(shared) => shared.bytes.clone(),
            }),
        }
    }

    /// Returns the bytes of a buffered body, also after it was sent. `None` for a stream.
    #[must_use]
    pub fn bytes(&self) -> Option<&Bytes> {
        match &self.repr {
            Repr::Buffered(body) => Some(&body.bytes),
            Repr::Stream(_) => None,
        }
    }

    /// Returns the top level of the JSON. `None` for a stream, and for a body that is not a JSON
    /// object.
    ///
    /// The first call parses the body, and later clones share the result.
    #[must_use]
    pub fn peek(&self) -> Option<&Peek> {
        Some(&self.parsed()?.peek)
    }

    /// Returns the model that the body names.
    ///
    /// The paths of some clouds name the model. See
    /// [`requested_model`](crate::toolkit::requested_model).
    ///
    /// `None` if the name is longer than 1,024 bytes. Layers keep state for each model, and this
    /// bounds the memory that a client can make them use.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        let parsed = self.parsed()?;
        if let Some(name) = parsed.name {
            return Some(name);
        }
        let model = parsed.peek.model(self.bytes()?)?;
        (model.len() <= MAX_NAME_LENGTH).then_some(model)
    }

    /// Returns the entry of this model in the built-in catalog, if there is one.
    pub(crate) fn listed_model(&self) -> Option<&'static Model> {
        self.parsed()?.listed
    }

    /// Parses the body now, which is cheaper than on first use.
    pub(crate) fn parse(&mut self) {
        if let Repr::Buffered(body) = &mut self.repr
            && let Parse::OnFirstUse(cell) = &body.parsed
            && cell.get().is_none()
            && let Some(Buffered { bytes, parsed }) = Arc::get_mut(body)
        {
            *parsed = Parse::Done(Parsed::new(bytes));
        }
    }

    /// Returns the record of the call, if one is attached.
    pub(crate) const fn call(&self) -> Option<&Arc<Call>> {
        self.call.as_ref()
    }

    /// Attaches the record of the call.
    pub(crate) fn set_call(&mut self, call: Arc<Call>) {
        self.call = Some(call);
    }

    fn parsed(&self) -> Option<&Parsed> {
        let Repr::Buffered(body) = &self.repr else {
            return None;
        };
        match &body.parsed {
            Parse::Done(parsed) => parsed.as_ref(),
            Parse::OnFirstUse(cell) => cell.get_or_init(|| Parsed::new(&body.bytes)).as_ref(),
        }
    }

    /// Returns a copy of the body to send again, or `None` if it is a stream.
    #[must_use]
    pub fn try_clone(&self) -> Option<Self> {
        let Repr::Buffered(body) = &self.repr else {
            return None;
        };
        Some(Self {
            repr: Repr::Buffered(body.clone()),
            sent: false,
            call: self.call.clone(),
        })
    }
}

impl From<Repr> for RequestBody {
    fn from(repr: Repr) -> Self {
        Self {
            repr,
            sent: false,
            call: None,
        }
    }
}

/// Returns the value as a `U` if its type is `U`, and unchanged if not.
#[inline]
pub(crate) fn downcast<T: 'static, U: 'static>(value: T) -> Result<U, T> {
    let mut slot = Some(value);
    let any: &mut dyn Any = &mut slot;
    match any.downcast_mut::<Option<U>>().and_then(Option::take) {
        Some(value) => Ok(value),
        None => Err(slot.expect("taken only if the type is `U`")),
    }
}

impl Default for RequestBody {
    fn default() -> Self {
        Bytes::new().into()
    }
}

impl From<Bytes> for RequestBody {
    fn from(bytes: Bytes) -> Self {
        let parsed = Parse::OnFirstUse(OnceLock::new());
        Repr::Buffered(Arc::new(Buffered { bytes, parsed })).into()
    }
}

impl From<Vec<u8>> for RequestBody {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for RequestBody {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for RequestBody {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { repr, sent, call } = self.get_mut();
        match repr {
            Repr::Buffered(body) => {
                if *sent || body.bytes.is_empty() {
                    return Poll::Ready(None);
                }
                *sent = true;
                Poll::Ready(Some(Ok(Frame::data(body.bytes.clone()))))
            }
            Repr::Stream(body) => {
                let stream = body.stream.get_mut();
                let stream = stream.unwrap_or_else(PoisonError::into_inner);
                let frame = stream.as_mut().poll_frame(cx);
                if let Some(call) = call {
                    call.set_upload(match &frame {
                        Poll::Pending => Upload::Waits,
                        Poll::Ready(Some(Err(error))) => Upload::Failed(BodyFailure::of(error)),
                        Poll::Ready(_) => Upload::Flows,
                    });
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.repr {
            Repr::Buffered(body) => self.sent || body.bytes.is_empty(),
            Repr::Stream(body) => body.lock().is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.repr {
            Repr::Buffered(_) if self.sent => SizeHint::with_exact(0),
            Repr::Buffered(body) => SizeHint::with_exact(body.bytes.len() as u64),
            Repr::Stream(body) => body.lock().size_hint(),
        }
    }
}

impl fmt::Debug for RequestBody {
    /// Writes the length and never the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.repr {
            Repr::Buffered(body) => write!(f, "RequestBody({} bytes)", body.bytes.len()),
            Repr::Stream(_) => f.write_str("RequestBody(stream)"),
        }
    }
}
