//! JSON access logs of nginx and Envoy. The names of their fields are chosen by their owner, so the
//! usual ones are tried.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::{Output, Parser, headers, json};
use crate::{
    record::Record,
    time::{SECOND, Time},
};

/// The end of the response.
const ENDS: &[&str] = &["time_iso8601", "msec", "time_local", "end_time"];

/// The start of the request, or a time whose meaning depends on the log.
const STARTS: &[&str] = &["start_time", "request_start"];
const TIMES: &[&str] = &["time", "timestamp", "@timestamp", "ts"];

const STATUSES: &[&str] = &["status", "response_code", "response_status", "status_code"];
const SECONDS: &[&str] = &["request_time", "upstream_response_time", "duration_s"];
const MILLIS: &[&str] = &[
    "duration",
    "duration_ms",
    "request_time_ms",
    "response_duration",
];
const PATHS: &[&str] = &[
    "uri",
    "request_uri",
    "path",
    "request",
    "url",
    "x_envoy_original_path",
];
const SENT: &[&str] = &[
    "request_length",
    "bytes_received",
    "request_bytes",
    "content_length",
];
const RECEIVED: &[&str] = &["body_bytes_sent", "bytes_sent", "response_bytes"];
const REQUEST_IDS: &[&str] = &[
    "upstream_http_request_id",
    "sent_http_request_id",
    "resp_request_id",
];

/// The bytes of a token, for the estimate of tokens.
const BYTES_PER_TOKEN: u64 = 4;

/// Returns true if an object has a time by one of the usual names.
pub(super) fn has_time(object: &Map<String, Value>) -> bool {
    let names = [ENDS, STARTS, TIMES].into_iter().flatten();
    let has = |names: &[&str]| names.iter().any(|name| object.contains_key(*name));
    names.clone().any(|name| object.contains_key(*name)) && (has(STATUSES) || has(PATHS))
}

/// A parser of one object for each line.
pub(super) struct AccessLog;

impl Parser for AccessLog {
    fn line(&mut self, number: u64, line: &str, out: &mut Output<'_>) {
        let object = match serde_json::from_str::<Value>(line) {
            Ok(Value::Object(object)) => object,
            Ok(_) => return out.problem(number, "no JSON object"),
            Err(error) if error.is_eof() => return out.problem(number, "the line is cut off"),
            Err(error) => return out.problem(number, error),
        };
        let Some(endpoint) = endpoint(find(&object, PATHS).and_then(json::text)) else {
            return out.other();
        };
        match record(&object) {
            Ok(mut record) => {
                record.endpoint = endpoint.map(str::to_owned);
                if !record.estimated.is_empty() {
                    out.note("tokens are estimated as a quarter of the bytes, with all of the JSON around them");
                }
                if record.status.is_none() {
                    out.note("some requests have no status");
                }
                out.record(number, record);
            }
            Err(problem) => out.problem(number, problem),
        }
    }
}

fn find<'a>(object: &'a Map<String, Value>, names: &[&str]) -> Option<&'a Value> {
    names.iter().find_map(|name| object.get(*name))
}

/// Returns the endpoint of a path, which is `None` inside for Messages. `None` for other paths.
fn endpoint(path: Option<&str>) -> Option<Option<&'static str>> {
    let Some(path) = path else { return Some(None) };
    let path = path.split(['?', ' ']).find(|part| part.contains('/'))?;
    let (_, rest) = path.split_once("/v1/messages")?;
    match rest.trim_end_matches('/') {
        "" => Some(None),
        "/count_tokens" => Some(Some("count_tokens")),
        _ if rest.starts_with("/batches") => Some(Some("batches")),
        _ => None,
    }
}

fn record(object: &Map<String, Value>) -> Result<Record, String> {
    let duration = find(object, SECONDS).and_then(json::number);
    let millis = find(object, MILLIS).and_then(json::number);
    let duration = duration.or(millis.map(|millis| millis / 1e3));
    let duration = duration.filter(|seconds| (0.0..1e6).contains(seconds));
    let micros = (duration.unwrap_or(0.0) * SECOND as f64).round() as i64;
    let (start, end) = if let Some(start) = find(object, STARTS) {
        let start = time(start)?;
        (start, Time(start.0 + micros))
    } else if let Some(end) = find(object, ENDS).or_else(|| find(object, TIMES)) {
        // Both servers write a line at the end of a request.
        let end = time(end)?;
        (Time(end.0 - micros), end)
    } else {
        return Err("no time".to_owned());
    };
    let mut headers = HeaderMap::new();
    for (name, value) in object {
        collect_header(&mut headers, name, value);
    }
    let mut record = Record {
        t_start: start,
        t_end: duration.map(|_| end),
        ..Record::default()
    };
    headers::fill(&mut record, &headers);
    let status = find(object, STATUSES).and_then(json::count);
    record.status = status
        .and_then(|status| u16::try_from(status).ok())
        .filter(|status| *status > 0);
    let id = find(object, REQUEST_IDS).and_then(json::text);
    record.request_id = record.request_id.or(id.map(str::to_owned));
    record.model = object.get("model").and_then(json::text).map(str::to_owned);
    for (field, known, bytes) in [
        ("input", &["input_tokens"], SENT),
        ("output", &["output_tokens"], RECEIVED),
    ] {
        let mut tokens = find(object, known).and_then(json::count);
        if tokens.is_none() {
            let bytes = find(object, bytes).and_then(json::count);
            // An error has no output.
            let is_error = field == "output" && record.status.is_some_and(|status| status >= 300);
            tokens = bytes
                .filter(|_| !is_error)
                .map(|bytes| bytes / BYTES_PER_TOKEN);
            if tokens.is_some() {
                record.estimated.push(field.to_owned());
            }
        }
        match field {
            "input" => record.input = tokens,
            _ => record.output = tokens,
        }
    }
    Ok(record)
}

/// Takes a field with the value of a header, such as `upstream_http_anthropic_ratelimit_…`.
fn collect_header(headers: &mut HeaderMap, name: &str, value: &Value) {
    let name = name.to_ascii_lowercase().replace('_', "-");
    let name = if let Some(at) = name.find("anthropic-") {
        &name[at..]
    } else if name.ends_with("http-retry-after") {
        "retry-after"
    } else if name.ends_with("http-date") {
        "date"
    } else {
        return;
    };
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return,
    };
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(text)) {
        headers.insert(name, value);
    }
}

fn time(value: &Value) -> Result<Time, String> {
    if let Value::String(text) = value
        && json::number(value).is_none()
    {
        return Time::parse(text).or_else(|error| local_time(text).ok_or(error));
    }
    let seconds = json::number(value).ok_or_else(|| format!("{value} is no time"))?;
    // Some logs have milliseconds.
    let seconds = if seconds > 1e11 {
        seconds / 1e3
    } else {
        seconds
    };
    Time::from_unix(seconds).ok_or_else(|| format!("{value} are no Unix seconds"))
}

/// Parses nginx's `$time_local`: `28/Nov/2026:09:12:03 +0000`.
fn local_time(text: &str) -> Option<Time> {
    let time = jiff::fmt::strtime::parse("%d/%b/%Y:%H:%M:%S %z", text).ok()?;
    time.to_timestamp().ok().map(Time::from)
}
