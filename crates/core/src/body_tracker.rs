//! The tracker that reads a response body while it is forwarded.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use tower_claude_wire::{
    self as wire, ApiError, JsonResponse, JsonScanner, Media, StreamState, Usage,
};

use crate::{
    class::{Class, Kind},
    endpoint::Endpoint,
    outcome::Outcome,
};

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// The body that a successful response to a request must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExpectedBody {
    /// No body, which answers a HEAD request.
    Nothing,
    /// A message, as one JSON document or as an event stream.
    Message,
    /// A count of tokens.
    TokenCount,
    /// A JSON document of any content, but no error and no page.
    Json,
    /// Any body that is not cut.
    Any,
}

impl ExpectedBody {
    /// Returns the body that answers this request.
    #[must_use]
    pub fn of<B>(request: &Request<B>) -> Self {
        let path = request.uri().path();
        let is_post = *request.method() == Method::POST;
        match Endpoint::of(path) {
            _ if *request.method() == Method::HEAD => Self::Nothing,
            Endpoint::Messages if is_post => Self::Message,
            Endpoint::CountTokens if is_post => Self::TokenCount,
            // The content of a file, and results in lines of JSON.
            Endpoint::Files | Endpoint::Batches
                if path.ends_with("/content") || path.ends_with("/results") =>
            {
                Self::Any
            }
            Endpoint::Files | Endpoint::Batches | Endpoint::Models => Self::Json,
            _ => Self::Any,
        }
    }

    /// Returns the body that any other service may return to the same request.
    pub(crate) const fn or_any(self) -> Self {
        match self {
            Self::Nothing => Self::Nothing,
            _ => Self::Any,
        }
    }

    /// Returns true if the body is read whatever its media type says.
    pub(crate) const fn is_judged(self) -> bool {
        matches!(self, Self::Message | Self::TokenCount)
    }
}

/// A tracker that finds the usage, the errors and the end of a response body.
// Small, because it is moved with every response.
#[derive(Debug)]
pub struct BodyTracker {
    tracked: Tracked,
    expected: ExpectedBody,
    /// The format is not known by the first byte yet.
    is_unsniffed: bool,
    reads_usage: bool,
    /// The part of `content-length` that has not arrived. Without the header, 1 until the first
    /// byte of a message, and 0 otherwise.
    missing: u64,
    /// The response has a `content-length`, which shows if the body is cut.
    has_length: bool,
}

/// The format of a body, with its state.
#[derive(Debug)]
enum Tracked {
    /// An event stream.
    Stream(Box<StreamState>),
    /// A JSON document, or a text whose format is not known yet. Nothing is kept of a body that
    /// arrives in one frame.
    Json(Option<Box<JsonScanner>>),
    /// A page, or another text, in place of the expected body.
    Page,
    /// A compressed body, or another media type. Only its end is tracked.
    Opaque,
}

impl BodyTracker {
    /// Creates the tracker for a response with this head. Compressed bodies are not read.
    #[must_use]
    pub fn of(expected: ExpectedBody, status: StatusCode, headers: &HeaderMap) -> Self {
        let code = status.as_u16();
        let has_body =
            expected != ExpectedBody::Nothing && code >= 200 && !matches!(code, 204 | 205 | 304);
        if !has_body {
            return Self::opaque();
        }
        // A redirect has no message, and an error was classified before.
        let expected = if status.is_success() {
            expected
        } else {
            ExpectedBody::Any
        };
        let is_page = || expected != ExpectedBody::Any && wire::is_page(headers);
        let media = wire::media(headers);
        let is_compressed = wire::is_compressed(headers);
        let tracked = match media {
            Media::Other if is_page() => Tracked::Page,
            _ if is_compressed => Tracked::Opaque,
            Media::Json => Tracked::Json(None),
            Media::EventStream => Tracked::Stream(Box::new(StreamState::new())),
            _ if expected.is_judged() && wire::is_text(headers) => Tracked::Json(None),
            _ => Tracked::Opaque,
        };
        // With a coding, an inner layer may have decoded the body.
        let missing = if is_compressed {
            None
        } else {
            wire::content_length(headers)
        };
        // A message in any coding is longer than this.
        let least = u64::from(expected.is_judged());
        Self {
            tracked,
            expected,
            is_unsniffed: expected.is_judged(),
            reads_usage: true,
            missing: missing.unwrap_or(0).max(least),
            has_length: missing.is_some(),
        }
    }

