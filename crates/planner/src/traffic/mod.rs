//! Recorded traffic in compact form, with what is known about its completeness.

mod builder;

use std::collections::HashMap;

use serde::Serialize;

use crate::{
    read::FileReport,
    record::{Record, RecordedLimits},
    time::Time,
};

pub use self::builder::TrafficBuilder;

/// The pool of requests whose model is not known.
pub const UNKNOWN: &str = "unknown";

/// The outcome of an attempt, as far as planning needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The API answered.
    Answered,
    /// 429 for requests, tokens or concurrency.
    RateLimited,
    /// 429 for a sharp rise.
    RampLimited,
    /// A spend limit, or another problem of billing.
    SpendLimit,
    /// 529, or `overloaded_error`.
    Overloaded,
    /// Another 5xx.
    ServerError,
    /// No response in time.
    Timeout,
    /// The connection failed.
    Transport,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// Another 4xx: the request is wrong.
    Invalid,
    /// The log does not have it.
    Unknown,
}

impl Outcome {
    fn of(record: &Record) -> Self {
        if let Some(outcome) = record.class.as_deref().and_then(Self::of_class) {
            return outcome;
        }
        if record.error_type.as_deref() == Some("overloaded_error") {
            return Self::Overloaded;
        }
        let code = record.error_code.as_deref().unwrap_or_default();
        match record.status {
            Some(200..300) => Self::Answered,
            Some(429) if code == "ramp_limit_exceeded" => Self::RampLimited,
            Some(402) => Self::SpendLimit,
            Some(429) if code.contains("spend_limit") || code == "credits_required" => {
                Self::SpendLimit
            }
            Some(400) if record.error_type.as_deref() == Some("billing_error") => Self::SpendLimit,
            Some(429) => Self::RateLimited,
            Some(401) => Self::Unauthorized,
            Some(403) => Self::Forbidden,
            Some(408 | 504 | 524) => Self::Timeout,
            Some(529) => Self::Overloaded,
            Some(424 | 500..) => Self::ServerError,
            Some(300..500) => Self::Invalid,
            Some(_) => Self::Unknown,
            None if record.requests.is_some() || record.output.is_some() => Self::Answered,
            None => Self::Unknown,
        }
    }

    fn of_class(class: &str) -> Option<Self> {
        Some(match class {
            "success" | "refusal" | "truncated" => Self::Answered,
            "rate_limited" => Self::RateLimited,
            "ramp_limited" => Self::RampLimited,
            "spend_limit" => Self::SpendLimit,
            "overloaded" => Self::Overloaded,
            "server_error" => Self::ServerError,
            "timeout" => Self::Timeout,
            "transport" => Self::Transport,
            "unauthorized" => Self::Unauthorized,
            "forbidden" => Self::Forbidden,
            "bad_request" | "not_found" | "too_large" | "conflict" => Self::Invalid,
            _ => return None,
        })
    }

    /// Returns true if a call fails with it although its request is in order.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        !matches!(self, Self::Answered | Self::Invalid | Self::Unknown)
    }
}

/// An index of a name in [`Names`].
pub type NameId = u16;

/// The names of pools, models, tags and keys.
#[derive(Clone, Debug, Default)]
pub struct Names {
    names: Vec<Box<str>>,
    ids: HashMap<Box<str>, NameId>,
}

impl Names {
    /// The most names. Further ones share the last id.
    const MOST: usize = NameId::MAX as usize;

    fn id(&mut self, name: &str) -> NameId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        if self.names.len() == Self::MOST {
            return NameId::MAX - 1;
        }
        let id = self.names.len() as NameId;
        self.names.push(name.into());
        self.ids.insert(name.into(), id);
        id
    }

    /// Returns the name, which is empty for an unknown id.
    #[must_use]
    pub fn get(&self, id: NameId) -> &str {
        self.names.get(usize::from(id)).map_or("", |name| name)
    }

    /// Returns the id of a name that occurs.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<NameId> {
        self.ids.get(name).copied()
    }
}

/// One attempt, a call that was not sent, or a sum. Times are microseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The start, before the wait.
    pub start: i64,
    /// The time of sending.
    pub sent: i64,
    /// The end. The time of sending if it is not known.
    pub end: i64,
    /// The hash of the call's id, or 0.
    pub call: u64,
    /// The number of the attempt, or 0 if it is not known.
    pub attempt: u16,
    /// The number of requests. 1 unless the row is a sum.
    pub requests: u32,
    /// True for a sum over a period.
    pub is_sum: bool,
    /// Input tokens that were neither read from the cache nor written to it.
    pub input: u64,
    /// Input tokens read from the cache.
    pub cache_read: u64,
    /// Input tokens written to the cache.
    pub cache_write: u64,
    /// Output tokens.
    pub output: u64,
    /// True if the tokens are not known.
    pub is_unmeasured: bool,
    /// True if tokens are estimates.
    pub is_estimated: bool,
    /// True if a layer rejected the call.
    pub is_local: bool,
    /// True if the record names concurrency as the reason.
    pub is_concurrency: bool,
    /// The outcome.
    pub outcome: Outcome,
    /// The status, or 0.
    pub status: u16,
    /// The rate group.
    pub pool: NameId,
    /// The model.
    pub model: NameId,
    /// The tag.
    pub tag: NameId,
    /// The key.
    pub key: NameId,
    /// The process, or the file if the record does not name one.
    pub process: NameId,
    /// The server's clock, or 0.
    pub date: i64,
    /// `retry-after` in seconds, or a negative number.
    pub retry_after: f32,
    /// The index of the shown limits, or `u32::MAX`.
    limits: u32,
    /// The index of the request id of a failure, or `u32::MAX`.
    request_id: u32,
    /// The index of the file.
    pub file: u16,
    /// The line.
    pub line: u32,
}

