//! What a Claude event stream means.

use crate::json::{Object, text};
use crate::usage::find;
use crate::{ApiError, SseEvent, SseScanner, Usage};

/// Kind of a [stream event](https://docs.claude.com/en/docs/build-with-claude/streaming).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StreamEvent {
    /// `message_start`: the message with empty content and first usage.
    MessageStart,
    /// `content_block_start`
    ContentBlockStart,
    /// `content_block_delta`
    ContentBlockDelta,
    /// `content_block_stop`
    ContentBlockStop,
    /// `message_delta`: stop reason and cumulative usage.
    MessageDelta,
    /// `message_stop`: the stream is complete.
    MessageStop,
    /// `ping`
    Ping,
    /// `error`: the answer failed after its status was sent.
    Error,
    /// A kind this crate does not know; new ones may appear at any time.
    Other,
}

impl StreamEvent {
    /// Kind of an event: by its name, or by the `type` in its data when it has no name.
    #[must_use]
    #[inline]
    pub fn of(event: &SseEvent<'_>) -> Self {
        if event.name.is_empty() {
            return Self::unnamed(event.data);
        }
        Self::named(event.name)
    }

    #[inline]
    fn named(name: &[u8]) -> Self {
        match name {
            b"content_block_delta" => Self::ContentBlockDelta,
            b"content_block_start" => Self::ContentBlockStart,
            b"content_block_stop" => Self::ContentBlockStop,
            b"message_start" => Self::MessageStart,
            b"message_delta" => Self::MessageDelta,
            b"message_stop" => Self::MessageStop,
            b"ping" => Self::Ping,
            b"error" => Self::Error,
            _ => Self::Other,
        }
    }

    /// Takes the first `type`, which the API writes first, so that a delta is not walked to its end.
    #[cold]
    fn unnamed(data: &[u8]) -> Self {
        let Some(mut object) = Object::open(data) else {
            return Self::Other;
        };
        while let Ok(Some(member)) = object.next() {
            if member.is(b"type") {
                return text(member.value).map_or(Self::Other, |kind| Self::named(kind.as_bytes()));
            }
        }
        Self::Other
    }
}

/// Follows a Messages response stream: how far it got, its usage, how it ended.
///
/// Deltas are counted, never parsed.
///
/// ```
/// use tower_claude_wire::StreamState;
///
/// let mut state = StreamState::new();
/// state.feed(b"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"over");
/// assert!(!state.at_boundary());
/// state.feed(b"loaded_error\",\"message\":\"Overloaded\"}}\n\n");
/// assert_eq!(state.error().expect("an error event").kind, "overloaded_error");
/// assert!(!state.is_complete());
/// ```
#[derive(Clone, Debug, Default)]
pub struct StreamState {
    scanner: SseScanner,
    seen: Seen,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    usage: Usage,
    error: Option<Box<ApiError>>,
    stop_reason: Option<Box<str>>,
    delta_bytes: u64,
    started: bool,
    has_content: bool,
    complete: bool,
    foreign: bool,
}

impl StreamState {
    /// The state before the first byte. An event is held up to 1 MiB, and only while it is split over chunks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next chunk, cut anywhere.
    #[inline]
    pub fn feed(&mut self, chunk: &[u8]) {
        self.feed_with(chunk, |_, _| {});
    }

    /// Reads the next chunk as [`feed`](Self::feed) does, and calls `on_event` with every event that ends in it.
    #[inline]
    pub fn feed_with(
        &mut self,
        chunk: &[u8],
        mut on_event: impl FnMut(StreamEvent, &SseEvent<'_>),
    ) {
        let seen = &mut self.seen;
        self.scanner.feed(chunk, |event| {
            let kind = StreamEvent::of(&event);
            seen.event(kind, event.data);
            on_event(kind, &event);
        });
    }

    /// Usage so far; later counts replace earlier ones, as they are cumulative. Empty if the stream told none.
    #[must_use]
    pub fn usage(&self) -> &Usage {
        &self.seen.usage
    }

    /// Whether `message_start` was seen.
    #[must_use]
    pub fn started(&self) -> bool {
        self.seen.started
    }

    /// Whether the first `content_block_start` was seen.
    #[must_use]
    pub fn has_content(&self) -> bool {
        self.seen.has_content
    }

    /// Whether `message_stop` was seen. A stream that ends without it is truncated.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.seen.complete
    }

    /// Whether this is not Claude's kind of stream: an unknown event came, and no `message_start` so far.
    #[must_use]
    pub fn is_not_claude(&self) -> bool {
        self.seen.foreign && !self.seen.started
    }

    /// The first in-stream error. One whose data cannot be read counts as an `api_error`.
    #[must_use]
    pub fn error(&self) -> Option<&ApiError> {
        self.seen.error.as_deref()
    }

    /// Whether the stop reason is `refusal`.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.stop_reason() == Some("refusal")
    }

    /// The stop reason, once `message_delta` told it.
    #[must_use]
    pub fn stop_reason(&self) -> Option<&str> {
        self.seen.stop_reason.as_deref()
    }

    /// Bytes of `content_block_delta` data seen: rough progress, for streams that break before their usage.
    #[must_use]
    pub fn delta_bytes(&self) -> u64 {
        self.seen.delta_bytes
    }

    /// Whether the bytes so far end between two events, so that an event could be inserted here.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.scanner.at_boundary()
    }
}

impl Seen {
    #[inline]
    fn event(&mut self, kind: StreamEvent, data: &[u8]) {
        match kind {
            StreamEvent::ContentBlockDelta => self.delta_bytes += data.len() as u64,
            kind => self.rare(kind, data),
        }
    }

    #[inline(never)]
    fn rare(&mut self, kind: StreamEvent, data: &[u8]) {
        match kind {
            StreamEvent::MessageStart => {
                self.started = true;
                if let Some(message) = find(data, b"message") {
                    self.told(message, message);
                }
            }
            StreamEvent::ContentBlockStart => self.has_content = true,
            StreamEvent::MessageDelta => self.told(data, find(data, b"delta").unwrap_or_default()),
            StreamEvent::MessageStop => self.complete = true,
            StreamEvent::Error if self.error.is_none() => {
                let error = ApiError::parse(data).unwrap_or_else(|| {
                    ApiError::new(
                        "api_error",
                        "the stream sent an error that could not be read",
                    )
                });
                self.error = Some(Box::new(error));
            }
            StreamEvent::Other => self.foreign = true,
            _ => {}
        }
    }

    fn told(&mut self, with_usage: &[u8], with_stop_reason: &[u8]) {
        if let Some(usage) = Usage::from_message(with_usage) {
            self.usage.merge(&usage);
        }
        if let Some(reason) = find(with_stop_reason, b"stop_reason").and_then(text) {
            self.stop_reason = Some(reason.into());
        }
    }
}
