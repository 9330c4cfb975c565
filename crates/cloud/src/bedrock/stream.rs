//! Decoder of the event streams of Bedrock's `InvokeModel`.

use std::{fmt, ops::Range, str};

use aws_smithy_types::{event_stream::Message, str_bytes::StrBytes};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use tower_claude_core::STREAM_TRUNCATED;
use tower_claude_wire::{ApiError, Fields, cloud::aws_error_type, json_text};

use super::{
    frames::{BrokenFrame, FrameReader},
    invocation_metrics::{InvocationMetrics, ReportedMetrics},
};

/// The key that Bedrock adds to the last event of a stream.
const METRICS: &str = "amazon-bedrock-invocationMetrics";

/// A decoder that turns an event stream of Bedrock's `InvokeModel` into the server-sent events of
/// the Claude API. The chunking of the bytes does not matter.
///
/// Each frame has a `chunk` with one JSON event, which is written byte for byte, but without
/// `amazon-bedrock-invocationMetrics`. Frames and events of unknown kinds are skipped. An exception
/// becomes an `error` event with the type of the Claude API, and ends the stream.
///
/// A stream that breaks ends with an `error` event as well, and never silently. Its
/// `details.error_code` is [`STREAM_TRUNCATED`], which layers classify as
/// [`Kind::Truncated`](tower_claude_core::Kind::Truncated). A stream breaks by a wrong checksum, a
/// header of unknown type, a frame over 16 MiB or headers over 128 KiB, a chunk that is no JSON
/// object, an end inside of a frame, and an end without `message_stop`.
///
/// ```
/// use tower_claude_cloud::bedrock::EventStreamDecoder;
///
/// let mut decoder = EventStreamDecoder::new();
/// assert!(decoder.push(b"\0\0\0").is_empty()); // The start of a frame.
/// let last = decoder.finish();
/// assert!(last.starts_with(b"event: error\ndata: {\"type\":\"error\""));
/// ```
#[derive(Default)]
pub struct EventStreamDecoder {
    frames: FrameReader,
    state: State,
}

#[derive(Default)]
struct State {
    /// A `message_stop` or an `error` event was written.
    has_end: bool,
    /// Nothing more is read.
    is_over: bool,
    metrics: ReportedMetrics,
}

impl EventStreamDecoder {
    /// Creates a decoder before the first byte.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next chunk, and returns the server-sent events that end in it.
    pub fn push(&mut self, chunk: &[u8]) -> Bytes {
        let mut events = BytesMut::new();
        let state = &mut self.state;
        if !state.is_over {
            let read = self.frames.read(chunk, |message| {
                // Nothing after an exception counts.
                if state.is_over {
                    return Ok(());
                }
                state.on_message(&message, &mut events)
            });
            if let Err(BrokenFrame(reason)) = read {
                self.state.truncate(reason, &mut events);
            }
        }
        events.freeze()
    }

    /// Ends the stream. Returns the `error` event of a stream that ends too early, and nothing for
    /// a whole one.
    pub fn finish(&mut self) -> Bytes {
        let mut events = BytesMut::new();
        if !self.frames.at_boundary() {
            self.state
                .truncate("it ends inside of a frame", &mut events);
        } else if !self.state.has_end {
            self.state
                .truncate("it ends without `message_stop`", &mut events);
        }
        self.state.is_over = true;
        events.freeze()
    }

    /// Returns true after an `error` event that ends the stream. Further bytes are ignored, so the
    /// response can be dropped.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.state.is_over
    }

    /// Returns the handle that has the metrics after the last event.
    #[must_use]
    pub const fn metrics(&self) -> &ReportedMetrics {
        &self.state.metrics
    }
}

impl State {
    fn on_message(&mut self, message: &Message, out: &mut BytesMut) -> Result<(), BrokenFrame> {
        let payload = message.payload();
        match header(message, ":message-type") {
            Some("exception") => {
                let name = header(message, ":exception-type").unwrap_or_default();
                let parsed = ApiError::parse_any(payload).unwrap_or_default();
                self.fail(&exception(name, &parsed.message), out);
            }
            Some("error") => {
                let name = header(message, ":error-code").unwrap_or_default();
                let text = header(message, ":error-message").unwrap_or_default();
                self.fail(&exception(name, text), out);
            }
            _ if header(message, ":event-type") == Some("chunk") => {
                if let Some(event) = chunk_bytes(payload)? {
                    self.on_event(&event, out)?;
                }
            }
            // A kind that may be added at any time.
            _ => {}
        }
        Ok(())
    }

