//! The responses of the batch endpoints.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::HOST;
use serde_json::{Value, json};

use super::call::{BatchCall, PATH};
use super::items;
use super::store::{Batch, Cursor, ItemResult, Status};
use crate::reply::ErrorReply;
use crate::script::ReceivedRequest;
use crate::state::Shared;

/// The sizes of a page of batches.
const PAGE: std::ops::RangeInclusive<usize> = 1..=1_000;
/// The size of a page without `limit`.
const DEFAULT_PAGE: usize = 20;

/// Body of a successful response.
pub(crate) enum BatchAnswer {
    Json(String),
    /// Results, one per line.
    Lines(Vec<Bytes>),
}

/// Executes a call of a batch endpoint. `index` is the number of the request in the log.
pub(crate) fn respond(
    shared: &Shared,
    call: &BatchCall,
    request: &ReceivedRequest,
    index: usize,
) -> Result<BatchAnswer, ErrorReply> {
    let base = base_url(request);
    let json = match call {
        BatchCall::Create => create(shared, request, index, &base)?,
        BatchCall::List => list(shared, request.uri.query().unwrap_or_default(), &base)?,
        BatchCall::Retrieve(id) => with_batch(shared, id, |batch, now| {
            Ok(object(batch, now, &base).to_string())
        })?,
        BatchCall::Cancel(id) => with_batch(shared, id, |batch, now| {
            if !batch.cancel(now) {
                let message = format!("Batch {id} has ended and cannot be canceled.");
                return Err(ErrorReply::invalid(message));
            }
            Ok(object(batch, now, &base).to_string())
        })?,
        BatchCall::Delete(id) => {
            with_batch(shared, id, |batch, now| match batch.status(now) {
                Status::Ended => Ok(()),
                _ => Err(ErrorReply::invalid(format!(
                    "Batch {id} cannot be deleted before it has ended. Cancel it first."
                ))),
            })?;
            shared.lock().batches.remove(id);
            json!({"id": id, "type": "message_batch_deleted"}).to_string()
        }
        BatchCall::Results(id) => {
            return with_batch(shared, id, |batch, now| match batch.has_results(now) {
                true => Ok(BatchAnswer::Lines(lines(batch))),
                false => Err(ErrorReply::not_found(format!(
                    "Batch {id} has no results available."
                ))),
            });
        }
    };
    Ok(BatchAnswer::Json(json))
}

fn create(
    shared: &Shared,
    request: &ReceivedRequest,
    index: usize,
    base: &str,
) -> Result<String, ErrorReply> {
    let config = &shared.config;
    let requests = items::read(&request.body)?;
    let count = requests.len();
    let outcomes = shared.lock().batch_outcomes.clone();
    // Not under the lock, because this takes long and may call a function of the user.
    let items = items::process(shared, &request.headers, index, requests, &outcomes);
    let time = batch_time(request).unwrap_or(config.batch_time);
    let mut state = shared.lock();
    let now = shared.now().wall;
    if state.batches.queued(now).saturating_add(count) > config.batch_queue {
        return Err(ErrorReply::new(
            429,
            "rate_limit_error",
            format!(
                "This request would exceed the rate limit for your organization \
                 (00000000-0000-4000-8000-000000000000) of {} queued batch requests.",
                config.batch_queue
            ),
        ));
    }
    let batch = Batch::new(format!("msgbatch_01Fake{index:018}"), items, now, time);
    let json = object(&batch, now, base).to_string();
    state.batches.insert(batch);
    Ok(json)
}

/// Returns the processing time that a header sets for one batch.
fn batch_time(request: &ReceivedRequest) -> Option<Duration> {
    let seconds = request.headers.get("x-fake-batch-seconds")?.to_str().ok()?;
    Duration::try_from_secs_f64(seconds.trim().parse().ok()?).ok()
}

