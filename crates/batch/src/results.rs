//! The bodies of the batch endpoints: creations, states, lists and results.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tower_claude_core::{Class, ClassifyResponse, ClaudeClassify, Reach};
use tower_claude_wire::{ApiError, Billing, ModelCatalog, Money, Platform, Usage};

use crate::scheduler::{ItemOutcome, Listed};

/// The response header with the id of the batch that has answered a call.
pub const BATCH: HeaderName = HeaderName::from_static("x-tower-claude-batch");

/// The response header with the difference to the price of an ordinary call, in USD. Absent if the
/// prices of the model are not known.
pub const SAVED: HeaderName = HeaderName::from_static("x-tower-claude-saved");

const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// The longest line of results. A message with 300,000 tokens has a few megabytes.
const LONGEST_LINE: usize = 64 * 1024 * 1024;

/// Returns the body of a creation. The bodies of the calls are in it byte for byte.
pub(crate) fn creation(items: &[(String, Bytes)]) -> Bytes {
    const REST: usize = 40;
    let length = items.iter().map(|(id, body)| id.len() + body.len() + REST);
    let mut out = Vec::with_capacity(length.sum::<usize>() + REST);
    out.extend_from_slice(b"{\"requests\":[");
    for (at, (id, body)) in items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"custom_id\":\"");
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(b"\",\"params\":");
        out.extend_from_slice(body);
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    out.into()
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Counts {
    processing: u64,
    succeeded: u64,
    errored: u64,
    canceled: u64,
    expired: u64,
}

/// A batch as the API describes it.
#[derive(Deserialize)]
pub(crate) struct Described {
    pub(crate) id: String,
    processing_status: String,
    #[serde(default)]
    request_counts: Counts,
    #[serde(default)]
    created_at: String,
}

impl Described {
    /// Reads a body. `None` if it is no batch, or if its id cannot be a part of a path.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let described: Self = serde_json::from_slice(body).ok()?;
        described.is_usable().then_some(described)
    }

    fn is_usable(&self) -> bool {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        (1..=200).contains(&self.id.len()) && self.id.bytes().all(is_allowed)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.processing_status == "ended"
    }

    /// Returns the entry of a list, as of the server's time.
    fn listed(self, now: SystemTime) -> Option<Listed> {
        let created = self.created_at.parse::<jiff::Timestamp>().ok()?;
        let age = now.duration_since(SystemTime::from(created));
        let counts = &self.request_counts;
        let total = counts
            .processing
            .saturating_add(counts.succeeded)
            .saturating_add(counts.errored)
            .saturating_add(counts.canceled)
            .saturating_add(counts.expired);
        let ended = self.has_ended();
        let age = age.unwrap_or_default();
        self.is_usable()
            .then(|| Listed::new(self.id, age, ended, total))
    }
}

/// A page of the list of batches.
pub(crate) struct Page {
    pub(crate) batches: Vec<Listed>,
    /// The id after which the next page begins.
    pub(crate) next: Option<String>,
}

impl Page {
    /// Reads a body, as of the server's time. `None` if it is no list.
    pub(crate) fn parse(body: &[u8], now: SystemTime) -> Option<Self> {
        #[derive(Deserialize)]
        struct Body {
            data: Vec<Described>,
            #[serde(default)]
            has_more: bool,
        }
        let body: Body = serde_json::from_slice(body).ok()?;
        let last = body.data.last().filter(|last| last.is_usable());
        let next = last.filter(|_| body.has_more).map(|last| last.id.clone());
        let batches = body.data.into_iter();
        Some(Self {
            batches: batches.filter_map(|batch| batch.listed(now)).collect(),
            next,
        })
    }

    /// Returns true if a batch is older than this.
    pub(crate) fn reaches(&self, age: Duration) -> bool {
        self.batches.iter().any(|batch| batch.age > age)
    }
}

/// A reader of lines from pieces of a body.
#[derive(Default)]
pub(crate) struct Lines {
    held: BytesMut,
    /// True while the rest of a line that is too long is skipped.
    skips: bool,
}

impl Lines {
    /// Reads a piece.
    pub(crate) fn feed(&mut self, mut piece: &[u8], mut on_line: impl FnMut(&[u8])) {
        while let Some(end) = memchr::memchr(b'\n', piece) {
            let (line, rest) = (&piece[..end], &piece[end + 1..]);
            piece = rest;
            if std::mem::take(&mut self.skips) {
                continue;
            }
            if self.held.is_empty() {
                on_line(line);
            } else {
                self.held.extend_from_slice(line);
                on_line(&self.held);
                self.held.clear();
            }
        }
        if self.held.len() + piece.len() > LONGEST_LINE {
            self.held = BytesMut::new();
            self.skips = true;
        } else if !self.skips {
            self.held.extend_from_slice(piece);
        }
    }

