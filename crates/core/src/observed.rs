//! The one body that sees how a response ends.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_claude_wire::{self as wire, ApiError, Media, StreamState, Usage};

use crate::{Class, Kind, Outcome};

/// The longest JSON answer that is kept to read its usage: 4 MiB, about eight times the longest
/// answer a model gives. Beyond it the usage stays unknown.
const MESSAGE_LIMIT: usize = 4 * 1024 * 1024;

/// Is told how a response goes on and how it ended.
pub trait Observe {
    /// What an `error` event inside the stream means.
    fn stream_error(&self, error: &ApiError) -> Class;

    /// More of the stream went by.
    fn progress(&mut self, stream: &StreamState) {
        let _ = stream;
    }

    /// How the response ended. Called exactly once; must not panic, since it may run in a drop.
    fn end(self, outcome: Outcome);
}

/// How a response body is to be understood, and what was understood so far.
#[derive(Debug)]
pub struct Watch(Kept);

#[derive(Debug)]
enum Kept {
    Stream {
        state: Box<StreamState>,
    },
    /// JSON that came in one piece so far.
    Message {
        text: Bytes,
        ends: Ends,
    },
    /// JSON that came in several.
    Pieces {
        text: Vec<u8>,
        ends: Ends,
    },
    /// JSON whose usage nobody asks for.
    Unread {
        ends: Ends,
    },
    /// Compressed, or neither a stream nor JSON: only its end is seen.
    Opaque,
}

/// The first and the last byte of a JSON text, white space aside; 0 while there is none.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    first: u8,
    last: u8,
}

impl Ends {
    fn feed(&mut self, data: &[u8]) {
        let data = data.trim_ascii();
        if let (Some(first), Some(last)) = (data.first(), data.last()) {
            if self.first == 0 {
                self.first = *first;
            }
            self.last = *last;
        }
    }

    /// An object or array that was not closed. Cheap, and enough to see a body that just stops.
    const fn are_open(&self) -> bool {
        matches!(self.first, b'{') && !matches!(self.last, b'}')
            || matches!(self.first, b'[') && !matches!(self.last, b']')
    }
}

impl Watch {
    /// By the response's headers. Compressed bodies are not looked into.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        match wire::readable(headers) {
            Media::Json => Self(Kept::Message {
                text: Bytes::new(),
                ends: Ends::default(),
            }),
            Media::EventStream => Self(Kept::Stream {
                state: Box::new(StreamState::new()),
            }),
            _ => Self::opaque(),
        }
    }

    /// The same watch for those who do not ask for the usage of a JSON answer: it is neither kept nor
    /// parsed.
    #[must_use]
    pub fn without_usage(self) -> Self {
        match self.0 {
            Kept::Message { ends, .. } | Kept::Pieces { ends, .. } => Self(Kept::Unread { ends }),
            kept => Self(kept),
        }
    }

    /// Sees only the end.
    #[must_use]
    pub const fn opaque() -> Self {
        Self(Kept::Opaque)
    }

    /// The stream, if it is one.
    #[must_use]
    pub fn stream(&self) -> Option<&StreamState> {
        match &self.0 {
            Kept::Stream { state } => Some(state),
            _ => None,
        }
    }

    /// Whether the body is a JSON document.
    #[must_use]
    pub const fn is_message(&self) -> bool {
        matches!(
            self.0,
            Kept::Message { .. } | Kept::Pieces { .. } | Kept::Unread { .. }
        )
    }

    /// Takes note of more data.
    pub fn feed(&mut self, data: &Bytes) {
        match &mut self.0 {
            Kept::Stream { state } => state.feed(data),
            Kept::Message { text, ends } => {
                ends.feed(data);
                if text.is_empty() {
                    *text = data.clone();
                } else if text.len() + data.len() > MESSAGE_LIMIT {
                    self.0 = Kept::Opaque;
                } else {
                    let text = [text.as_ref(), data].concat();
                    self.0 = Kept::Pieces { text, ends: *ends };
                }
            }
            Kept::Pieces { text, ends } => {
                ends.feed(data);
                if text.len() + data.len() > MESSAGE_LIMIT {
                    self.0 = Kept::Opaque;
                } else {
                    text.extend_from_slice(data);
                }
            }
            Kept::Unread { ends } => ends.feed(data),
            Kept::Opaque => {}
        }
    }

    /// What was reported as used so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        match &self.0 {
            Kept::Stream { state } => state.usage().clone(),
            Kept::Message { text, .. } => Usage::from_message(text).unwrap_or_default(),
            Kept::Pieces { text, .. } => Usage::from_message(text).unwrap_or_default(),
            Kept::Unread { .. } | Kept::Opaque => Usage::default(),
        }
    }

    /// The outcome that is certain before the body ends: `message_stop`, or an `error` event.
    pub(crate) fn early(&self, classify: impl FnOnce(&ApiError) -> Class) -> Option<Outcome> {
        let state = self.stream()?;
        if let Some(error) = state.error() {
            Some(Outcome::Failed {
                class: classify(error),
                usage: state.usage().clone(),
            })
        } else if state.is_complete() {
            Some(Outcome::Complete {
                usage: state.usage().clone(),
            })
        } else {
            None
        }
    }

    /// What it means when the body ends here, if that is a failure: a Claude stream without
    /// `message_stop` is cut short, and so is JSON that was not closed.
    pub(crate) fn cut_short(&self) -> Option<Class> {
        let cut = match &self.0 {
            Kept::Stream { state } => !state.is_complete() && !state.is_foreign(),
            Kept::Message { ends, .. } | Kept::Pieces { ends, .. } | Kept::Unread { ends } => {
                ends.are_open()
            }
            Kept::Opaque => false,
        };
        cut.then(|| Class::new(Kind::Truncated))
    }

    /// The outcome when the body ends here.
    pub(crate) fn ended(&self) -> Outcome {
        let usage = self.usage();
        match self.cut_short() {
            Some(class) => Outcome::Failed { class, usage },
            None => Outcome::Complete { usage },
        }
    }

    fn broken(&self) -> Outcome {
        Outcome::Failed {
            class: Class::new(Kind::Transport),
            usage: self.usage(),
        }
    }
}