fn list(shared: &Shared, query: &str, base: &str) -> Result<String, ErrorReply> {
    let (mut cursor, mut limit) = (Cursor::Start, DEFAULT_PAGE);
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        match (name, cursor) {
            ("limit", _) => {
                let number = value.parse().ok().filter(|limit| PAGE.contains(limit));
                limit = number.ok_or_else(|| {
                    ErrorReply::invalid("limit: Input should be an integer from 1 to 1000")
                })?;
            }
            ("after_id", Cursor::Start) => cursor = Cursor::After(value),
            ("before_id", Cursor::Start) => cursor = Cursor::Before(value),
            ("after_id" | "before_id", _) => {
                let message = "Only one of after_id and before_id may be given.";
                return Err(ErrorReply::invalid(message));
            }
            _ => {}
        }
    }
    let state = shared.lock();
    let now = shared.now().wall;
    let Some(page) = state.batches.page(cursor, limit) else {
        return Err(ErrorReply::invalid("after_id, before_id: unknown batch"));
    };
    let first = page.data.first().map(|batch| &*batch.id);
    let last = page.data.last().map(|batch| &*batch.id);
    let data: Vec<Value> = page
        .data
        .iter()
        .filter(|batch| batch.is_visible(now, shared.config.batch_hidden))
        .map(|batch| object(batch, now, base))
        .collect();
    let page = json!({"data": data, "has_more": page.has_more, "first_id": first, "last_id": last});
    Ok(page.to_string())
}

fn with_batch<T>(
    shared: &Shared,
    id: &str,
    act: impl FnOnce(&mut Batch, SystemTime) -> Result<T, ErrorReply>,
) -> Result<T, ErrorReply> {
    let mut state = shared.lock();
    let now = shared.now().wall;
    let hidden = shared.config.batch_hidden;
    match state.batches.get(id) {
        Some(batch) if batch.is_visible(now, hidden) => act(batch, now),
        _ => Err(ErrorReply::not_found(format!("Batch {id} not found."))),
    }
}

/// Returns the JSON object of a batch.
fn object(batch: &Batch, now: SystemTime, base: &str) -> Value {
    let status = batch.status(now);
    let counts = batch.counts(now);
    let results_url = format!("{base}{PATH}/{}/results", batch.id);
    json!({
        "id": batch.id,
        "type": "message_batch",
        "processing_status": match status {
            Status::InProgress => "in_progress",
            Status::Canceling => "canceling",
            Status::Ended => "ended",
        },
        "request_counts": {
            "processing": counts.processing,
            "succeeded": counts.succeeded,
            "errored": counts.errored,
            "canceled": counts.canceled,
            "expired": counts.expired,
        },
        "created_at": timestamp(batch.created),
        "expires_at": timestamp(batch.expires()),
        "ended_at": (status == Status::Ended).then(|| timestamp(batch.end())),
        "cancel_initiated_at": batch.canceled.map(timestamp),
        "archived_at": batch.archived(now).map(timestamp),
        "results_url": batch.has_results(now).then_some(results_url),
    })
}

/// Returns the results, one JSON object per line.
fn lines(batch: &Batch) -> Vec<Bytes> {
    let line = |(custom_id, result): (&str, &ItemResult)| {
        let mut line =
            format!("{{\"custom_id\":\"{custom_id}\",\"result\":{{\"type\":\"").into_bytes();
        match result {
            ItemResult::Succeeded(message) => {
                line.extend_from_slice(b"succeeded\",\"message\":");
                line.extend_from_slice(message);
            }
            ItemResult::Errored(error) => {
                line.extend_from_slice(b"errored\",\"error\":");
                line.extend_from_slice(error);
            }
            ItemResult::Canceled => line.extend_from_slice(b"canceled\""),
            ItemResult::Expired => line.extend_from_slice(b"expired\""),
        }
        line.extend_from_slice(b"}}\n");
        Bytes::from(line)
    };
    batch.results().map(line).collect()
}

/// Returns the base URL that the client has used, with the prefix of its path.
fn base_url(request: &ReceivedRequest) -> String {
    let uri = &request.uri;
    let host = request
        .headers
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    // HTTP/2 has no `host` header.
    let host = host.or(uri.authority().map(http::uri::Authority::as_str));
    let scheme = uri.scheme_str().unwrap_or("http");
    let path = uri.path();
    let prefix = &path[..path.rfind(PATH).unwrap_or(0)];
    format!("{scheme}://{}{prefix}", host.unwrap_or("localhost"))
}

fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let micros = since.unwrap_or_default().as_micros();
    i64::try_from(micros)
        .ok()
        .and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok())
        .unwrap_or(jiff::Timestamp::MAX)
        .to_string()
}