    /// Reads the end of the body, which may have a last line without an end.
    pub(crate) fn finish(mut self, mut on_line: impl FnMut(&[u8])) {
        if !self.skips && !self.held.is_empty() {
            on_line(&std::mem::take(&mut self.held));
        }
    }
}

/// The result of one call, and the response to its caller.
pub(crate) struct ResultLine<'a> {
    pub(crate) custom_id: Cow<'a, str>,
    pub(crate) outcome: ItemOutcome,
    body: &'a [u8],
    status: StatusCode,
    class: Class,
    request_id: Option<String>,
}

impl<'a> ResultLine<'a> {
    /// Reads a line of this platform. `None` if it is damaged.
    pub(crate) fn parse(line: &'a [u8], platform: Platform) -> Option<Self> {
        #[derive(Deserialize)]
        struct Line<'a> {
            #[serde(borrow)]
            custom_id: Cow<'a, str>,
            #[serde(borrow)]
            result: Fields<'a>,
        }
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(rename = "type", borrow)]
            kind: Cow<'a, str>,
            #[serde(default, borrow)]
            message: Option<&'a RawValue>,
            #[serde(default, borrow)]
            error: Option<&'a RawValue>,
        }
        let line: Line<'a> = serde_json::from_slice(line).ok()?;
        let mut read = Self {
            custom_id: line.custom_id,
            outcome: ItemOutcome::Temporary,
            body: b"",
            status: StatusCode::OK,
            class: Class::SUCCESS,
            request_id: None,
        };
        match (&*line.result.kind, line.result.message, line.result.error) {
            ("succeeded", Some(message), _) => {
                read.body = message.get().as_bytes();
                read.outcome = succeeded(read.body, platform);
            }
            ("errored", _, Some(error)) => read.fail(error.get().as_bytes()),
            ("expired", ..) => read.outcome = ItemOutcome::Expired,
            ("canceled", ..) => read.outcome = ItemOutcome::Canceled,
            _ => {}
        }
        Some(read)
    }

    fn fail(&mut self, body: &'a [u8]) {
        let error = ApiError::parse(body).unwrap_or_default();
        self.body = body;
        self.status = status_of(&error.kind);
        self.class = ClaudeClassify::default().body(self.status, &HeaderMap::new(), body);
        self.request_id = error.request_id;
        self.outcome = if self.class.reach == Reach::Credential {
            ItemOutcome::Denied
        } else if self.class.is_retryable() {
            ItemOutcome::Temporary
        } else {
            ItemOutcome::Failed
        };
    }

    /// Returns the response to the caller.
    pub(crate) fn response(&self, batch: &str) -> Response<Bytes> {
        let body = Bytes::copy_from_slice(self.body);
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        if let Ok(batch) = HeaderValue::from_str(batch) {
            headers.insert(BATCH, batch);
        }
        let id = self.request_id.as_deref().map(HeaderValue::from_str);
        if let Some(Ok(id)) = id {
            headers.insert(REQUEST_ID, id);
        }
        if let ItemOutcome::Succeeded { saved, .. } = self.outcome
            && saved > Money::ZERO
            && let Ok(saved) = HeaderValue::from_str(format!("{saved:.9}").trim_start_matches('$'))
        {
            headers.insert(SAVED, saved);
        }
        if self.class != Class::SUCCESS {
            response.extensions_mut().insert(self.class);
        }
        response
    }
}