    /// Writes an event of the Claude API.
    fn on_event(&mut self, json: &[u8], out: &mut BytesMut) -> Result<(), BrokenFrame> {
        const NO_OBJECT: BrokenFrame = BrokenFrame("a chunk is no JSON object");
        if str::from_utf8(json).is_err() {
            return Err(NO_OBJECT);
        }
        let (mut kind, mut is_completion) = (None, false);
        let mut metrics: Option<Range<usize>> = None;
        // The end of the member before.
        let mut before = None;
        for field in Fields::open(json).ok_or(NO_OBJECT)? {
            let field = field.map_err(|_| NO_OBJECT)?;
            if let Some(cut) = &mut metrics
                && before == Some(cut.end)
                && json[cut.start] == b'"'
            {
                // The metrics are the first member, so the comma after them goes as well.
                cut.end = field.span.start;
            }
            match &*field.name {
                "type" => kind = json_text(field.value_in(json)),
                "completion" => is_completion = true,
                METRICS if metrics.is_none() => {
                    let reported = InvocationMetrics::from_json(field.value_in(json));
                    self.metrics.set(reported);
                    metrics = Some(before.unwrap_or(field.span.start)..field.span.end);
                }
                _ => {}
            }
            before = Some(field.span.end);
        }
        let name = match &kind {
            Some(kind) => kind,
            // Of the API before Messages.
            None if is_completion => "completion",
            None => return Ok(()),
        };
        if name.is_empty() || name.contains(['\r', '\n', '\0']) {
            return Err(BrokenFrame("an event has no valid type"));
        }
        self.has_end |= matches!(name, "message_stop" | "error");
        let cut = metrics.unwrap_or(json.len()..json.len());
        write_event(name, [&json[..cut.start], &json[cut.end..]], out);
        Ok(())
    }

    /// Ends the stream with an error.
    fn fail(&mut self, error: &ApiError, out: &mut BytesMut) {
        self.has_end = true;
        self.is_over = true;
        out.extend_from_slice(error.to_sse_event().as_bytes());
    }

    /// Ends a stream that is broken or cut, unless it is over.
    #[cold]
    fn truncate(&mut self, reason: &str, out: &mut BytesMut) {
        if self.is_over {
            return;
        }
        let message = format!("the event stream of Bedrock is broken: {reason}");
        let mut error = ApiError::new("api_error", message);
        error.error_code = Some(STREAM_TRUNCATED.to_owned());
        self.fail(&error, out);
    }
}

/// Returns the error of an exception. `details.error_code` is the name that AWS uses.
fn exception(name: &str, message: &str) -> ApiError {
    let message = match (message, name) {
        ("", "") => "the event stream of Bedrock ends with an exception without a name",
        ("", name) => name,
        (message, _) => message,
    };
    let mut error = ApiError::new(aws_error_type(name), message);
    error.error_code = (!name.is_empty()).then(|| name.to_owned());
    error
}

/// Returns the value of a header that is a text.
fn header<'m>(message: &'m Message, name: &str) -> Option<&'m str> {
    let mut headers = message.headers().iter();
    let header = headers.find(|header| header.name().as_str() == name)?;
    header.value().as_string().ok().map(StrBytes::as_str)
}

/// Returns the event in the payload of a `chunk` frame. `None` if the frame has none.
fn chunk_bytes(payload: &[u8]) -> Result<Option<Vec<u8>>, BrokenFrame> {
    const NO_CHUNK: BrokenFrame = BrokenFrame("the payload of a frame is no chunk");
    for field in Fields::open(payload).ok_or(NO_CHUNK)? {
        let field = field.map_err(|_| NO_CHUNK)?;
        if field.name == "bytes" {
            let text = json_text(field.value_in(payload)).ok_or(NO_CHUNK)?;
            let bytes = STANDARD.decode(&*text).map_err(|_| NO_CHUNK)?;
            return Ok((!bytes.is_empty()).then_some(bytes));
        }
    }
    Ok(None)
}

/// Writes a server-sent event with this data.
fn write_event(name: &str, data: [&[u8]; 2], out: &mut BytesMut) {
    let length = data[0].len() + data[1].len();
    out.reserve(name.len() + length + b"event: \ndata: \n\n".len());
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    for part in data {
        // A line break can only be white space of the JSON text here. It splits the field.
        for (at, line) in part.split(|byte| matches!(byte, b'\r' | b'\n')).enumerate() {
            if at > 0 {
                out.extend_from_slice(b"\ndata: ");
            }
            out.extend_from_slice(line);
        }
    }
    out.extend_from_slice(b"\n\n");
}

impl fmt::Debug for EventStreamDecoder {
    /// Leaves the content out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStreamDecoder")
            .field("is_over", &self.state.is_over)
            .field("has_end", &self.state.has_end)
            .field("metrics", &self.state.metrics.get())
            .finish_non_exhaustive()
    }
}