    /// Disables the usage of JSON documents, which are then not parsed for it.
    #[must_use]
    pub const fn without_usage(mut self) -> Self {
        self.reads_usage = false;
        self
    }

    /// Creates a tracker that only detects the end of a body.
    #[must_use]
    pub const fn opaque() -> Self {
        Self {
            tracked: Tracked::Opaque,
            expected: ExpectedBody::Any,
            is_unsniffed: false,
            reads_usage: false,
            missing: 0,
            has_length: false,
        }
    }

    /// Returns the state of an event stream. `None` for another body.
    #[must_use]
    pub fn stream(&self) -> Option<&StreamState> {
        match &self.tracked {
            Tracked::Stream(state) => Some(state),
            _ => None,
        }
    }

    /// Returns true if the body is a JSON document, or a text whose format is not known yet.
    #[must_use]
    pub const fn is_json(&self) -> bool {
        matches!(self.tracked, Tracked::Json(_))
    }

    /// Returns true if only the end of the body is tracked.
    #[must_use]
    pub const fn is_opaque(&self) -> bool {
        matches!(self.tracked, Tracked::Opaque)
    }

    /// Returns true if the response is worth forwarding before its end: content has begun, or the
    /// body is not read.
    pub(crate) fn has_begun(&self) -> bool {
        match &self.tracked {
            Tracked::Stream(state) => {
                state.has_content() || state.is_complete() || state.is_not_claude()
            }
            Tracked::Opaque => true,
            Tracked::Json(_) | Tracked::Page => false,
        }
    }

    /// Reads the data of a frame.
    pub fn feed(&mut self, data: &Bytes) {
        self.count(data);
        match &mut self.tracked {
            Tracked::Stream(state) => state.feed(data),
            Tracked::Json(scanner) => scanner.get_or_insert_default().feed(data),
            Tracked::Page | Tracked::Opaque => {}
        }
    }

    /// Counts the data, and recognizes the format by its first byte.
    #[inline]
    fn count(&mut self, data: &[u8]) {
        self.missing = self.missing.saturating_sub(data.len() as u64);
        if self.is_unsniffed {
            self.sniff(data);
        }
    }

    /// Recognizes a stream that is labelled as JSON, JSON that is labelled as a stream, and other
    /// text.
    fn sniff(&mut self, data: &[u8]) {
        // A byte order mark may be split.
        let is_text = |byte: &&u8| !byte.is_ascii_whitespace() && !BOM.contains(byte);
        let Some(first) = data.iter().find(is_text) else {
            return;
        };
        self.is_unsniffed = false;
        let (is_json, is_stream) = (self.is_json(), self.stream().is_some());
        self.tracked = match first {
            b'<' if is_json || is_stream => Tracked::Page,
            b'{' | b'[' if is_stream => Tracked::Json(None),
            b'{' | b'[' => return,
            // A comment, or the field `data`, `event`, `id` or `retry`.
            b':' | b'd' | b'e' | b'i' | b'r' if is_json => {
                Tracked::Stream(Box::new(StreamState::new()))
            }
            // A coding or a binary format that the head does not name.
            0..b'\t' | 0x0E..b' ' if is_json => Tracked::Opaque,
            _ if is_json => Tracked::Page,
            _ => return,
        };
    }

