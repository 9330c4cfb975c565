//! The tracker that reads a response body while it is forwarded.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, response::Parts};
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
    // Always inlined: the call of the function is a quarter of its time.
    #[must_use]
    #[inline(always)]
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

    /// Returns true if a response with this head is labelled as JSON and must be a message or a
    /// count.
    #[inline]
    pub(crate) fn expects_json(self, head: &Parts) -> bool {
        self.is_judged()
            && head.status == StatusCode::OK
            && wire::media(&head.headers) == Media::Json
    }

    /// Returns true if `data`, all that has arrived, is the expected message or count and is not
    /// cut. Reads its usage, if there is a place for it.
    ///
    /// The fast path for the usual body. Any other needs a [`BodyTracker`].
    // Always inlined, like the other steps of nearly every response.
    #[inline(always)]
    pub(crate) fn is_met_by(
        self,
        data: &[u8],
        headers: &HeaderMap,
        usage: Option<&mut Option<Usage>>,
    ) -> bool {
        let response = match usage {
            // The brackets show if it is whole.
            Some(usage) => JsonResponse::with_usage(data, usage),
            None if wire::content_length(headers) == Some(data.len() as u64) => {
                Some(JsonResponse::of(data))
            }
            None => JsonResponse::of_whole(data),
        };
        match response {
            Some(JsonResponse::Message) => self == Self::Message,
            Some(JsonResponse::TokenCount) => self == Self::TokenCount,
            _ => false,
        }
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
    /// The response has a `content-length`. If all of it has arrived, the body is not cut.
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
        self.usage_or(&mut None).clone()
    }

    /// Returns the end of the body if it is known before it arrives: by a `message_stop`, an
    /// `error` event, or a page.
    pub(crate) fn early(&self, classify: impl FnOnce(&ApiError) -> Class) -> Option<BodyEnd> {
        match &self.tracked {
            Tracked::Stream(state) => match state.error() {
                Some(error) => Some(BodyEnd::Failed(classify(error))),
                None => state.is_complete().then_some(BodyEnd::Complete),
            },
            Tracked::Page => Some(BodyEnd::Failed(Class::new(Kind::ServerError))),
            _ => None,
        }
    }

    /// Returns how a body ends here.
    pub(crate) fn ended(&mut self, classify: impl FnOnce(&ApiError) -> Class) -> BodyEnd {
        let truncated = || Some(Class::new(Kind::Truncated));
        BodyEnd::of(match &mut self.tracked {
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
                let is_cut = scanner.is_cut() || self.missing > 0 && !self.expected.is_judged();
                let response = (!is_cut).then(|| JsonResponse::of(text));
                failure_of_json(self.expected, text, response, classify)
            }
            Tracked::Json(None) if self.expected.is_judged() || self.missing > 0 => truncated(),
            Tracked::Page => Some(Class::new(Kind::ServerError)),
            Tracked::Opaque if self.missing > 0 => truncated(),
            Tracked::Json(None) | Tracked::Opaque => None,
        })
    }

    /// Returns how a body ends with this data, which is read without keeping it. Usage that is in
    /// it and not in the tracker goes to `usage`.
    pub(crate) fn last(
        &mut self,
        data: &Bytes,
        usage: &mut Option<Usage>,
        classify: impl FnOnce(&ApiError) -> Class,
    ) -> BodyEnd {
        self.count(data);
        match &mut self.tracked {
            Tracked::Json(None) if !data.is_empty() => {
                let text = data.strip_prefix(BOM).unwrap_or(data);
                // The brackets of a message show if it is whole. The length, if it is there, spares
                // reading up to the last one.
                let is_cut = self.missing > 0 && !self.expected.is_judged();
                let response = match self.reads_usage {
                    true if is_cut => {
                        *usage = Usage::from_message(text);
                        None
                    }
                    true => JsonResponse::with_usage(text, usage),
                    false if is_cut => None,
                    false if self.has_length && self.missing == 0 => Some(JsonResponse::of(text)),
                    false => JsonResponse::of_whole(text),
                };
                return BodyEnd::of(failure_of_json(self.expected, text, response, classify));
            }
            Tracked::Stream(state) => state.feed(data),
            Tracked::Json(Some(scanner)) => scanner.feed(data),
            Tracked::Json(None) | Tracked::Page | Tracked::Opaque => {}
        }
        self.ended(classify)
    }

    /// Returns the usage that was reported so far. `found` is where [`last`](Self::last) has put
    /// the usage of a JSON document, or else a place for it.
    pub(crate) fn usage_or<'a>(&'a self, found: &'a mut Option<Usage>) -> &'a Usage {
        match &self.tracked {
            Tracked::Stream(state) => state.usage(),
            Tracked::Json(Some(scanner)) if self.reads_usage => {
                *found = Usage::from_message(scanner.outline());
                found.get_or_insert_default()
            }
            _ => found.get_or_insert_default(),
        }
    }
}

/// How a body has ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum BodyEnd {
    Complete,
    Failed(Class),
}

impl BodyEnd {
    /// The end of a body that fails while it is read.
    pub(crate) const BROKEN: Self = Self::Failed(Class::new(Kind::Transport));

    #[inline]
    fn of(failure: Option<Class>) -> Self {
        failure.map_or(Self::Complete, Self::Failed)
    }

    /// Returns the class of the failure, if the body has failed.
    pub(crate) const fn failure(self) -> Option<Class> {
        match self {
            Self::Complete => None,
            Self::Failed(class) => Some(class),
        }
    }

    /// Returns the outcome of a response with this usage.
    #[inline]
    pub(crate) const fn outcome(self, usage: &Usage) -> Outcome<'_> {
        match self {
            Self::Complete => Outcome::Complete { usage },
            Self::Failed(class) => Outcome::Failed { class, usage },
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
