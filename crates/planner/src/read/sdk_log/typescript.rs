//! The TypeScript SDK: entries with an object over several lines, without times. The time of a
//! request is that of the server in its response, less the duration.

use std::collections::HashMap;

use http::HeaderMap;

use super::{add_header, number_after, quoted};
use crate::{
    read::{Output, Parser, headers},
    record::Record,
    time::Time,
};

/// Returns true for the first line of an entry.
pub(super) fn begins_entry(line: &str) -> bool {
    line.starts_with("[log_")
}

/// A parser that joins the entries of a request.
#[derive(Default)]
pub(in crate::read) struct TypeScriptLog {
    /// The entry that is being read: its line, its head, and its object.
    entry: Option<(u64, String, String)>,
    requests: HashMap<String, Pending>,
    order: Vec<String>,
}

#[derive(Default)]
struct Pending {
    line: u64,
    record: Record,
    is_answered: bool,
}

impl Parser for TypeScriptLog {
    fn line(&mut self, number: u64, line: &str, out: &mut Output<'_>) {
        if begins_entry(line) {
            self.finish();
            if line.ends_with('{') {
                self.entry = Some((number, line.to_owned(), String::new()));
            }
            return;
        }
        if let Some((_, _, object)) = &mut self.entry {
            object.push_str(line);
            object.push('\n');
            if line == "}" {
                self.finish();
            }
        }
        let _ = out;
    }

    fn end(&mut self, out: &mut Output<'_>) {
        self.finish();
        out.note(
            "the TypeScript SDK logs no times: they are those of the server, in whole seconds. It \
             logs no usage of streams",
        );
        for id in std::mem::take(&mut self.order) {
            let Some(request) = self.requests.remove(&id) else {
                continue;
            };
            match (request.is_answered, request.record.date) {
                (true, Some(_)) => out.record(request.line, request.record),
                (true, None) => out.problem(request.line, "a response without a date"),
                (false, _) => out.problem(request.line, "a request without a response"),
            }
        }
    }
}

impl TypeScriptLog {
    fn finish(&mut self) {
        let Some((line, head, object)) = self.entry.take() else {
            return;
        };
        let Some((id, event)) = head
            .strip_prefix('[')
            .and_then(|head| head.split_once("] "))
        else {
            return;
        };
        if !self.requests.contains_key(id) {
            self.order.push(id.to_owned());
        }
        let request = self.requests.entry(id.to_owned()).or_default();
        if event.starts_with("sending request") {
            request.line = line;
            read_request(&mut request.record, id, &object);
        } else if event.starts_with("response parsed") {
            read_usage(&mut request.record, &object);
        } else if event.starts_with("response ") {
            request.is_answered = true;
            read_response(&mut request.record, &object);
        } else if event.starts_with("connection ") {
            request.is_answered = true;
            let class = if event.contains("timed out") {
                "timeout"
            } else {
                "transport"
            };
            request.record.class = Some(class.to_owned());
        }
    }
}

fn read_request(record: &mut Record, id: &str, object: &str) {
    record.model = quoted(object, "model:").map(str::to_owned);
    record.max_tokens = number_after(object, "max_tokens:");
    record.fast = object.contains("speed: 'fast'");
    let retries = quoted(object, "'x-stainless-retry-count':").and_then(|count| count.parse().ok());
    record.attempt = Some(1_u32.saturating_add(retries.unwrap_or(0)));
    let first = quoted(object, "retryOf:").unwrap_or(id);
    record.call = Some(first.to_owned());
    let path = quoted(object, "path:").unwrap_or_default();
    match path.rsplit("/v1/").next() {
        Some("messages") => {}
        Some("messages/count_tokens") => record.endpoint = Some("count_tokens".to_owned()),
        _ => record.endpoint = Some("other".to_owned()),
    }
}

fn read_response(record: &mut Record, object: &str) {
    let mut headers = HeaderMap::new();
    for line in object.lines() {
        if let Some((name, value)) = line.trim().trim_end_matches(',').split_once(": '") {
            add_header(
                &mut headers,
                name.trim_matches('\''),
                value.trim_end_matches('\''),
            );
        }
    }
    headers::fill(record, &headers);
    record.status = number_after(object, "  status:").and_then(|status| u16::try_from(status).ok());
    let millis = number_after(object, "durationMs:").unwrap_or(0);
    let micros = i64::try_from(millis.saturating_mul(1_000)).unwrap_or(0);
    if let Some(date) = record.date {
        record.t_start = Time(date.0 - micros);
        record.t_end = Some(date);
    }
    if record.status.is_some_and(|status| status >= 400) {
        record.error_code = quoted(object, "error_code:").map(str::to_owned);
        record.error_type = object
            .find("error: {")
            .and_then(|at| object[at..].split_once("type: '"))
            .and_then(|(_, rest)| rest.split('\'').next())
            .map(str::to_owned);
    }
}

fn read_usage(record: &mut Record, object: &str) {
    let Some(at) = object.find("usage: {") else {
        return;
    };
    let usage = &object[at..];
    let field = |name: &str| {
        let mut lines = usage.lines().map(str::trim);
        lines.find_map(|line| line.strip_prefix(name)?.trim_end_matches(',').parse().ok())
    };
    record.input = field("input_tokens: ");
    record.cache_write = field("cache_creation_input_tokens: ");
    record.cache_read = field("cache_read_input_tokens: ");
    record.output = field("output_tokens: ");
    let millis = number_after(object, "durationMs:").unwrap_or(0);
    let micros = i64::try_from(millis.saturating_mul(1_000)).unwrap_or(0);
    record.t_end = record.t_end.max(Some(Time(record.t_start.0 + micros)));
}
