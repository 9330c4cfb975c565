//! The rows of a log, in the normal form of recorded traffic.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use tower_claude_wire::{Gauge, RateLimits};

use super::queue::LostRows;
use crate::{
    class::Kind,
    endpoint::Endpoint,
    event::{AttemptEnd, CallEnd, Ending, RequestDetails, credential_tag},
    rejection::Rejection,
    scope::Scope,
    text::escaped,
    workload::Workload,
};

/// The names in rows that no event has.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) process: Box<str>,
    /// The names of workloads, which are hashes in events.
    pub(super) workloads: RwLock<HashMap<Workload, Box<str>>>,
}

/// A row: an attempt, or a call that was not sent.
#[derive(Default, Serialize)]
struct Row<'a> {
    t_start: Stamp,
    t_end: Stamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<CallId<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    fast: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_read: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_write: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    estimated: &'static [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ending: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_type: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Limits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    date: Option<Stamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workspace: Option<Cow<'a, str>>,
    process: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<u64>,
}

/// The rate-limit headers of a response.
#[derive(Serialize)]
struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<Limit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_tokens: Option<Limit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens: Option<Limit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<Limit>,
}

#[derive(Serialize)]
struct Limit {
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reset: Option<Stamp>,
}

impl Limit {
    fn of(gauge: &Gauge) -> Option<Self> {
        (!gauge.is_empty()).then(|| Self {
            limit: gauge.limit,
            remaining: gauge.remaining,
            reset: gauge.reset.map(Stamp),
        })
    }
}

impl Limits {
    fn of(limits: &RateLimits, fast: bool) -> Option<Self> {
        let [requests, input, output] = limits.of_pool(fast).map(Limit::of);
        let tokens = Limit::of(&limits.tokens);
        let is_any = requests.is_some() || input.is_some() || output.is_some() || tokens.is_some();
        is_any.then_some(Self {
            requests,
            input_tokens: input,
            output_tokens: output,
            tokens,
        })
    }
}

/// A time as RFC 3339 in UTC, with microseconds.
#[derive(Clone, Copy)]
struct Stamp(SystemTime);

impl Default for Stamp {
    fn default() -> Self {
        Self(SystemTime::UNIX_EPOCH)
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // Out of range is a date that no clock has and only a server can name.
        let stamp = Timestamp::try_from(self.0).unwrap_or(Timestamp::UNIX_EPOCH);
        to.collect_str(&format_args!("{stamp:.6}"))
    }
}

/// The id of a call among those of all processes.
struct CallId<'a> {
    process: &'a str,
    number: u64,
}

impl Serialize for CallId<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Self { process, number } = self;
        to.collect_str(&format_args!("{process}-{number:x}"))
    }
}

fn seconds(time: Duration) -> f64 {
    // More digits than the stamps have would only fill the file.
    (time.as_secs_f64() * 1e6).round() / 1e6
}

fn before(now: SystemTime, time: Duration) -> Stamp {
    Stamp(now.checked_sub(time).unwrap_or(SystemTime::UNIX_EPOCH))
}

/// Returns the rate group, and the name of the endpoint if it is not Messages.
fn pool_of(
    scope: Option<&Scope>,
    endpoint: Endpoint,
) -> (Option<Cow<'_, str>>, Option<&'static str>) {
    let group = scope
        .map(|scope| &*scope.group)
        .filter(|group| !group.is_empty());
    let endpoint = (endpoint != Endpoint::Messages).then(|| endpoint.as_str());
    (group.map(escaped), endpoint)
}

impl<'a> Row<'a> {
    /// Sets the input to the estimate, for a request whose usage no response has reported.
    fn estimate(&mut self, request: Option<&RequestDetails>) {
        let estimate = request.and_then(|request| request.estimated_input);
        if self.input.is_none() && estimate.is_some() {
            (self.input, self.estimated) = (estimate, &["input"]);
        }
    }

    fn set_request(&mut self, request: Option<&RequestDetails>, scope: Option<&Scope>) {
        let is_fast = request.is_some_and(|request| request.fast);
        self.fast = is_fast || scope.is_some_and(|scope| scope.fast);
        self.max_tokens = request.and_then(|request| request.max_tokens);
    }

    fn into_line(self) -> Vec<u8> {
        let mut line = Vec::with_capacity(1024);
        // Every field has a form in JSON, and a Vec takes every write.
        if serde_json::to_writer(&mut line, &self).is_err() {
            line.clear();
        }
        line.push(b'\n');
        line
    }
}