/// Returns the status that the API sends with an error of this type.
fn status_of(kind: &str) -> StatusCode {
    let status = match kind {
        "invalid_request_error" => 400,
        "authentication_error" => 401,
        "billing_error" => 402,
        "permission_error" => 403,
        "not_found_error" => 404,
        "conflict_error" => 409,
        "request_too_large" => 413,
        "rate_limit_error" => 429,
        "timeout_error" => 504,
        "overloaded_error" => 529,
        _ => 500,
    };
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn succeeded(message: &[u8], platform: Platform) -> ItemOutcome {
    #[derive(Deserialize)]
    struct Model<'a> {
        #[serde(borrow)]
        model: Cow<'a, str>,
    }
    let usage = Usage::from_message(message).unwrap_or_default();
    let billing = Billing::default().with_batch(true).with_platform(platform);
    let model = serde_json::from_slice::<Model<'_>>(message).ok();
    let bill = model.and_then(|model| ModelCatalog::builtin().bill(&model.model, &usage, billing));
    let output = usage.limited_output().unwrap_or(0);
    ItemOutcome::Succeeded {
        tokens: usage.total_input().saturating_add(output),
        cost: bill.map_or(Money::ZERO, |bill| bill.cost),
        saved: bill.map_or(Money::ZERO, |bill| bill.batch_savings()),
        cache: (
            usage.cache_read_input_tokens.unwrap_or(0),
            usage.cache_creation_input_tokens.unwrap_or(0),
        ),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn errors_of_a_line_have_the_status_of_their_type() {
        let read = |kind: &str, message: &str| {
            let line = format!(
                r#"{{"custom_id":"a","result":{{"type":"errored","error":{{"type":"error","error":{{"type":"{kind}","message":"{message}"}},"request_id":"req_1"}}}}}}"#
            );
            let read = ResultLine::parse(line.as_bytes(), Platform::ClaudeApi).expect("a line");
            let response = read.response("msgbatch_1");
            assert_eq!(response.headers()[REQUEST_ID], "req_1");
            (response.status().as_u16(), read.outcome)
        };
        use ItemOutcome::{Denied, Failed, Temporary};
        assert_eq!(read("invalid_request_error", "no"), (400, Failed));
        assert_eq!(read("authentication_error", "no"), (401, Denied));
        assert_eq!(read("billing_error", "no"), (402, Denied));
        assert_eq!(read("permission_error", "no"), (403, Failed));
        assert_eq!(read("not_found_error", "no"), (404, Failed));
        assert_eq!(read("api_error", "no"), (500, Temporary));
        assert_eq!(read("overloaded_error", "no"), (529, Temporary));
        let text = "Your credit balance is too low to access the Anthropic API. Please go to \
                    Plans & Billing to upgrade or purchase credits.";
        assert_eq!(read("invalid_request_error", text), (400, Denied));
    }

    #[test]
    fn message_of_a_line_is_returned_byte_for_byte() {
        let message = r#"{ "model":"claude-sonnet-5-5" ,"content":[],"usage":{"input_tokens":1000,"output_tokens":100}}"#;
        let line = format!(
            r#"{{"custom_id":"a\u0062","result":{{"type":"succeeded","message":{message}}}}}"#
        );
        let read = ResultLine::parse(line.as_bytes(), Platform::ClaudeApi).expect("a line");
        assert_eq!(read.custom_id, "ab");
        let response = read.response("msgbatch_1");
        assert_eq!(response.body(), message);
        // 2 USD per million tokens of input and 10 USD of output, of which batches cost half.
        assert_eq!(response.headers()[SAVED], "0.001500000");
        assert_eq!(response.headers()[BATCH], "msgbatch_1");
    }

    #[test]
    fn damaged_lines_and_unknown_results_are_no_answers() {
        for damaged in [
            "",
            "{}",
            "[1]",
            r#"{"custom_id":"a"}"#,
            r#"{"custom_id":"a","result":1}"#,
        ] {
            assert!(
                ResultLine::parse(damaged.as_bytes(), Platform::ClaudeApi).is_none(),
                "{damaged}"
            );
        }
        for odd in [
            r#"{"type":"new"}"#,
            r#"{"type":"succeeded"}"#,
            r#"{"type":"errored"}"#,
        ] {
            let line = format!(r#"{{"custom_id":"a","result":{odd}}}"#);
            let read = ResultLine::parse(line.as_bytes(), Platform::ClaudeApi).expect("a line");
            assert_eq!(read.outcome, ItemOutcome::Temporary, "{odd}");
        }
    }

    #[test]
    fn ids_that_would_change_the_path_are_not_used() {
        let parse = |id: &str| {
            let body = format!(r#"{{"id":"{id}","processing_status":"ended"}}"#);
            Described::parse(body.as_bytes()).map(|batch| batch.id)
        };
        assert_eq!(parse("msgbatch_01-a").as_deref(), Some("msgbatch_01-a"));
        for id in ["", "a/b", "..", "a?b", "a b", "é"] {
            assert_eq!(parse(id), None, "{id}");
        }
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_the_pieces(text in "[a\n]{0,40}", cuts in prop::collection::vec(0_usize..40, 0..6)) {
            let read = |pieces: &[&str]| {
                let mut found = Vec::new();
                let mut lines = Lines::default();
                for piece in pieces {
                    lines.feed(piece.as_bytes(), |line| found.push(line.to_vec()));
                }
                lines.finish(|line| found.push(line.to_vec()));
                found
            };
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= text.len()).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut start = 0;
            for cut in cuts {
                pieces.push(&text[start..cut]);
                start = cut;
            }
            pieces.push(&text[start..]);
            let expected: Vec<Vec<u8>> = text.lines().map(|line| line.as_bytes().to_vec()).collect();
            prop_assert_eq!(read(&pieces), expected);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ResultLine::parse(&bytes, Platform::ClaudeApi);
            let _ = Described::parse(&bytes);
            let _ = Page::parse(&bytes, SystemTime::UNIX_EPOCH);
        }
    }
}
