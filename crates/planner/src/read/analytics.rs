//! Responses of the Usage and Cost Analytics API, and of the older usage report.

use serde_json::Value;

use super::{Output, json};
use crate::{
    record::Record,
    time::{MINUTE, Time},
};

/// Reads one page.
pub(super) fn read(document: &Value, line: u64, out: &mut Output<'_>) {
    let Some(rows) = document["data"].as_array() else {
        return out.problem(line, "no list `data`");
    };
    if document["has_more"] == true {
        out.note("a page says that more pages follow");
    }
    if rows.is_empty() && document["data_refreshed_at"].is_null() {
        out.note("an empty page without data_refreshed_at: the usage has not landed yet");
    }
    for row in rows {
        match row["results"].as_array() {
            Some(results) => {
                for result in results {
                    add(row, result, result, line, out);
                }
            }
            None => add(row, &row["group"], &row["usage"], line, out),
        }
    }
}

fn add(row: &Value, group: &Value, usage: &Value, line: u64, out: &mut Output<'_>) {
    match record(row, group, usage) {
        Ok(record) => {
            let length = record.t_end.map_or(0, |end| end.0 - record.t_start.0);
            if length > MINUTE {
                out.note("the buckets are longer than a minute: enough for a trend, not for peaks");
            } else {
                out.note("sums of a minute hide shorter bursts, so needs are lower bounds");
            }
            if record.requests == Some(0) {
                out.note("some rows have no number of requests");
            }
            out.record(line, record);
        }
        Err(problem) => out.problem(line, problem),
    }
}

fn record(row: &Value, group: &Value, usage: &Value) -> Result<Record, String> {
    let time = |name: &str| match json::text(&row[name]) {
        Some(text) => Time::parse(text),
        None => Err(format!("a row without {name}")),
    };
    let (start, end) = (time("starting_at")?, time("ending_at")?);
    if end <= start {
        return Err("a row that ends before it starts".to_owned());
    }
    if !usage.is_object() {
        return Err("a row without usage".to_owned());
    }
    let count = |name: &str| json::count(&usage[name]);
    let text = |name: &str| json::text(&group[name]).map(str::to_owned);
    let written = &usage["cache_creation"];
    let written = ["ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"]
        .map(|name| json::count(&written[name]));
    let is_batch = group["service_tier"] == "batch";
    Ok(Record {
        t_start: start,
        t_end: Some(end),
        model: text("model"),
        endpoint: is_batch.then(|| "batches".to_owned()),
        fast: group["speed"] == "fast",
        input: count("uncached_input_tokens"),
        cache_read: count("cache_read_input_tokens"),
        cache_write: written.into_iter().flatten().reduce(u64::saturating_add),
        output: count("output_tokens"),
        key: text("api_key_id"),
        workspace: text("workspace_id"),
        // Without their number, the requests of a row are unknown but the row is a sum.
        requests: Some(
            count("requests")
                .or_else(|| count("request_count"))
                .unwrap_or(0),
        ),
        ..Record::default()
    })
}