impl Row {
    /// Returns the input that the limit counts.
    #[must_use]
    pub const fn limited_input(&self) -> u64 {
        self.input.saturating_add(self.cache_write)
    }
}

/// Shown limits: requests, input and output tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The limits per minute.
    pub limit: [Option<u64>; 3],
    /// The remaining amounts.
    pub remaining: [Option<u64>; 3],
}

impl Shown {
    fn of(limits: &RecordedLimits) -> Self {
        let all = [limits.requests, limits.input_tokens, limits.output_tokens];
        Self {
            limit: all.map(|limit| limit?.limit),
            remaining: all.map(|limit| limit?.remaining),
        }
    }
}

/// A time without records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Hole {
    /// The last record before it.
    pub from: Time,
    /// The first record after it.
    pub until: Time,
}

/// The completeness of the traffic: the basis of all figures.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Coverage {
    /// The files.
    pub files: Vec<FileReport>,
    /// The first record.
    pub from: Time,
    /// The last record.
    pub until: Time,
    /// The number of records of the Messages endpoint.
    pub records: u64,
    /// The number of records with the same request id or the same attempt of a call. They are left
    /// out.
    pub duplicates: u64,
    /// The number of records of other endpoints. They are left out.
    pub other_endpoints: u64,
    /// The number of records that the writer of an event log could not write.
    pub not_logged: u64,
    /// The number of records without tokens.
    pub unmeasured: u64,
    /// The number of records with estimated tokens.
    pub estimated: u64,
    /// The number of records without a status.
    pub without_status: u64,
    /// The number of records with a wait.
    pub with_wait: u64,
    /// The number of sums.
    pub sums: u64,
    /// The length of the longest sum in seconds, or 0.
    pub longest_sum_seconds: f64,
    /// The smallest share of records that was kept.
    pub sample_rate: f64,
    /// The longest times without records.
    pub holes: Vec<Hole>,
    /// The seconds of all holes.
    pub hole_seconds: f64,
    /// The corrected clocks: the process, and the seconds by which it was ahead.
    pub skews: Vec<(String, f64)>,
}

impl Coverage {
    /// Returns the time from the first record to the last, in microseconds.
    #[must_use]
    pub const fn span(&self) -> i64 {
        self.until.0 - self.from.0
    }

    /// Returns the number of skipped lines of all files.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.files.iter().map(|file| file.skipped).sum()
    }
}

/// Recorded traffic, in the order of start.
#[derive(Debug)]
#[non_exhaustive]
pub struct Traffic {
    /// The rows.
    pub rows: Vec<Row>,
    /// The names.
    pub names: Names,
    /// The completeness.
    pub coverage: Coverage,
    shown: Vec<Shown>,
    request_ids: Vec<Box<str>>,
}

impl Traffic {
    /// Returns the limits in the response of a row.
    #[must_use]
    pub fn shown(&self, row: &Row) -> Option<&Shown> {
        self.shown.get(row.limits as usize)
    }

    /// Returns the request id of a failed row.
    #[must_use]
    pub fn request_id(&self, row: &Row) -> Option<&str> {
        let id = self.request_ids.get(row.request_id as usize)?;
        Some(id)
    }

    /// Returns the place of a row, for messages.
    #[must_use]
    pub fn place(&self, row: &Row) -> String {
        let file = self.coverage.files.get(usize::from(row.file));
        let name = file.map_or("", |file| &file.name);
        format!("{name}:{}", row.line)
    }

    /// Returns the pools with rows, the busiest by input first.
    #[must_use]
    pub fn pools(&self) -> Vec<NameId> {
        let mut sums: HashMap<NameId, u64> = HashMap::new();
        for row in &self.rows {
            let sum = sums.entry(row.pool).or_default();
            *sum = sum
                .saturating_add(row.limited_input())
                .saturating_add(row.requests.into());
        }
        let mut pools: Vec<(NameId, u64)> = sums.into_iter().collect();
        pools.sort_by_key(|(pool, sum)| (std::cmp::Reverse(*sum), *pool));
        pools.into_iter().map(|(pool, _)| pool).collect()
    }
}
