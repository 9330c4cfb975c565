//! The causes of rejections and slow calls.

pub(crate) mod cause;
mod pool;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    limits::{self, LimitTable, PoolLimits},
    mark::Mark,
    text::exact,
    time::{MINUTE, Time},
    traffic::{Coverage, NameId, Row, Traffic},
};

pub use self::cause::Cause;
use self::pool::PoolDiagnosis;

/// The most request ids of a finding.
const MOST_IDS: usize = 20;

/// A cause with its calls.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The cause.
    pub cause: Cause,
    /// Its name.
    pub name: &'static str,
    /// The number of attempts.
    pub count: u64,
    /// The share of all rejections and slow calls.
    pub share: f64,
    /// The explanation.
    pub sentence: &'static str,
    /// The advice.
    pub remedy: &'static str,
    /// Exact if the API's answer names the cause, estimated if the traffic shows it.
    pub mark: Mark,
    /// The time of the first one.
    pub first: Time,
    /// The time of the last one.
    pub last: Time,
    /// The pools with the most of them, with their number.
    pub pools: Vec<(String, u64)>,
    /// The keys with the most of them, with their number.
    pub keys: Vec<(String, u64)>,
    /// The tags with the most of them, with their number.
    pub tags: Vec<(String, u64)>,
    /// Up to 20 request ids.
    pub request_ids: Vec<String>,
    /// The place of the first one, as the file and its line.
    pub place: String,
}

/// A diagnosis.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The answer in one sentence.
    pub verdict: String,
    /// The basis of all figures.
    pub coverage: Coverage,
    /// The start of the time that was diagnosed.
    pub from: Time,
    /// The end of the time that was diagnosed.
    pub until: Time,
    /// The number of attempts in that time.
    pub attempts: u64,
    /// The number of rejections and failures.
    pub rejected: u64,
    /// The number of calls that waited for a second or more.
    pub slow: u64,
    /// The causes, the most frequent first.
    pub findings: Vec<Finding>,
    /// The reasons for which figures are less certain.
    pub warnings: Vec<String>,
}

/// The time before and after `--at` that is diagnosed.
const AROUND: i64 = 5 * MINUTE;

/// Finds the cause of each rejection and slow call, in the whole record or within five minutes of a
/// time.
///
/// # Errors
/// Returns a message if the record has nothing at that time.
pub fn diagnose(
    traffic: &Traffic,
    table: Option<&LimitTable>,
    at: Option<Time>,
) -> Result<Diagnosis, String> {
    let coverage = &traffic.coverage;
    let (from, until) = match at {
        Some(at) => (Time(at.0 - AROUND), Time(at.0 + AROUND)),
        None => (coverage.from, coverage.until),
    };
    let is_inside = |row: &Row| row.start <= until.0 && row.end.max(row.sent) >= from.0;
    let attempts = traffic.rows.iter().filter(|row| is_inside(row)).count() as u64;
    if attempts == 0 {
        return Err(format!(
            "nothing is recorded within five minutes of {}: the record is from {} to {} UTC",
            at.unwrap_or(from).to_minute(),
            coverage.from.to_minute(),
            coverage.until.to_minute()
        ));
    }
    let mut found: BTreeMap<Cause, Vec<(Row, Mark)>> = BTreeMap::new();
    let (mut rejected, mut slow) = (0, 0);
    for pool in traffic.pools() {
        let name = traffic.names.get(pool);
        let known = match table {
            Some(table) => table.of(name),
            None => limits::shown(traffic, pool),
        };
        let limits = known.map_or([None; 3], |known| known.limits);
        for (row, cause, mark) in causes_of_pool(traffic, pool, limits) {
            if is_inside(&row) {
                let is_rejected = row.outcome.is_refusal();
                rejected += u64::from(is_rejected);
                slow += u64::from(!is_rejected);
                found.entry(cause).or_default().push((row, mark));
            }
        }
    }
    let all = rejected + slow;
    let mut findings: Vec<Finding> = found
        .into_iter()
        .map(|(cause, rows)| finding(traffic, cause, &rows, all))
        .collect();
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.count), finding.cause));
    let mut warnings = crate::verdict::coverage_warnings(coverage);
    if let Some(table) = table {
        let pools = traffic.pools().into_iter();
        warnings.extend(pools.filter_map(|pool| table.missing(traffic.names.get(pool))));
    }
    if coverage.sample_rate < 1.0 {
        warnings.push(format!(
            "the record keeps {:.1} % of the requests: sums are too low",
            coverage.sample_rate * 100.0
        ));
    }
    Ok(Diagnosis {
        verdict: verdict(&findings, attempts, rejected, slow),
        coverage: coverage.clone(),
        from,
        until,
        attempts,
        rejected,
        slow,
        findings,
        warnings,
    })
}

