//! The Python SDK: one line for each step, with local times in whole seconds.

use std::collections::{HashMap, VecDeque};

use http::HeaderMap;
use jiff::civil::DateTime;

use super::{add_header, number_after, quoted};
use crate::{
    read::{Output, Parser, headers},
    record::Record,
    time::{MINUTE, Time},
};

/// The bytes of a token, for the estimate of the input.
const BYTES_PER_TOKEN: usize = 4;

/// A parser that joins the lines of a request.
#[derive(Default)]
pub(in crate::read) struct PythonLog {
    /// The options of requests that are not sent yet, and the requests without a response, in
    /// order.
    options: VecDeque<Record>,
    pending: VecDeque<(u64, Record)>,
    /// The responses, whose start is in local time until the end of the file.
    done: Vec<(u64, Record)>,
    attempts: HashMap<String, u32>,
    /// The differences between the local time and the server's clock, in microseconds.
    offset: Option<i64>,
}

impl Parser for PythonLog {
    fn line(&mut self, number: u64, line: &str, out: &mut Output<'_>) {
        let Some((time, message)) = split(line) else {
            return; // A traceback, or a line of something else.
        };
        if let Some(options) = message.strip_prefix("Request options: ") {
            self.options.push_back(self.read_options(options));
        } else if let Some(request) = message.strip_prefix("Sending HTTP Request: ") {
            let mut record = self.options.pop_front().unwrap_or_default();
            record.t_start = time;
            let path = request.rsplit("/v1/").next().unwrap_or_default();
            match path {
                "messages" => {}
                "messages/count_tokens" => record.endpoint = Some("count_tokens".to_owned()),
                _ => record.endpoint = Some("other".to_owned()),
            }
            record.attempt = record.call.as_ref().map(|call| {
                let attempts = self.attempts.entry(call.clone()).or_default();
                *attempts += 1;
                *attempts
            });
            self.pending.push_back((number, record));
        } else if message.starts_with("HTTP Response: ") {
            let Some((line, mut record)) = self.pending.pop_front() else {
                return out.problem(number, "a response without its request");
            };
            let headers = read_headers(message);
            headers::fill(&mut record, &headers);
            record.status = status(message);
            record.t_end = Some(time);
            if let Some(date) = record.date {
                self.offset.get_or_insert(offset(time, date));
            }
            self.done.push((line, record));
        } else if message.starts_with("Encountered ") {
            let Some((line, mut record)) = self.pending.pop_front() else {
                return;
            };
            let is_timeout = message.contains("TimeoutException");
            record.class = Some(if is_timeout { "timeout" } else { "transport" }.to_owned());
            record.t_end = Some(time);
            self.done.push((line, record));
        }
    }

    fn end(&mut self, out: &mut Output<'_>) {
        out.note("the times of the Python SDK are whole seconds, and it logs no usage: input is estimated, output is unknown");
        let unanswered = std::mem::take(&mut self.pending);
        for (line, _) in &unanswered {
            out.problem(*line, "a request without a response");
        }
        let Some(offset) = self.offset else {
            if let Some((line, _)) = self.done.first() {
                out.problem(
                    *line,
                    "local times without an offset, and no response with a date",
                );
            }
            return;
        };
        for (line, mut record) in self.done.drain(..) {
            record.t_start = Time(record.t_start.0 - offset);
            record.t_end = record
                .t_end
                .map(|end| Time(end.0 - offset).max(record.t_start));
            out.record(line, record);
        }
    }
}

impl PythonLog {
    fn read_options(&self, options: &str) -> Record {
        let body = options
            .find("'json_data': ")
            .map_or("", |at| &options[at..]);
        Record {
            call: quoted(options, "'idempotency_key':").map(str::to_owned),
            model: quoted(body, "'model':").map(str::to_owned),
            max_tokens: number_after(body, "'max_tokens':"),
            input: Some((body.len() / BYTES_PER_TOKEN) as u64),
            estimated: vec!["input".to_owned()],
            fast: body.contains("'speed': 'fast'"),
            ..Record::default()
        }
    }
}

/// Splits `[2026-11-30 13:14:37 - anthropic._base_client:604 - DEBUG] message`. The time is local
/// and returned as if it were UTC.
fn split(line: &str) -> Option<(Time, &str)> {
    let (head, message) = line.strip_prefix('[')?.split_once("] ")?;
    let (time, rest) = head.split_once(" - ")?;
    rest.starts_with("anthropic.").then_some(())?;
    let time: DateTime = time.parse().ok()?;
    let time = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some((time.timestamp().into(), message))
}

/// Returns the offset of the local time zone: a multiple of a quarter of an hour.
fn offset(local: Time, date: Time) -> i64 {
    let quarter = 15 * MINUTE;
    (local.0 - date.0 + quarter / 2).div_euclid(quarter) * quarter
}

/// Returns the status in `"429 Too Many Requests"`.
fn status(message: &str) -> Option<u16> {
    let (_, rest) = message.split_once(" \"")?;
    rest.get(..3)?.parse().ok()
}

/// Reads `Headers({'name': 'value', …})`.
fn read_headers(message: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let text = message.split_once("Headers({").map_or("", |(_, text)| text);
    let mut parts = text.split('\'').skip(1).step_by(2);
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        add_header(&mut headers, name, value);
    }
    headers
}