pin_project! {
    /// Passes a body through untouched and tells an [`Observe`]r how it ended: at its end, at
    /// `message_stop`, at an error, or when it is dropped; once.
    pub struct Observed<B, O>
    where
        O: Observe,
    {
        #[pin]
        body: B,
        watch: Watch,
        observer: Option<O>,
    }

    impl<B, O> PinnedDrop for Observed<B, O>
    where
        O: Observe,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(observer) = this.observer.take() {
                observer.end(Outcome::Dropped { usage: this.watch.usage() });
            }
        }
    }
}

impl<B, O> Observed<B, O>
where
    B: Body<Data = Bytes>,
    O: Observe,
{
    /// Observes this body. One that has no frames (HEAD, 204) ends here; one whose `watch` has
    /// already seen its end does too.
    pub fn new(body: B, watch: Watch, observer: O) -> Self {
        let observer = Self::still(&body, &watch, observer);
        Self::resumed(body, watch, observer)
    }

    /// The observer, unless the body is at its end already, which it is told then. The first half of
    /// [`new`](Self::new), for a body that is moved only once it is decided what becomes of it.
    pub fn still(body: &B, watch: &Watch, observer: O) -> Option<O> {
        let over = watch
            .early(|error| observer.stream_error(error))
            .or_else(|| body.is_end_stream().then(|| watch.ended()));
        match over {
            Some(outcome) => {
                observer.end(outcome);
                None
            }
            None => Some(observer),
        }
    }

    /// Observes this body for whoever is [`still`](Self::still) to be told; nobody passes it through
    /// unobserved.
    pub const fn resumed(body: B, watch: Watch, observer: Option<O>) -> Self {
        Self {
            body,
            watch,
            observer,
        }
    }

    /// What was understood of the body so far; nothing more once its end was reported.
    pub const fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Passes the body through unobserved.
    pub const fn off(body: B) -> Self {
        Self {
            body,
            watch: Watch::opaque(),
            observer: None,
        }
    }
}

impl<B, O> Body for Observed<B, O>
where
    B: Body<Data = Bytes>,
    O: Observe,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        let Some(observer) = this.observer.as_mut() else {
            return Poll::Ready(frame);
        };
        let outcome = match &frame {
            None => Some(this.watch.ended()),
            Some(Err(_)) => Some(this.watch.broken()),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.watch.feed(data);
                    if let Some(stream) = this.watch.stream() {
                        observer.progress(stream);
                    }
                }
                this.watch
                    .early(|error| observer.stream_error(error))
                    // The caller may never poll past the last frame.
                    .or_else(|| this.body.is_end_stream().then(|| this.watch.ended()))
            }
        };
        if let Some(outcome) = outcome
            && let Some(observer) = this.observer.take()
        {
            observer.end(outcome);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B, O: Observe> fmt::Debug for Observed<B, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed")
            .field("ended", &self.observer.is_none())
            .finish_non_exhaustive()
    }
}
