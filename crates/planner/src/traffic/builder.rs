//! The collection of records, and the correction of what is wrong with them.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher,
};

use foldhash::fast::FixedState;
use tower_claude_wire::ModelCatalog;

use super::{Coverage, Hole, NameId, Names, Outcome, Row, Shown, Traffic, UNKNOWN};
use crate::{
    read::FileReport,
    record::Record,
    time::{HOUR, SECOND, Time},
};

/// The smallest difference between a client's clock and the server's that is corrected.
const SKEW: i64 = 2 * SECOND;

/// The shortest time without records that is reported.
const HOLE: i64 = HOUR;

/// A time without records is reported if it is this many times the median gap.
const TIMES_MEDIAN: i64 = 50;

/// The most holes that are reported.
const MOST_HOLES: usize = 5;

/// The reason in the row of an event log about rows that it has lost.
const NOT_LOGGED: &str = "not_logged";

/// A builder of [`Traffic`].
#[derive(Debug)]
pub struct TrafficBuilder {
    rows: Vec<Row>,
    names: Names,
    shown: Vec<Shown>,
    request_ids: Vec<Box<str>>,
    /// The hashes of what identifies a record.
    seen: HashSet<u64, FixedState>,
    hasher: FixedState,
    coverage: Coverage,
    /// The model of records without one.
    assumed_model: Option<String>,
    pools: HashMap<Box<str>, NameId>,
}

impl TrafficBuilder {
    /// Returns a builder. Records without a model and pool get `assumed_model`.
    #[must_use]
    pub fn new(assumed_model: Option<&str>) -> Self {
        let mut names = Names::default();
        names.id("");
        Self {
            rows: Vec::new(),
            names,
            shown: Vec::new(),
            request_ids: Vec::new(),
            seen: HashSet::with_hasher(FixedState::default()),
            hasher: FixedState::default(),
            coverage: Coverage {
                files: Vec::new(),
                from: Time(0),
                until: Time(0),
                records: 0,
                duplicates: 0,
                other_endpoints: 0,
                not_logged: 0,
                unmeasured: 0,
                estimated: 0,
                without_status: 0,
                with_wait: 0,
                sums: 0,
                longest_sum_seconds: 0.0,
                sample_rate: 1.0,
                holes: Vec::new(),
                hole_seconds: 0.0,
                skews: Vec::new(),
            },
            assumed_model: assumed_model.map(str::to_owned),
            pools: HashMap::new(),
        }
    }

    /// Adds a record of the file that will be reported next.
    pub fn add(&mut self, line: u64, record: &Record) {
        if record.because.as_deref() == Some(NOT_LOGGED) {
            let lost = record.requests.unwrap_or(1);
            self.coverage.not_logged = self.coverage.not_logged.saturating_add(lost);
            return;
        }
        let endpoint = record.endpoint.as_deref().unwrap_or("messages");
        if endpoint != "messages" {
            self.coverage.other_endpoints += 1;
            return;
        }
        if self.is_duplicate(record) {
            self.coverage.duplicates += 1;
            return;
        }
        self.count(record);
        let row = self.row(line, record);
        self.rows.push(row);
    }

    /// Ends a file.
    pub fn end_file(&mut self, report: FileReport) {
        self.coverage.files.push(report);
    }

    fn is_duplicate(&mut self, record: &Record) -> bool {
        let hash = if let Some(id) = &record.request_id {
            self.hasher.hash_one(("id", id))
        } else if let (Some(call), Some(attempt)) = (&record.call, record.attempt) {
            self.hasher
                .hash_one(("call", call, attempt, record.t_start.0))
        } else {
            return false;
        };
        !self.seen.insert(hash)
    }