impl Names {
    fn call(&self, number: u64) -> Option<CallId<'_>> {
        let process = &*self.process;
        Some(CallId { process, number })
    }

    pub(super) fn name_workload(&self, name: &str) {
        let workloads = self.workloads.write();
        let mut workloads = workloads.unwrap_or_else(PoisonError::into_inner);
        workloads.insert(Workload::named(name), name.into());
    }

    fn tag(&self, workload: Workload) -> Option<Cow<'static, str>> {
        if workload == Workload::NONE {
            return None;
        }
        let workloads = self.workloads.read();
        let workloads = workloads.unwrap_or_else(PoisonError::into_inner);
        Some(match workloads.get(&workload) {
            Some(name) => name.to_string().into(),
            None => format!("{:016x}", workload.to_bits()).into(),
        })
    }

    /// Returns the row of an attempt that ended at `now`.
    pub(super) fn attempt(&self, end: &AttemptEnd<'_>, now: SystemTime) -> Vec<u8> {
        let (pool, endpoint) = pool_of(end.scope, end.endpoint);
        let (usage, response) = (end.usage, end.response);
        let text =
            |text: &'_ Option<Box<str>>| text.as_deref().map(|text| escaped(text).into_owned());
        let mut row = Row {
            t_start: before(now, end.duration.saturating_add(end.wait)),
            t_end: Stamp(now),
            wait: Some(seconds(end.wait)),
            call: self.call(end.call),
            attempt: Some(end.attempt),
            pool,
            model: end.model.map(escaped),
            endpoint,
            input: usage.input_tokens,
            cache_read: usage.cache_read_input_tokens,
            cache_write: usage.cache_creation_input_tokens,
            output: usage.output_tokens,
            status: end.status.map(|status| status.as_u16()),
            // The class of a dropped attempt is not known.
            class: (end.ending != Ending::Dropped).then(|| end.class.kind.as_str()),
            ending: Some(end.ending.as_str()),
            request_id: end.request_id.map(escaped),
            tag: self.tag(end.workload),
            tenant: end.tenant.map(escaped),
            key: credential_tag(end.credential),
            process: &self.process,
            ..Row::default()
        };
        row.set_request(end.request, end.scope);
        if let Some(response) = response {
            row.limits = Limits::of(&response.limits, row.fast);
            row.date = response.date.map(Stamp);
            row.retry_after = response.retry_after.map(seconds);
            row.workspace = text(&response.workspace).map(Cow::Owned);
            row.error_type = text(&response.error_type).map(Cow::Owned);
            row.error_code = text(&response.error_code).map(Cow::Owned);
            let is_limited = end.class.kind == Kind::RateLimited;
            row.because = (is_limited && response.is_concurrency).then_some("concurrency");
        }
        if usage.is_empty() {
            row.estimate(end.request);
        }
        row.into_line()
    }

    /// Returns the row of a call that ended at `now` with a request that was not sent. `None` if
    /// the last request was sent, and has a row of its own.
    pub(super) fn unsent(&self, end: &CallEnd<'_>, now: SystemTime) -> Option<Vec<u8>> {
        let rejection = end.rejection.filter(|_| end.class.local);
        if rejection.is_none() && (end.attempts > 0 || end.ending != Ending::Dropped) {
            return None;
        }
        // The wait of the first attempt is the whole call. That of a later one is not known.
        let waited = match end.attempts {
            0 => end.duration,
            _ => Duration::ZERO,
        };
        let (pool, endpoint) = pool_of(end.scope, end.endpoint);
        let mut row = Row {
            t_start: before(now, waited),
            t_end: Stamp(now),
            call: self.call(end.call),
            attempt: Some(end.attempts.saturating_add(1)),
            pool,
            model: end.model.or(end.asked).map(escaped),
            endpoint,
            status: end.status.map(|status| status.as_u16()),
            class: rejection.map(|_| end.class.kind.as_str()),
            ending: Some(end.ending.as_str()),
            refused_by: rejection.map(|rejection: Rejection| rejection.by),
            because: Some(rejection.map_or(NEVER_SENT, |rejection| rejection.reason.as_str())),
            retry_after: rejection.and(end.class.retry_after).map(seconds),
            tag: self.tag(end.workload),
            tenant: end.tenant.map(escaped),
            key: credential_tag(end.credential),
            process: &self.process,
            ..Row::default()
        };
        row.set_request(end.request, end.scope);
        row.estimate(end.request);
        Some(row.into_line())
    }

    /// Returns the row of rows that were lost: the sum of as many requests.
    pub(super) fn lost(&self, lost: &LostRows) -> Vec<u8> {
        let row = Row {
            t_start: Stamp(lost.since),
            t_end: Stamp(lost.until),
            // No plan counts them as requests to a model.
            endpoint: Some(Endpoint::Other.as_str()),
            because: Some(NOT_LOGGED),
            process: &self.process,
            requests: Some(lost.rows),
            ..Row::default()
        };
        row.into_line()
    }
}

/// The reason in the row of a call that its caller dropped before it was sent.
const NEVER_SENT: &str = "never_sent";

/// The reason in the row of rows that were lost.
const NOT_LOGGED: &str = "not_logged";
