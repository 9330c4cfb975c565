//! What is understood of a response body while it goes by.

use bytes::Bytes;
use http::HeaderMap;
use tower_claude_wire::{self as wire, ApiError, Media, StreamState, Usage};

use crate::{Class, Kind, Outcome};

/// The longest JSON answer that is kept to read its usage: 4 MiB, about eight times the longest
/// answer a model gives. Beyond it the usage stays unknown.
const MESSAGE_LIMIT: usize = 4 * 1024 * 1024;

/// How a response body is to be understood, and what was understood so far.
// Small: every response moves with one for each layer that watches it.
#[derive(Debug)]
pub struct BodyTracker(Tracked);

#[derive(Debug)]
enum Tracked {
    Stream(Box<StreamState>),
    /// JSON, with what was kept of it: nothing of an answer that comes in one piece.
    Message {
        text: Option<Box<JsonText>>,
        ends: JsonBounds,
    },
    /// JSON whose usage nobody asks for.
    Unread {
        ends: JsonBounds,
    },
    /// Compressed, or neither a stream nor JSON: only its end is seen.
    Opaque,
}

/// What came of a JSON text: one piece as it is, or several in a row.
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

/// The first and the last byte of a JSON text, white space aside; 0 while there is none.
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

    /// An object or array that was not closed. Cheap, and enough to see a body that just stops.
    const fn are_open(&self) -> bool {
        matches!(self.first, b'{') && !matches!(self.last, b'}')
            || matches!(self.first, b'[') && !matches!(self.last, b']')
    }
}

impl BodyTracker {
    /// By the response's headers. Compressed bodies are not looked into.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        match wire::readable(headers) {
            Media::Json => Self(Tracked::Message {
                text: None,
                ends: JsonBounds::default(),
            }),
            Media::EventStream => Self(Tracked::Stream(Box::new(StreamState::new()))),
            _ => Self::opaque(),
        }
    }

    /// The same watch for those who do not ask for the usage of a JSON answer: it is neither kept nor
    /// parsed.
    #[must_use]
    pub fn without_usage(self) -> Self {
        match self.0 {
            Tracked::Message { ends, .. } => Self(Tracked::Unread { ends }),
            kept => Self(kept),
        }
    }

    /// Sees only the end.
    #[must_use]
    pub const fn opaque() -> Self {
        Self(Tracked::Opaque)
    }

    /// The stream, if it is one.
    #[must_use]
    pub fn stream(&self) -> Option<&StreamState> {
        match &self.0 {
            Tracked::Stream(state) => Some(state),
            _ => None,
        }
    }

    /// Whether the body is a JSON document.
    #[must_use]
    pub const fn is_message(&self) -> bool {
        matches!(self.0, Tracked::Message { .. } | Tracked::Unread { .. })
    }

    /// Takes note of more data.
    pub fn feed(&mut self, data: &Bytes) {
        match &mut self.0 {
            Tracked::Stream(state) => state.feed(data),
            Tracked::Message { text, ends } => {
                ends.feed(data);
                match text {
                    None if data.is_empty() => {}
                    None => *text = Some(Box::new(JsonText::Piece(data.clone()))),
                    Some(text) if text.bytes().len() + data.len() > MESSAGE_LIMIT => {
                        self.0 = Tracked::Opaque;
                    }
                    Some(text) => text.add(data),
                }
            }
            Tracked::Unread { ends } => ends.feed(data),
            Tracked::Opaque => {}
        }
    }

    /// What was reported as used so far.
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
            Tracked::Stream(state) => !state.is_complete() && !state.is_not_claude(),
            Tracked::Message { ends, .. } | Tracked::Unread { ends } => ends.are_open(),
            Tracked::Opaque => false,
        };
        cut.then(|| Class::new(Kind::Truncated))
    }

    /// The outcome when the body ends here.
    pub(crate) fn ended(&self) -> Outcome {
        self.ended_with(self.usage())
    }

    fn ended_with(&self, usage: Usage) -> Outcome {
        match self.cut_short() {
            Some(class) => Outcome::Failed { class, usage },
            None => Outcome::Complete { usage },
        }
    }

    /// The outcome when the body ends with this data, which need not be kept to be read.
    pub(crate) fn last(&mut self, data: &Bytes) -> Outcome {
        match &mut self.0 {
            Tracked::Message { text: None, ends } => {
                ends.feed(data);
                self.ended_with(Usage::from_message(data).unwrap_or_default())
            }
            _ => {
                self.feed(data);
                self.ended()
            }
        }
    }

    pub(crate) fn broken(&self) -> Outcome {
        Outcome::Failed {
            class: Class::new(Kind::Transport),
            usage: self.usage(),
        }
    }
}