    fn count(&mut self, record: &Record) {
        let coverage = &mut self.coverage;
        coverage.records += 1;
        let is_measured = record.input.is_some() || record.output.is_some();
        coverage.unmeasured += u64::from(!is_measured);
        coverage.estimated += u64::from(!record.estimated.is_empty());
        let is_sum = record.requests.is_some();
        coverage.without_status +=
            u64::from(record.status.is_none() && record.class.is_none() && !is_sum);
        coverage.with_wait += u64::from(record.wait.is_some());
        coverage.sums += u64::from(is_sum);
        if let (true, Some(end)) = (is_sum, record.t_end) {
            let length = (end.0 - record.t_start.0) as f64 / SECOND as f64;
            coverage.longest_sum_seconds = coverage.longest_sum_seconds.max(length);
        }
        if let Some(rate) = record.sample_rate {
            coverage.sample_rate = coverage.sample_rate.min(rate);
        }
    }

    fn row(&mut self, line: u64, record: &Record) -> Row {
        let start = record.t_start.0;
        let wait = (record.wait.unwrap_or(0.0) * SECOND as f64).round() as i64;
        let sent = start + wait;
        let outcome = Outcome::of(record);
        let limits = record.limits.as_ref().map(Shown::of);
        let limits = limits
            .filter(|shown| *shown != Shown::default())
            .map(|shown| {
                self.shown.push(shown);
                self.shown.len() as u32 - 1
            });
        let id = record
            .request_id
            .as_deref()
            .filter(|_| outcome.is_refusal());
        let request_id = id.map(|id| {
            self.request_ids.push(id.into());
            self.request_ids.len() as u32 - 1
        });
        let file = self.coverage.files.len();
        let process = match &record.process {
            Some(process) => self.names.id(process),
            None => self.names.id(&format!("file {}", file + 1)),
        };
        let model = record.model.as_deref().or(self.assumed_model.as_deref());
        let model = model.unwrap_or_default().to_owned();
        let pool = self.pool(record, &model);
        let mut name = |text: &Option<String>| self.names.id(text.as_deref().unwrap_or_default());
        Row {
            start,
            sent,
            end: record.t_end.map_or(sent, |end| end.0.max(sent)),
            call: record
                .call
                .as_ref()
                .map_or(0, |call| self.hasher.hash_one(call).max(1)),
            attempt: record
                .attempt
                .map_or(0, |attempt| attempt.min(u32::from(u16::MAX)) as u16),
            requests: record
                .requests
                .map_or(1, |requests| requests.min(u64::from(u32::MAX)) as u32),
            is_sum: record.requests.is_some(),
            input: record.input.unwrap_or(0),
            cache_read: record.cache_read.unwrap_or(0),
            cache_write: record.cache_write.unwrap_or(0),
            output: record.output.unwrap_or(0),
            is_unmeasured: record.input.is_none() && record.output.is_none(),
            is_estimated: !record.estimated.is_empty(),
            is_local: record.refused_by.is_some(),
            is_concurrency: record.because.as_deref() == Some("concurrency"),
            outcome,
            status: record.status.unwrap_or(0),
            pool,
            tag: name(&record.tag),
            key: name(&record.key),
            model: self.names.id(&model),
            process,
            date: record.date.map_or(0, |date| date.0),
            retry_after: record.retry_after.map_or(-1.0, |seconds| seconds as f32),
            limits: limits.unwrap_or(u32::MAX),
            request_id: request_id.unwrap_or(u32::MAX),
            file: file.min(usize::from(u16::MAX)) as u16,
            line: line.min(u64::from(u32::MAX)) as u32,
        }
    }

    fn pool(&mut self, record: &Record, model: &str) -> NameId {
        let named = record
            .pool
            .as_deref()
            .map(|pool| pool.strip_prefix("messages/").unwrap_or(pool));
        let key = named.filter(|pool| !pool.is_empty()).unwrap_or(model);
        let key = if record.fast {
            format!("{key} (fast)")
        } else {
            key.to_owned()
        };
        if let Some(id) = self.pools.get(key.as_str()) {
            return *id;
        }
        let group = match named {
            Some(pool) if !pool.is_empty() => pool.to_owned(),
            _ if model.is_empty() => UNKNOWN.to_owned(),
            _ => ModelCatalog::builtin().lookup(model).rate_group.to_string(),
        };
        let group = if record.fast && !group.ends_with("fast") {
            format!("{group} fast")
        } else {
            group
        };
        let id = self.names.id(&group);
        self.pools.insert(key.into(), id);
        id
    }

