//! The tracker that reads a response body while it is forwarded.

use bytes::Bytes;
use http::HeaderMap;
use tower_claude_wire::{self as wire, ApiError, Media, StreamState, Usage};

use crate::{
    class::{Class, Kind},
    outcome::Outcome,
};

/// The longest JSON body that is kept to read its usage: 4 MiB, which is about eight times the
/// longest response of a model. The usage of a longer body stays unknown.
const MESSAGE_LIMIT: usize = 4 * 1024 * 1024;

/// A tracker that finds the usage, the errors and the end of a response body.
// Small, because it is moved with every response.
#[derive(Debug)]
pub struct BodyTracker(Tracked);

/// The kind of a body, with its state.
#[derive(Debug)]
enum Tracked {
    /// An event stream.
    Stream(Box<StreamState>),
    /// A JSON document whose text is kept. Nothing is kept of a body that arrives in one frame.
    Message {
        text: Option<Box<JsonText>>,
        bounds: JsonBounds,
    },
    /// A JSON document whose usage is not read.
    Unread { bounds: JsonBounds },
    /// A compressed body, or another media type. Only its end is tracked.
    Opaque,
}

/// The text of a JSON document, as one shared frame or as several joined frames.
#[derive(Debug)]
enum JsonText {
    Piece(Bytes),
    Pieces(Vec<u8>),
}

impl JsonText {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Piece(piece) => piece,
            Self::Pieces(pieces) => pieces,
        }
    }

    fn add(&mut self, data: &[u8]) {
        match self {
            Self::Piece(piece) => *self = Self::Pieces([piece, data].concat()),
            Self::Pieces(pieces) => pieces.extend_from_slice(data),
        }
    }
}

/// The first and the last byte of a JSON text, without white space. 0 if there is none yet.
#[derive(Clone, Copy, Debug, Default)]
struct JsonBounds {
    first: u8,
    last: u8,
}

impl JsonBounds {
    fn feed(&mut self, data: &[u8]) {
        let data = data.trim_ascii();
        if let (Some(first), Some(last)) = (data.first(), data.last()) {
            if self.first == 0 {
                self.first = *first;
            }
            self.last = *last;
        }
    }

    /// Returns true if an object or array is not closed.
    ///
    /// This is cheap, and detects a body that ends too early without parsing it.
    const fn are_open(&self) -> bool {
        matches!(self.first, b'{') && !matches!(self.last, b'}')
            || matches!(self.first, b'[') && !matches!(self.last, b']')
    }
}

impl BodyTracker {
    /// Creates the tracker for a response with these headers. Compressed bodies are not read.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        match wire::readable(headers) {
            Media::Json => Self(Tracked::Message {
                text: None,
                bounds: JsonBounds::default(),
            }),
            Media::EventStream => Self(Tracked::Stream(Box::new(StreamState::new()))),
            _ => Self::opaque(),
        }
    }

    /// Disables the usage of JSON documents, which are then neither kept nor parsed.
    #[must_use]
    pub fn without_usage(self) -> Self {
        match self.0 {
            Tracked::Message { bounds, .. } => Self(Tracked::Unread { bounds }),
            other => Self(other),
        }
    }

    /// Creates a tracker that only detects the end of a body.
    #[must_use]
    pub const fn opaque() -> Self {
        Self(Tracked::Opaque)
    }

    /// Returns the state of an event stream. `None` for another body.
    #[must_use]
    pub fn stream(&self) -> Option<&StreamState> {
        match &self.0 {
            Tracked::Stream(state) => Some(state),
            _ => None,
        }
    }

    /// Returns true if the body is a JSON document.
    #[must_use]
    pub const fn is_message(&self) -> bool {
        matches!(self.0, Tracked::Message { .. } | Tracked::Unread { .. })
    }

    /// Reads the data of a frame.
    pub fn feed(&mut self, data: &Bytes) {
        match &mut self.0 {
            Tracked::Stream(state) => state.feed(data),
            Tracked::Message { text, bounds } => {
                bounds.feed(data);
                match text {
                    None if data.is_empty() => {}
                    None => *text = Some(Box::new(JsonText::Piece(data.clone()))),
                    Some(text) if text.bytes().len() + data.len() > MESSAGE_LIMIT => {
                        self.0 = Tracked::Opaque;
                    }
                    Some(text) => text.add(data),
                }
            }
            Tracked::Unread { bounds } => bounds.feed(data),
            Tracked::Opaque => {}
        }
    }

    /// Returns the usage that was reported so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        match &self.0 {
            Tracked::Stream(state) => state.usage().clone(),
            Tracked::Message {
                text: Some(text), ..
            } => Usage::from_message(text.bytes()).unwrap_or_default(),
            _ => Usage::default(),
        }
    }

    /// Returns the outcome if it is known before the end of the body, by a `message_stop` or an
    /// `error` event.
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

    /// Returns the class of the failure if the body is incomplete.
    ///
    /// A Claude stream without `message_stop` is incomplete, and so is a JSON document that is not
    /// closed.
    pub(crate) fn cut_short(&self) -> Option<Class> {
        let cut = match &self.0 {
            Tracked::Stream(state) => !state.is_complete() && !state.is_not_claude(),
            Tracked::Message { bounds, .. } | Tracked::Unread { bounds } => bounds.are_open(),
            Tracked::Opaque => false,
        };
        cut.then(|| Class::new(Kind::Truncated))
    }

    /// Returns the outcome of a body that ends here.
    pub(crate) fn ended(&self) -> Outcome {
        self.ended_with(self.usage())
    }

    fn ended_with(&self, usage: Usage) -> Outcome {
        match self.cut_short() {
            Some(class) => Outcome::Failed { class, usage },
            None => Outcome::Complete { usage },
        }
    }

    /// Returns the outcome of a body that ends with this data, which is read without keeping it.
    pub(crate) fn last(&mut self, data: &Bytes) -> Outcome {
        match &mut self.0 {
            Tracked::Message { text: None, bounds } => {
                bounds.feed(data);
                self.ended_with(Usage::from_message(data).unwrap_or_default())
            }
            _ => {
                self.feed(data);
                self.ended()
            }
        }
    }

    /// Returns the outcome of a body that fails here.
    pub(crate) fn broken(&self) -> Outcome {
        Outcome::Failed {
            class: Class::new(Kind::Transport),
            usage: self.usage(),
        }
    }
}
