//! Decoder of the event streams of Bedrock's `InvokeModel`.

use std::{fmt, ops::Range, str};

use aws_smithy_types::event_stream::Message;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use tower_claude_core::STREAM_TRUNCATED;
use tower_claude_wire::{ApiError, Fields, json_text};

use super::{
    exception::stream_exception,
    frames::{FrameError, FrameReader},
    invocation_metrics::InvocationMetrics,
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
    metrics: Option<InvocationMetrics>,
}

impl EventStreamDecoder {
    /// Creates a decoder before the first byte.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next chunk, and returns the server-sent events that end in it.
    pub fn push(&mut self, chunk: &[u8]) -> Bytes {
        let mut out = Vec::new();
        if !self.state.is_over {
            let state = &mut self.state;
            let read = self.frames.read(chunk, |message| {
                if state.is_over {
                    return Ok(());
                }
                state.on_message(&message, &mut out)
            });
            if let Err(error) = read
                && !self.state.is_over
            {
                self.state.truncate(&error, &mut out);
            }
        }
        out.into()
    }

    /// Ends the stream. Returns the `error` event of a stream that ends too early, and nothing for
    /// a whole one.
    pub fn finish(&mut self) -> Bytes {
        let mut out = Vec::new();
        if !self.state.is_over {
            if !self.frames.at_boundary() {
                self.state.truncate(&"it ends inside of a frame", &mut out);
            } else if !self.state.has_end {
                self.state
                    .truncate(&"it ends without `message_stop`", &mut out);
            }
            self.state.is_over = true;
        }
        out.into()
    }

    /// Returns true after an `error` event that ends the stream. Further bytes are ignored, so the
    /// response can be dropped.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.state.is_over
    }

    /// Returns the metrics in the last event. `None` before that event, or if it has none.
    #[must_use]
    pub const fn metrics(&self) -> Option<&InvocationMetrics> {
        self.state.metrics.as_ref()
    }
}

impl State {
    fn on_message(&mut self, message: &Message, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let payload = message.payload();
        match header(message, ":message-type") {
            Some("exception") => {
                let name = header(message, ":exception-type").unwrap_or_default();
                let parsed = ApiError::parse_any(payload).unwrap_or_default();
                self.fail(&stream_exception(name, &parsed.message), out);
            }
            Some("error") => {
                let name = header(message, ":error-code").unwrap_or_default();
                let text = header(message, ":error-message").unwrap_or_default();
                self.fail(&stream_exception(name, text), out);
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
    fn on_event(&mut self, json: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
        const NO_OBJECT: FrameError = FrameError::Content("a chunk is no JSON object");
        if str::from_utf8(json).is_err() {
            return Err(NO_OBJECT);
        }
        let mut kind = None;
        let mut is_completion = false;
        let mut cut = None;
        // The end of the member before, and whether the cut still needs the comma after it.
        let mut before: Option<usize> = None;
        let mut is_first_cut = false;
        for field in Fields::open(json).ok_or(NO_OBJECT)? {
            let field = field.map_err(|_| NO_OBJECT)?;
            if is_first_cut {
                // The metrics are the first member, so the comma after them goes.
                cut = cut.map(|cut: Range<usize>| cut.start..field.span.start);
                is_first_cut = false;
            }
            match &*field.name {
                "type" => kind = json_text(field.value_in(json)),
                "completion" => is_completion = true,
                METRICS if cut.is_none() => {
                    self.metrics = Some(InvocationMetrics::from_json(field.value_in(json)));
                    is_first_cut = before.is_none();
                    cut = Some(before.unwrap_or(field.span.start)..field.span.end);
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
            return Err(FrameError::Content("an event has no valid type"));
        }
        self.has_end |= matches!(name, "message_stop" | "error");
        let cut = cut.unwrap_or(json.len()..json.len());
        write_event(name, [&json[..cut.start], &json[cut.end..]], out);
        Ok(())
    }

    /// Ends the stream with an error.
    fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        self.has_end = true;
        self.is_over = true;
        out.extend_from_slice(error.to_sse_event().as_bytes());
    }

    /// Ends a stream that is broken or cut.
    #[cold]
    fn truncate(&mut self, reason: &dyn fmt::Display, out: &mut Vec<u8>) {
        let message = format!("the event stream of Bedrock is broken: {reason}");
        let mut error = ApiError::new("api_error", message);
        error.error_code = Some(STREAM_TRUNCATED.to_owned());
        self.fail(&error, out);
    }
}

/// Returns the value of a header that is a text.
fn header<'m>(message: &'m Message, name: &str) -> Option<&'m str> {
    let mut headers = message.headers().iter();
    let header = headers.find(|header| header.name().as_str() == name)?;
    header.value().as_string().ok().map(|text| text.as_str())
}

/// Returns the event in the payload of a `chunk` frame. `None` if the frame has none.
fn chunk_bytes(payload: &[u8]) -> Result<Option<Vec<u8>>, FrameError> {
    const NO_CHUNK: FrameError = FrameError::Content("the payload of a frame is no chunk");
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
fn write_event(name: &str, data: [&[u8]; 2], out: &mut Vec<u8>) {
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
            .field("metrics", &self.state.metrics)
            .finish_non_exhaustive()
    }
}