    /// Returns the traffic, in order and with corrected clocks. `None` if there is no row.
    #[must_use]
    pub fn build(mut self) -> Option<Traffic> {
        self.correct_clocks();
        self.rows.sort_by_key(|row| (row.start, row.file, row.line));
        let (first, last) = (self.rows.first()?, self.rows.last()?);
        let mut coverage = self.coverage;
        coverage.from = Time(first.start);
        let last_sum = self
            .rows
            .iter()
            .filter(|row| row.is_sum)
            .map(|row| row.end)
            .max();
        coverage.until = Time(last.start.max(last_sum.unwrap_or(i64::MIN)));
        (coverage.holes, coverage.hole_seconds) = holes(&self.rows);
        Some(Traffic {
            rows: self.rows,
            names: self.names,
            coverage,
            shown: self.shown,
            request_ids: self.request_ids,
        })
    }

    /// Shifts the rows of a process whose clock differs from the server's.
    fn correct_clocks(&mut self) {
        let mut skews: HashMap<NameId, Vec<i64>> = HashMap::new();
        for row in self.rows.iter().filter(|row| row.date != 0) {
            // The header has whole seconds, and was made between sending and the end.
            let skew = if row.date + SECOND <= row.sent {
                row.sent - row.date - SECOND / 2
            } else if row.date > row.end + SECOND {
                row.end - row.date
            } else {
                0
            };
            skews.entry(row.process).or_default().push(skew);
        }
        let mut shifts: HashMap<NameId, i64> = HashMap::new();
        for (process, mut skews) in skews {
            let middle = skews.len() / 2;
            let (_, median, _) = skews.select_nth_unstable(middle);
            if median.abs() >= SKEW {
                shifts.insert(process, *median);
                let name = self.names.get(process).to_owned();
                self.coverage
                    .skews
                    .push((name, *median as f64 / SECOND as f64));
            }
        }
        self.coverage.skews.sort_by(|a, b| a.0.cmp(&b.0));
        for row in &mut self.rows {
            if let Some(shift) = shifts.get(&row.process) {
                row.start -= shift;
                row.sent -= shift;
                row.end -= shift;
            }
        }
    }
}

/// Returns the longest times without rows, and the seconds of all of them.
fn holes(rows: &[Row]) -> (Vec<Hole>, f64) {
    let mut gaps: Vec<i64> = rows
        .windows(2)
        .map(|pair| pair[1].start - pair[0].start)
        .collect();
    if gaps.is_empty() {
        return (Vec::new(), 0.0);
    }
    let middle = gaps.len() / 2;
    let (_, median, _) = gaps.select_nth_unstable(middle);
    let least = HOLE.max(median.saturating_mul(TIMES_MEDIAN));
    let mut holes: Vec<Hole> = Vec::new();
    let mut until = i64::MIN;
    for pair in rows.windows(2) {
        let from = if pair[0].is_sum {
            pair[0].end
        } else {
            pair[0].start
        };
        until = until.max(from);
        if pair[1].start - until >= least {
            holes.push(Hole {
                from: Time(until),
                until: Time(pair[1].start),
            });
        }
    }
    let sum: i64 = holes.iter().map(|hole| hole.until.0 - hole.from.0).sum();
    holes.sort_by_key(|hole| std::cmp::Reverse(hole.until.0 - hole.from.0));
    holes.truncate(MOST_HOLES);
    (holes, sum as f64 / SECOND as f64)
}
