//! State of a Messages response stream.

use crate::error::ApiError;
use crate::json::{Object, find, json_text, value_end};
use crate::sse::{SseEvent, SseScanner};
use crate::usage::Usage;

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
    /// `error`, or an exception of a cloud platform: the response failed after its status was sent.
    Error,
    /// An unknown kind. New kinds may appear at any time.
    Other,
}

impl StreamEvent {
    /// Returns the kind of an event, by its name, or by its data if it has no name.
    ///
    /// The data has a `type`, or the `error` of a gateway. `message` is the name that the standard
    /// gives to events without a name.
    #[must_use]
    #[inline]
    pub fn of(event: &SseEvent<'_>) -> Self {
        if event.name.is_empty() || event.name == b"message" {
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
            // Bedrock: `throttlingException`, `exception`.
            name if name.to_ascii_lowercase().ends_with(b"exception") => Self::Error,
            _ => Self::Other,
        }
    }

    /// Reads the first `type` only. The API writes it first, so the rest of a delta is not scanned.
    #[cold]
    fn unnamed(data: &[u8]) -> Self {
        let Some(mut object) = Object::open(data) else {
            return Self::Other;
        };
        while let Ok(Some(member)) = object.next() {
            if member.is(b"type") {
                return json_text(member.value)
                    .map_or(Self::Other, |kind| Self::named(kind.as_bytes()));
            }
            if member.is(b"error") && member.value != b"null" {
                return Self::Error;
            }
        }
        Self::Other
    }
}

/// State of a Messages response stream: its progress, its usage and its end.
///
/// The data of deltas is counted, not parsed.
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
    facts: StreamFacts,
}

#[derive(Clone, Debug, Default)]
struct StreamFacts {
    usage: Usage,
    error: Option<Box<ApiError>>,
    stop_reason: Option<Box<str>>,
    delta_bytes: u64,
    /// The number of events other than `ping`.
    events: usize,
    started: bool,
    has_content: bool,
    complete: bool,
    foreign_event: bool,
}

impl StreamState {
    /// Creates the state before the first byte. An event that is split over chunks is buffered, up
    /// to 1 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next chunk. The chunking does not matter.
    #[inline]
    pub fn feed(&mut self, chunk: &[u8]) {
        self.feed_with(chunk, |_, _| {});
    }

    /// Reads the next chunk as [`feed`](Self::feed) does, and calls `on_event` with every event
    /// that ends in it.
    #[inline]
    pub fn feed_with(
        &mut self,
        chunk: &[u8],
        mut on_event: impl FnMut(StreamEvent, &SseEvent<'_>),
    ) {
        let facts = &mut self.facts;
        self.scanner.feed(chunk, |event| {
            let kind = StreamEvent::of(&event);
            facts.on_event(kind, &event);
            on_event(kind, &event);
        });
    }

    /// Ends the stream. A last event without its blank line is read if its data is whole.
    pub fn finish(&mut self) {
        let facts = &mut self.facts;
        self.scanner.finish(|event| {
            if value_end(event.data, 0) == Some(event.data.len()) {
                facts.on_event(StreamEvent::of(&event), &event);
            }
        });
    }

    /// Returns the usage so far. Counts are cumulative, so the greatest of each is kept. Empty if
    /// the stream has reported none.
    #[must_use]
    pub fn usage(&self) -> &Usage {
        &self.facts.usage
    }

    /// Returns true after `message_start`.
    #[must_use]
    pub fn started(&self) -> bool {
        self.facts.started
    }

    /// Returns true after the first `content_block_start` or `content_block_delta`.
    #[must_use]
    pub fn has_content(&self) -> bool {
        self.facts.has_content
    }

    /// Returns true after the `message_stop` of a message that has begun.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.facts.complete
    }

    /// Returns true if nothing of the message is missing when the stream ends here: after
    /// `message_stop`, or after a stop reason. Any other stream is truncated.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.facts.complete || self.facts.stop_reason.is_some()
    }

    /// Returns true if this is the stream of another API: an event without a `type` was read, and
    /// no `message_start` so far.
    #[must_use]
    pub fn is_not_claude(&self) -> bool {
        self.facts.foreign_event && !self.facts.started
    }

    /// Returns the first error in the stream, in the format of any platform. If its data has no
    /// type, it is an `api_error`.
    #[must_use]
    pub fn error(&self) -> Option<&ApiError> {
        self.facts.error.as_deref()
    }

    /// Returns true if the stop reason is `refusal`.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.stop_reason() == Some("refusal")
    }

    /// Returns the stop reason. `None` before the `message_delta` that has it.
    #[must_use]
    pub fn stop_reason(&self) -> Option<&str> {
        self.facts.stop_reason.as_deref()
    }

    /// Returns the bytes of `content_block_delta` data so far: a rough progress, for streams that
    /// break before their usage.
    #[must_use]
    pub fn delta_bytes(&self) -> u64 {
        self.facts.delta_bytes
    }

    /// Returns the number of events so far, without `ping`. It grows while the stream makes
    /// progress.
    #[must_use]
    pub fn events(&self) -> usize {
        self.facts.events
    }

    /// Returns true if the bytes so far end between two events, so that an event could be inserted
    /// here.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.scanner.at_boundary()
    }
}

impl StreamFacts {
    #[inline]
    fn on_event(&mut self, kind: StreamEvent, event: &SseEvent<'_>) {
        self.events += usize::from(kind != StreamEvent::Ping);
        match kind {
            StreamEvent::ContentBlockDelta => {
                self.has_content = true;
                self.delta_bytes += event.data.len() as u64;
            }
            kind => self.on_other_event(kind, event),
        }
    }

    #[inline(never)]
    fn on_other_event(&mut self, kind: StreamEvent, event: &SseEvent<'_>) {
        let data = event.data;
        match kind {
            StreamEvent::MessageStart => {
                self.started = true;
                if let Some(message) = find(data, b"message") {
                    self.on_usage(message, message);
                }
            }
            StreamEvent::ContentBlockStart => self.has_content = true,
            StreamEvent::MessageDelta => {
                self.on_usage(data, find(data, b"delta").unwrap_or_default());
            }
            StreamEvent::MessageStop => {
                self.complete = self.started || self.has_content || self.stop_reason.is_some();
            }
            StreamEvent::Error if self.error.is_none() => {
                let mut error = ApiError::parse_any(data).unwrap_or_else(|| {
                    ApiError::new("", "the stream sent an error that could not be read")
                });
                if error.kind.is_empty() && error.status.is_none() {
                    error.kind = match event.name {
                        b"" | b"message" | b"error" | b"exception" => "api_error".into(),
                        exception => String::from_utf8_lossy(exception).into_owned(),
                    };
                }
                self.error = Some(Box::new(error));
            }
            // New types may appear at any time. `[DONE]` is no content of any API.
            StreamEvent::Other => {
                let is_object = Object::open(data).is_some();
                self.foreign_event |= is_object && find(data, b"type").is_none();
            }
            _ => {}
        }
    }

    fn on_usage(&mut self, with_usage: &[u8], with_stop_reason: &[u8]) {
        if let Some(usage) = Usage::from_message(with_usage) {
            self.usage.merge(&usage);
        }
        if let Some(reason) = find(with_stop_reason, b"stop_reason").and_then(json_text) {
            self.stop_reason = Some(reason.into());
        }
    }
}