/// Returns the rejected and slow rows of a pool with their causes.
pub(crate) fn causes_of_pool(
    traffic: &Traffic,
    pool: NameId,
    limits: PoolLimits,
) -> Vec<(Row, Cause, Mark)> {
    PoolDiagnosis::new(traffic, pool, limits).causes()
}

fn verdict(findings: &[Finding], attempts: u64, rejected: u64, slow: u64) -> String {
    let Some(first) = findings.first() else {
        return format!(
            "no rejection and no slow call among {} attempts",
            exact(attempts)
        );
    };
    let share = crate::text::percent(first.share);
    let next = findings.get(1).map_or(String::new(), |next| {
        format!(
            ", then {} ({})",
            next.name,
            crate::text::percent(next.share)
        )
    });
    let sign = first.mark.sign();
    format!(
        "{} caused {sign}{share} of {} rejections and {} slow calls among {} attempts{next}",
        first.name,
        exact(rejected),
        exact(slow),
        exact(attempts)
    )
}

fn finding(traffic: &Traffic, cause: Cause, rows: &[(Row, Mark)], all: u64) -> Finding {
    let count = |of: fn(&Row) -> NameId| {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for (row, _) in rows {
            let name = traffic.names.get(of(row));
            if !name.is_empty() {
                *counts.entry(name).or_default() += 1;
            }
        }
        let mut counts: Vec<(String, u64)> = counts
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        counts.truncate(5);
        counts
    };
    let times = || rows.iter().map(|(row, _)| Time(row.sent));
    let ids = rows.iter().filter_map(|(row, _)| traffic.request_id(row));
    let is_exact = rows.iter().all(|(_, mark)| *mark == Mark::Exact);
    Finding {
        cause,
        name: cause.name(),
        count: rows.len() as u64,
        share: rows.len() as f64 / all.max(1) as f64,
        sentence: cause.sentence(),
        remedy: cause.remedy(),
        mark: Mark::exact_if(is_exact),
        first: times().min().unwrap_or_default(),
        last: times().max().unwrap_or_default(),
        pools: count(|row| row.pool),
        keys: count(|row| row.key),
        tags: count(|row| row.tag),
        request_ids: ids.take(MOST_IDS).map(str::to_owned).collect(),
        place: rows
            .first()
            .map(|(row, _)| traffic.place(row))
            .unwrap_or_default(),
    }
}

impl Diagnosis {
    /// Returns the share of all rejections and slow calls that a dimension caused.
    #[must_use]
    pub fn share(&self, cause: Cause) -> f64 {
        let found = self.findings.iter().find(|finding| finding.cause == cause);
        found.map_or(0.0, |finding| finding.share)
    }

    /// Returns the diagnosis as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = crate::text::Lines::default();
        lines.push(&*self.verdict);
        lines.push(crate::text::coverage(&self.coverage));
        lines.push(format!(
            "window   {} to {} UTC",
            self.from.to_minute(),
            self.until.to_minute()
        ));
        for finding in &self.findings {
            let sign = finding.mark.sign();
            lines.push(format!(
                "{sign}{:>6}  {} ({} of {}, {} to {})",
                crate::text::percent(finding.share),
                finding.name,
                exact(finding.count),
                exact(self.rejected + self.slow),
                finding.first.to_second(),
                finding.last.to_second()
            ));
            lines.push(format!("        {}", finding.sentence));
            lines.push(format!("        → {}", finding.remedy));
            let mut where_ = Vec::new();
            for (kind, counts) in [
                ("pool", &finding.pools),
                ("key", &finding.keys),
                ("tag", &finding.tags),
            ] {
                if let Some((name, count)) = counts.first() {
                    where_.push(format!("{kind} {name} ({})", exact(*count)));
                }
            }
            if let Some(id) = finding.request_ids.first() {
                where_.push(format!("e.g. {id}"));
            }
            where_.push(format!("first at {}", finding.place));
            lines.push(format!("        {}", where_.join(", ")));
        }
        for warning in &self.warnings {
            lines.push(format!("! {warning}"));
        }
        lines.text()
    }
}
