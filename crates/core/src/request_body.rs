//! The request body that all layers share: buffered once, read and re-sent for free.

use std::{
    any::Any,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tower_claude_wire::{Model, ModelCatalog, Peek};

use crate::{BoxError, Call, Collect, erase::Erase};

type Stream = Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>;

/// A request body: bytes with one lazy, shared [`Peek`], or a stream that passes through.
///
/// A stream (a body over the buffer limit, or one that failed while being read) is never an error
/// here and never replayed: [`try_clone`](Self::try_clone) answers `None`.
pub struct RequestBody {
    repr: Repr,
    /// The one frame of the bytes is gone.
    sent: bool,
    /// The first hall on its way has let it in.
    under_way: bool,
    /// Of the call that it belongs to. Here and not in the request's extensions, which take three allocations to begin.
    context: Option<Arc<Call>>,
}

enum Repr {
    Bytes {
        bytes: Bytes,
        /// Nothing is allocated for a body that nobody looks into.
        read: OnceLock<Option<Arc<Read>>>,
    },
    /// A copy of one that was looked into. To fill another `OnceLock` costs more than the copy.
    Read {
        bytes: Bytes,
        read: Option<Arc<Read>>,
    },
    /// `Sync` through the mutex, which is only ever used by `get_mut`.
    Stream(Mutex<Stream>),
}

/// What the JSON says, read at the first question.
struct Read {
    peek: Peek,
    /// By the built-in catalog: every limiter asks twice.
    listed: Option<&'static Model>,
    /// The model's name, where the catalog has the very same.
    name: Option<&'static str>,
}

impl Read {
    fn new(body: &[u8]) -> Option<Self> {
        let peek = Peek::parse(body)?;
        let (name, listed) = match peek.model(body) {
            Some(model) => ModelCatalog::builtin().get_named(model),
            None => (None, None),
        };
        Some(Self { peek, listed, name })
    }
}

/// Longer than any name of a model, those of cloud resources included.
const LONGEST_NAME: usize = 1_024;

impl RequestBody {
    /// The most a layer buffers by default: 32 MiB, the API's own limit.
    pub const DEFAULT_LIMIT: usize = 32 * 1024 * 1024;

    /// Wraps a body without reading it. A body that is a `RequestBody` already stays what it is.
    pub fn new<B>(body: B) -> Self
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        match downcast(body) {
            Ok(body) => body,
            Err(body) => Repr::Stream(Mutex::new(Box::pin(Erase::new(body)))).into(),
        }
    }

    /// Reads a body into memory, up to `limit` bytes. Infallible: a longer body, one with
    /// trailers, or one that fails, becomes a stream that begins with what was read.
    pub fn collect<B>(body: B, limit: usize) -> Collect<B>
    where
        B: Body + Unpin + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        Collect::new(body, limit)
    }

    /// The bytes, or the body itself when it is a stream.
    ///
    /// # Errors
    /// Gives the body back when it is not buffered.
    pub fn try_into_bytes(self) -> Result<Bytes, Self> {
        match self.repr {
            Repr::Stream(_) => Err(self),
            _ if self.sent => Ok(Bytes::new()),
            Repr::Bytes { bytes, .. } | Repr::Read { bytes, .. } => Ok(bytes),
        }
    }

    /// The bytes, when buffered. Still there after the body was sent.
    #[must_use]
    pub fn bytes(&self) -> Option<&Bytes> {
        match &self.repr {
            Repr::Bytes { bytes, .. } | Repr::Read { bytes, .. } => Some(bytes),
            Repr::Stream(_) => None,
        }
    }

    /// What the JSON says at its top level; parsed at the first call, shared by all clones made since.
    /// `None` for a stream and for a body that is not a JSON object.
    #[must_use]
    pub fn peek(&self) -> Option<&Peek> {
        Some(&self.read()?.peek)
    }

    /// The model the request names. What is over 1,024 bytes is no name: much is kept by model, and a client may name
    /// anything.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        let read = self.read()?;
        if let Some(name) = read.name {
            return Some(name);
        }
        let model = read.peek.model(self.bytes()?)?;
        (model.len() <= LONGEST_NAME).then_some(model)
    }

    /// The model the request names, if the built-in catalog lists it; looked up with the [`peek`](Self::peek).
    pub(crate) fn listed_model(&self) -> Option<&'static Model> {
        self.read()?.listed
    }

    /// Parses the body now, which is cheaper than at the first use.
    pub(crate) fn parse(&mut self) {
        if let Repr::Bytes { bytes, read } = &mut self.repr
            && read.get().is_none()
        {
            let bytes = std::mem::take(bytes);
            let read = Read::new(&bytes).map(Arc::new);
            self.repr = Repr::Read { bytes, read };
        }
    }

    /// Whether the first hall on its way has let it in.
    pub(crate) const fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// Whoever calls a service with it from now on polls at once.
    pub(crate) const fn set_under_way(&mut self) {
        self.under_way = true;
    }

    pub(crate) const fn context(&self) -> Option<&Arc<Call>> {
        self.context.as_ref()
    }

    pub(crate) fn set_context(&mut self, context: Arc<Call>) {
        self.context = Some(context);
    }

    fn read(&self) -> Option<&Read> {
        match &self.repr {
            Repr::Bytes { bytes, read, .. } => read
                .get_or_init(|| Read::new(bytes).map(Arc::new))
                .as_deref(),
            Repr::Read { read, .. } => read.as_deref(),
            Repr::Stream(_) => None,
        }
    }

    /// The same body, to be sent again; `None` when it is a stream.
    #[must_use]
    pub fn try_clone(&self) -> Option<Self> {
        let (bytes, read) = match &self.repr {
            Repr::Bytes { bytes, read, .. } => (bytes.clone(), read.get()),
            Repr::Read { bytes, read, .. } => (bytes.clone(), Some(read)),
            Repr::Stream(_) => return None,
        };
        let repr = match read {
            Some(read) => {
                let read = read.clone();
                Repr::Read { bytes, read }
            }
            None => Repr::unread(bytes),
        };
        // Not under way: who copies it may keep the copy for long.
        let mut copy: Self = repr.into();
        copy.context.clone_from(&self.context);
        Some(copy)
    }
}

