//! Spans in OTLP JSON, with the names of the GenAI conventions.

use std::collections::HashSet;

use serde_json::Value;

use super::{Output, json};
use crate::{
    record::Record,
    time::{SECOND, Time},
};

/// Reads one `ExportTraceServiceRequest`.
pub(super) fn read(document: &Value, line: u64, out: &mut Output<'_>) {
    let Some(resources) = document["resourceSpans"].as_array() else {
        return out.problem(line, "no list `resourceSpans`");
    };
    let spans: Vec<(&Value, &Value)> = resources
        .iter()
        .flat_map(|resource| {
            let scopes = list(&resource["scopeSpans"]);
            scopes.flat_map(move |scope| list(&scope["spans"]).map(move |span| (resource, span)))
        })
        .collect();
    let is_model = |span: &Value| attribute(span, "gen_ai.request.model").is_some();
    // A call and its attempts have the same usage. Only the innermost spans are requests.
    let parents: HashSet<&str> = spans
        .iter()
        .filter(|(_, span)| is_model(span))
        .filter_map(|(_, span)| json::text(&span["parentSpanId"]))
        .collect();
    for (resource, span) in spans {
        let is_parent = json::text(&span["spanId"]).is_some_and(|id| parents.contains(id));
        if !is_model(span) || is_parent {
            out.other();
            continue;
        }
        match record(resource, span) {
            Ok(record) => {
                if record.sample_rate.is_none() {
                    out.note("the spans do not say whether they were sampled");
                }
                out.record(line, record);
            }
            Err(problem) => out.problem(line, problem),
        }
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Returns the value of an attribute, without its type.
fn attribute<'a>(of: &'a Value, key: &str) -> Option<&'a Value> {
    let attribute = list(&of["attributes"]).find(|attribute| attribute["key"] == key)?;
    attribute["value"].as_object()?.values().next()
}

fn record(resource: &Value, span: &Value) -> Result<Record, String> {
    let time = |name: &str| {
        let nanos = json::count(&span[name]).filter(|nanos| *nanos > 0);
        let micros = nanos.and_then(|nanos| i64::try_from(nanos / 1_000).ok());
        micros
            .map(Time)
            .ok_or_else(|| format!("a span without {name}"))
    };
    let start = time("startTimeUnixNano")?;
    let count = |key: &str| attribute(span, key).and_then(json::count);
    let text = |key: &str| attribute(span, key).and_then(json::text).map(str::to_owned);
    let number = |key: &str| attribute(span, key).and_then(json::number);
    let cache_read = count("gen_ai.usage.cache_read.input_tokens")
        .or_else(|| count("gen_ai.usage.cache_read_input_tokens"));
    let cache_write = count("gen_ai.usage.cache_creation.input_tokens")
        .or_else(|| count("gen_ai.usage.cache_creation_input_tokens"));
    let cached = cache_read
        .unwrap_or(0)
        .saturating_add(cache_write.unwrap_or(0));
    let wait = number("tower_claude.wait_ms").map(|millis| millis / 1e3);
    let wait = wait.filter(|seconds| (0.0..1e6).contains(seconds));
    // The span of an attempt begins when it is sent.
    let waited = (wait.unwrap_or(0.0) * SECOND as f64) as i64;
    let status = count("http.response.status_code");
    let error = text("error.type");
    let resent = count("http.request.resend_count");
    Ok(Record {
        t_start: Time(start.0 - waited),
        t_end: time("endTimeUnixNano").ok().filter(|end| *end >= start),
        wait,
        call: json::text(&span["parentSpanId"])
            .or_else(|| json::text(&span["spanId"]))
            .map(str::to_owned),
        attempt: Some(
            resent
                .and_then(|count| u32::try_from(count).ok())
                .unwrap_or(0)
                + 1,
        ),
        model: text("gen_ai.response.model").or_else(|| text("gen_ai.request.model")),
        // By the conventions, the input includes what the cache provides.
        input: count("gen_ai.usage.input_tokens").map(|all| all.saturating_sub(cached)),
        cache_read,
        cache_write,
        output: count("gen_ai.usage.output_tokens"),
        max_tokens: count("gen_ai.request.max_tokens"),
        status: status.and_then(|status| u16::try_from(status).ok()),
        class: error.clone().or_else(|| {
            let is_ok = status.is_none_or(|status| status < 300) && span["status"]["code"] != 2;
            is_ok.then(|| "success".to_owned())
        }),
        error_type: error,
        ending: text("tower_claude.ending"),
        request_id: text("request_id").or_else(|| text("anthropic.request_id")),
        tag: text("tag"),
        process: attribute(resource, "service.instance.id")
            .and_then(json::text)
            .map(str::to_owned),
        sample_rate: sample_rate(span),
        ..Record::default()
    })
}

/// Returns the share of kept spans, from `tracestate` (`ot=th:…`) or from an attribute.
fn sample_rate(span: &Value) -> Option<f64> {
    let named = ["sampling.rate", "sample_rate", "SampleRate"];
    let rate = named
        .iter()
        .find_map(|name| attribute(span, name).and_then(json::number));
    // Some tools write the number of spans for which one stands.
    let rate = rate.map(|rate| if rate > 1.0 { 1.0 / rate } else { rate });
    rate.filter(|rate| *rate > 0.0).or_else(|| {
        let state = json::text(&span["traceState"])?;
        let vendor = state
            .split(',')
            .find_map(|part| part.trim().strip_prefix("ot="))?;
        let threshold = vendor
            .split(';')
            .find_map(|part| part.strip_prefix("th:"))?;
        let digits = threshold.get(..threshold.len().min(14))?;
        let value = u64::from_str_radix(digits, 16).ok()? << (4 * (14 - digits.len()));
        Some(1.0 - value as f64 / (1_u64 << 56) as f64)
    })
}