    /// Returns the usage that was reported so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        match &self.tracked {
            Tracked::Stream(state) => state.usage().clone(),
            Tracked::Json(Some(scanner)) if self.reads_usage => {
                Usage::from_message(scanner.outline()).unwrap_or_default()
            }
            _ => Usage::default(),
        }
    }

    /// Returns the outcome if it is known before the end of the body: by a `message_stop`, an
    /// `error` event, or a page.
    pub(crate) fn early(&self, classify: impl FnOnce(&ApiError) -> Class) -> Option<Outcome> {
        let usage = || self.usage();
        match &self.tracked {
            Tracked::Stream(state) => match state.error() {
                Some(error) => Some(Outcome::Failed {
                    class: classify(error),
                    usage: usage(),
                }),
                None if state.is_complete() => Some(Outcome::Complete { usage: usage() }),
                None => None,
            },
            Tracked::Page => Some(Outcome::Failed {
                class: Class::new(Kind::ServerError),
                usage: usage(),
            }),
            _ => None,
        }
    }

    /// Returns the outcome of a body that ends here.
    pub(crate) fn ended(&mut self, classify: impl FnOnce(&ApiError) -> Class) -> Outcome {
        let truncated = || Some(Class::new(Kind::Truncated));
        let failure = match &mut self.tracked {
            Tracked::Stream(state) => {
                state.finish();
                match state.error() {
                    Some(error) => Some(classify(error)),
                    None if state.is_whole() => None,
                    // A stream of another kind may end without a stop reason.
                    None if self.expected == ExpectedBody::Message
                        || state.started()
                        || self.missing > 0 =>
                    {
                        truncated()
                    }
                    None => None,
                }
            }
            Tracked::Json(Some(scanner)) => {
                let text = scanner.outline();
                let is_cut = scanner.is_cut() || self.missing > 0;
                let response = (!is_cut).then(|| JsonResponse::of(text));
                failure_of_json(self.expected, text, response, classify)
            }
            Tracked::Json(None) if self.expected.is_judged() || self.missing > 0 => truncated(),
            Tracked::Page => Some(Class::new(Kind::ServerError)),
            Tracked::Opaque if self.missing > 0 => truncated(),
            Tracked::Json(None) | Tracked::Opaque => None,
        };
        Self::outcome(failure, self.usage())
    }

    /// Returns the outcome of a body that ends with this data, which is read without keeping it.
    pub(crate) fn last(
        &mut self,
        data: &Bytes,
        classify: impl FnOnce(&ApiError) -> Class,
    ) -> Outcome {
        self.count(data);
        match &mut self.tracked {
            Tracked::Json(None) if !data.is_empty() => {
                let text = data.strip_prefix(BOM).unwrap_or(data);
                let whole = match (self.missing, self.reads_usage) {
                    (0, true) => JsonResponse::with_usage(text),
                    // Without a length, only the brackets show if the text is whole.
                    (0, false) if self.has_length => Some((JsonResponse::of(text), None)),
                    (0, false) => JsonResponse::of_whole(text).map(|response| (response, None)),
                    _ => None,
                };
                let (response, usage) = match whole {
                    Some((response, usage)) => (Some(response), usage),
                    None if self.reads_usage => (None, Usage::from_message(text)),
                    None => (None, None),
                };
                let failure = failure_of_json(self.expected, text, response, classify);
                return Self::outcome(failure, usage.unwrap_or_default());
            }
            Tracked::Stream(state) => state.feed(data),
            Tracked::Json(Some(scanner)) => scanner.feed(data),
            Tracked::Json(None) | Tracked::Page | Tracked::Opaque => {}
        }
        self.ended(classify)
    }

    fn outcome(failure: Option<Class>, usage: Usage) -> Outcome {
        match failure {
            Some(class) => Outcome::Failed { class, usage },
            None => Outcome::Complete { usage },
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

/// Returns the class of the failure if a JSON document is not the expected one. `response` is
/// `None` if the document is cut.
#[inline]
fn failure_of_json(
    expected: ExpectedBody,
    text: &[u8],
    response: Option<JsonResponse>,
    classify: impl FnOnce(&ApiError) -> Class,
) -> Option<Class> {
    let Some(response) = response else {
        return Some(Class::new(Kind::Truncated));
    };
    if matches!(expected, ExpectedBody::Any | ExpectedBody::Nothing) {
        return None;
    }
    match (expected, response) {
        (ExpectedBody::Message, JsonResponse::Message)
        | (ExpectedBody::TokenCount, JsonResponse::TokenCount) => None,
        (_, JsonResponse::Error(error)) => Some(classify(&error)),
        (ExpectedBody::Json, _) => None,
        // White space is no more than an empty body.
        _ if text.trim_ascii().is_empty() => Some(Class::new(Kind::Truncated)),
        _ => Some(Class::new(Kind::ServerError)),
    }
}