impl Repr {
    const fn unread(bytes: Bytes) -> Self {
        let read = OnceLock::new();
        Self::Bytes { bytes, read }
    }
}

impl From<Repr> for RequestBody {
    fn from(repr: Repr) -> Self {
        Self {
            repr,
            sent: false,
            under_way: false,
            context: None,
        }
    }
}

/// Gives the value back as what it is, when it is a `RequestBody`.
fn downcast<B: 'static>(body: B) -> Result<RequestBody, B> {
    let mut slot = Some(body);
    let any: &mut dyn Any = &mut slot;
    match any
        .downcast_mut::<Option<RequestBody>>()
        .and_then(Option::take)
    {
        Some(body) => Ok(body),
        None => Err(slot.expect("taken only when it is a RequestBody")),
    }
}

/// Takes the body out of a place in which it may already be a `RequestBody`.
pub(crate) fn take_if_request_body<B: 'static>(body: B) -> Result<RequestBody, B> {
    downcast(body)
}

impl Default for RequestBody {
    fn default() -> Self {
        Bytes::new().into()
    }
}

impl From<Bytes> for RequestBody {
    fn from(bytes: Bytes) -> Self {
        Repr::unread(bytes).into()
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
        let Self { repr, sent, .. } = self.get_mut();
        match repr {
            Repr::Bytes { bytes, .. } | Repr::Read { bytes, .. } => {
                if *sent || bytes.is_empty() {
                    return Poll::Ready(None);
                }
                *sent = true;
                Poll::Ready(Some(Ok(Frame::data(bytes.clone()))))
            }
            Repr::Stream(stream) => stream
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner)
                .as_mut()
                .poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.repr {
            Repr::Bytes { bytes, .. } | Repr::Read { bytes, .. } => self.sent || bytes.is_empty(),
            Repr::Stream(stream) => stream
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.repr {
            Repr::Bytes { .. } | Repr::Read { .. } if self.sent => SizeHint::with_exact(0),
            Repr::Bytes { bytes, .. } | Repr::Read { bytes, .. } => {
                SizeHint::with_exact(bytes.len() as u64)
            }
            Repr::Stream(stream) => stream
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .size_hint(),
        }
    }
}

impl fmt::Debug for RequestBody {
    /// Never the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.repr {
            Repr::Bytes { bytes, .. } | Repr::Read { bytes, .. } => {
                write!(f, "RequestBody({} bytes)", bytes.len())
            }
            Repr::Stream(_) => f.write_str("RequestBody(stream)"),
        }
    }
}
