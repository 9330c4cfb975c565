//! Heads of HTTP responses, as `curl -i`, `curl -v` or `curl -D` print them.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
use tower_claude_wire::{Gauge, RateLimits, date, request_id, retry_after, workspace_id};

use super::{Output, Parser};
use crate::{
    record::{Record, RecordedLimit, RecordedLimits},
    time::Time,
};

/// Returns true if a text has the head of a response.
pub(super) fn is_head(start: &str) -> bool {
    let mut lines = start.lines().map(bare);
    lines.any(|line| status(line).is_some() || line.starts_with("anthropic-ratelimit-"))
}

/// Removes the mark of `curl -v`.
fn bare(line: &str) -> &str {
    line.trim().trim_start_matches("< ")
}

fn status(line: &str) -> Option<u16> {
    let (protocol, rest) = line.split_once(' ')?;
    protocol.strip_prefix("HTTP/")?;
    rest.split(' ').next()?.parse().ok()
}

/// A parser of heads.
#[derive(Default)]
pub(super) struct Heads {
    line: u64,
    status: Option<u16>,
    headers: HeaderMap,
    has_ended: bool,
}

impl Parser for Heads {
    fn line(&mut self, number: u64, line: &str, out: &mut Output<'_>) {
        let is_marked = line.starts_with("< ");
        let line = bare(line);
        if let Some(status) = status(line) {
            self.end(out);
            (self.line, self.status, self.has_ended) = (number, Some(status), false);
            return;
        }
        if !is_marked && line.starts_with(['{', '[', '*', '>']) {
            self.has_ended = true;
            return;
        }
        let Some((name, value)) = line.split_once(':').filter(|_| !self.has_ended) else {
            return;
        };
        let name = HeaderName::try_from(name.trim());
        let value = HeaderValue::try_from(value.trim());
        if let (Ok(name), Ok(value)) = (name, value) {
            // Heads without status lines are separated by a repeated date.
            if name == http::header::DATE && self.headers.contains_key(&name) {
                self.end(out);
            }
            if self.headers.is_empty() && self.status.is_none() {
                self.line = number;
            }
            self.headers.append(name, value);
        }
    }

    fn end(&mut self, out: &mut Output<'_>) {
        let headers = std::mem::take(&mut self.headers);
        let status = self.status.take();
        if headers.is_empty() {
            return;
        }
        match date(&headers) {
            Some(date) => {
                out.note("response heads have no tokens, and times in whole seconds");
                let mut record = Record {
                    t_start: time(date),
                    status,
                    ..Record::default()
                };
                fill(&mut record, &headers);
                out.record(self.line, record);
            }
            None => out.problem(self.line, "a response head without a date"),
        }
    }
}

/// Fills in the fields that the headers of a response have.
pub(super) fn fill(record: &mut Record, headers: &HeaderMap) {
    record.date = date(headers).map(time);
    record.request_id = request_id(headers).map(str::to_owned);
    record.workspace = workspace_id(headers).map(str::to_owned);
    record.retry_after = retry_after(headers, SystemTime::UNIX_EPOCH)
        .filter(|_| headers.contains_key(http::header::RETRY_AFTER))
        .map(|wait| wait.as_secs_f64());
    let limits = RateLimits::from_headers(headers);
    let [requests, input, output] = limits.of_pool(record.fast);
    let limits = RecordedLimits {
        requests: limit(requests),
        input_tokens: limit(input),
        output_tokens: limit(output),
        tokens: limit(&limits.tokens),
    };
    record.limits = (limits != RecordedLimits::default()).then_some(limits);
}

fn limit(gauge: &Gauge) -> Option<RecordedLimit> {
    let limit = RecordedLimit {
        limit: gauge.limit,
        remaining: gauge.remaining,
        reset: gauge.reset.map(time),
    };
    (!gauge.is_empty()).then_some(limit)
}

fn time(time: SystemTime) -> Time {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
