//! The causes of rejections and slow calls.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use crate::{
    limits::{self, LimitTable, PoolLimits},
    mark::Mark,
    time::{MINUTE, SECOND, Time},
    traffic::{Coverage, NameId, Outcome, Row, Traffic},
};

/// The shortest wait of a slow call.
pub(crate) const SLOW: i64 = SECOND;

/// The most request ids of a finding.
const MOST_IDS: usize = 20;

/// The share of retries from which on they are a storm.
const STORM: f64 = 0.2;

/// The least difference from the shown level, as a share of the limit, that shows other use.
const FOREIGN: f64 = 0.1;

/// The rounding of token counts in headers, twice.
const ROUNDING: f64 = 2_000.0;

/// The cause of a rejection or of a slow call, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// A spend limit or a billing problem.
    SpendLimit,
    /// The key is invalid, or lacks a permission.
    Key,
    /// Traffic rose too sharply.
    Ramp,
    /// Too many requests at once.
    Concurrency,
    /// The minute had room, but the limit is enforced over a shorter time.
    Burst,
    /// Other users of the same limits.
    OtherConsumer,
    /// The limit on requests is used up.
    RequestsFull,
    /// The limit on input tokens is used up.
    InputFull,
    /// The limit on output tokens is used up.
    OutputFull,
    /// The API is overloaded.
    Overload,
    /// The API failed.
    ServerError,
    /// Clients send failed requests again too often.
    RetryStorm,
    /// The connection failed, or the response was too late.
    Network,
    /// A 429 whose limit the record does not tell.
    UnknownLimit,
}

impl Cause {
    const fn full(dimension: usize) -> Self {
        match dimension {
            0 => Self::RequestsFull,
            1 => Self::InputFull,
            _ => Self::OutputFull,
        }
    }

    /// Returns the name in a few words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SpendLimit => "spend limit",
            Self::Key => "key",
            Self::Ramp => "ramp",
            Self::Concurrency => "concurrency",
            Self::Burst => "burst",
            Self::OtherConsumer => "another consumer on the key",
            Self::RequestsFull => "requests full",
            Self::InputFull => "input tokens full",
            Self::OutputFull => "output tokens full",
            Self::Overload => "overload",
            Self::ServerError => "server error",
            Self::RetryStorm => "client retry storm",
            Self::Network => "network or timeout",
            Self::UnknownLimit => "unknown limit",
        }
    }

    /// Returns the explanation.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::SpendLimit => {
                "A spend limit or the credit balance is used up, and no wait helps before it is raised or renewed."
            }
            Self::Key => "The key is invalid, was revoked, or lacks a permission.",
            Self::Ramp => "Traffic rose faster than the API allows, although the limits had room.",
            Self::Concurrency => "More requests were in flight at once than the API allows.",
            Self::Burst => {
                "The minute had room, but the limit is enforced over a shorter time and a burst was larger than that."
            }
            Self::OtherConsumer => {
                "The shown limits fall faster than this record uses them: something else uses the same limits."
            }
            Self::RequestsFull => {
                "The limit on requests per minute was really used up by this traffic."
            }
            Self::InputFull => {
                "The limit on input tokens per minute was really used up by this traffic."
            }
            Self::OutputFull => {
                "The limit on output tokens per minute was really used up by this traffic."
            }
            Self::Overload => {
                "The API was overloaded for everyone, which no limit of yours changes."
            }
            Self::ServerError => "The API or a proxy failed.",
            Self::RetryStorm => {
                "Clients sent requests again so often that the retries, not the demand, used up the limit."
            }
            Self::Network => "The connection failed, or the client gave up before the response.",
            Self::UnknownLimit => {
                "The API answered 429, and the record does not tell which limit it was."
            }
        }
    }

    /// Returns the advice.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::SpendLimit => {
                "Raise the spend limit or add credit in the Console, and do not retry."
            }
            Self::Key => "Check the key, its workspace and its permissions.",
            Self::Ramp => {
                "Start slowly: `LimiterConfig::with_slow_start`, or spread scheduled work (`plan --what-if spread=10m:tag:T`)."
            }
            Self::Concurrency => {
                "Set a limit on concurrent requests (`Limits::with_concurrency`), and stream long answers."
            }
            Self::Burst => {
                "Pace requests with a shorter burst (`Limits::with_burst`), which needs a lower limit than buying room for bursts."
            }
            Self::OtherConsumer => {
                "Find the other users of the organization's limits (usage by key in the Console), or share one limiter."
            }
            Self::RequestsFull => {
                "Pace requests, join small ones, or plan a higher limit (`plan`)."
            }
            Self::InputFull => {
                "Cache prompts, move work to batches, pace, or plan a higher limit (`plan --what-if cache=0.6`)."
            }
            Self::OutputFull => {
                "Ask for shorter answers, pace, or plan a higher limit (`plan`). A lower max_tokens has no effect."
            }
            Self::Overload => {
                "Retry with backoff, fall back to another model, and break the circuit meanwhile."
            }
            Self::ServerError => {
                "Retry with backoff, and send the request ids to support if it lasts."
            }
            Self::RetryStorm => {
                "Bound retries by a budget, honour retry-after, and let only one layer retry."
            }
            Self::Network => "Raise the client's timeout, stream, and check the path to the API.",
            Self::UnknownLimit => {
                "Record the rate-limit headers and the error code, or give the limits (`--limits`)."
            }
        }
    }
}

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
    /// The first and the last time.
    pub first: Time,
    /// As above.
    pub last: Time,
    /// The pools, the keys and the tags with the most of them.
    pub pools: Vec<(String, u64)>,
    /// As above.
    pub keys: Vec<(String, u64)>,
    /// As above.
    pub tags: Vec<(String, u64)>,
    /// Up to 20 request ids.
    pub request_ids: Vec<String>,
    /// The file and line of the first one.
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
    /// The time that was diagnosed.
    pub from: Time,
    /// As above.
    pub until: Time,
    /// The number of attempts in that time.
    pub attempts: u64,
    /// The number of rejections and failures.
    pub rejected: u64,
    /// The number of calls that waited for a second or more.
    pub slow: u64,
    /// The causes, the most frequent first.
    pub findings: Vec<Finding>,
    /// What makes figures less certain.
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
            from.to_minute(),
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
        for (row, cause, mark) in Pool::new(traffic, pool, limits).causes() {
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

fn verdict(findings: &[Finding], attempts: u64, rejected: u64, slow: u64) -> String {
    let Some(first) = findings.first() else {
        return format!("no rejection and no slow call among {attempts} attempts");
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
        "{} caused {sign}{share} of {rejected} rejections and {slow} slow calls among {attempts} attempts{next}",
        first.name
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

/// A bucket of each dimension as the server would have it, in seconds of refill that are used.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    seconds: [f64; 3],
    at: i64,
}

impl Used {
    fn advance(&mut self, now: i64) {
        let passed = (now - self.at).max(0) as f64 / SECOND as f64;
        for seconds in &mut self.seconds {
            *seconds = (*seconds - passed).max(0.0);
        }
        self.at = self.at.max(now);
    }

    fn add(&mut self, cost: [f64; 3]) {
        for (seconds, cost) in self.seconds.iter_mut().zip(cost) {
            *seconds += cost;
        }
    }
}

/// A level that a response has shown: the use that it shows beyond the own one, in shares of the
/// limits.
#[derive(Clone, Copy, Debug, Default)]
struct ShownUse {
    at: i64,
    foreign: [f64; 3],
}

/// The state of the diagnosis of one pool.
struct Pool<'a> {
    traffic: &'a Traffic,
    rows: Vec<Row>,
    limits: PoolLimits,
    /// The largest remaining amounts that were shown: the sizes of the buckets, as far as known.
    shown_capacity: [f64; 3],
    mean_input: f64,
    /// The use by all attempts, and by first attempts only.
    used: Used,
    first_used: Used,
    /// The most that was admitted at once, in seconds of refill, and the most in flight at an
    /// admission.
    most_admitted: f64,
    most_in_flight: usize,
    /// The ends of attempts in flight.
    in_flight: Vec<i64>,
    /// The attempts of the last minute: the time, and true for a retry.
    recent: VecDeque<(i64, bool)>,
    retries: usize,
    shown: Option<ShownUse>,
    last_refusal: Option<(i64, Cause)>,
}

impl<'a> Pool<'a> {
    fn new(traffic: &'a Traffic, pool: NameId, limits: PoolLimits) -> Self {
        let of_pool = traffic
            .rows
            .iter()
            .filter(|row| row.pool == pool && !row.is_sum);
        let mut rows: Vec<Row> = of_pool.copied().collect();
        rows.sort_by_key(|row| row.sent);
        let mut shown_capacity = [0.0_f64; 3];
        for shown in rows.iter().filter_map(|row| traffic.shown(row)) {
            for (capacity, remaining) in shown_capacity.iter_mut().zip(shown.remaining) {
                *capacity = capacity.max(remaining.unwrap_or(0) as f64);
            }
        }
        let measured = rows.iter().filter(|row| !row.is_unmeasured);
        let (sum, count) = measured.fold((0.0, 0.0), |(sum, count), row| {
            (sum + row.limited_input() as f64, count + 1.0_f64)
        });
        Self {
            traffic,
            rows,
            limits,
            shown_capacity,
            mean_input: sum / count.max(1.0),
            used: Used::default(),
            first_used: Used::default(),
            most_admitted: 0.0,
            most_in_flight: 0,
            in_flight: Vec::new(),
            recent: VecDeque::new(),
            retries: 0,
            shown: None,
            last_refusal: None,
        }
    }

    /// Returns the rejected and slow rows with their causes, in the order of sending.
    fn causes(mut self) -> Vec<(Row, Cause, Mark)> {
        let mut causes = Vec::new();
        for row in std::mem::take(&mut self.rows) {
            self.advance(&row);
            if let Some((cause, mark)) = self.cause(&row) {
                if matches!(row.outcome, Outcome::RateLimited | Outcome::RampLimited) {
                    self.last_refusal = Some((row.sent, cause));
                }
                causes.push((row, cause, mark));
            }
            self.charge(&row);
        }
        causes
    }

    fn advance(&mut self, row: &Row) {
        self.used.advance(row.sent);
        self.first_used.advance(row.sent);
        self.in_flight.retain(|end| *end > row.sent);
        while let Some((at, is_retry)) = self.recent.front().copied() {
            if at > row.sent - MINUTE {
                break;
            }
            self.recent.pop_front();
            self.retries -= usize::from(is_retry);
        }
    }

    /// Returns the cost of a row, in seconds of refill. The input of a refused request is often not
    /// known, so it is the mean one.
    fn cost(&self, row: &Row) -> [f64; 3] {
        let input = match row.is_unmeasured {
            true => self.mean_input,
            false => row.limited_input() as f64,
        };
        let amounts = [1.0, input, row.output as f64];
        std::array::from_fn(|dimension| match self.limits[dimension] {
            Some(limit) if limit > 0 => amounts[dimension] * 60.0 / limit as f64,
            _ => 0.0,
        })
    }

    /// Records what the server has counted of a row, and what its response shows.
    fn charge(&mut self, row: &Row) {
        let is_retry = row.attempt > 1;
        self.recent.push_back((row.sent, is_retry));
        self.retries += usize::from(is_retry);
        if row.is_local {
            return;
        }
        let is_counted = matches!(
            row.outcome,
            Outcome::Answered
                | Outcome::ServerError
                | Outcome::Timeout
                | Outcome::Transport
                | Outcome::Unknown
        );
        if is_counted {
            let cost = self.cost(row);
            self.used.add(cost);
            if !is_retry {
                self.first_used.add(cost);
            }
        }
        if row.outcome == Outcome::Answered {
            let most = self.used.seconds.into_iter().fold(0.0, f64::max);
            self.most_admitted = self.most_admitted.max(most);
            self.most_in_flight = self.most_in_flight.max(self.in_flight.len() + 1);
        }
        if is_counted {
            self.in_flight.push(row.end);
        }
        if let Some(shown) = self.foreign_use(row) {
            self.shown = Some(shown);
        }
    }

    /// Compares a shown level with the own use.
    fn foreign_use(&self, row: &Row) -> Option<ShownUse> {
        let shown = self.traffic.shown(row)?;
        let mut foreign = [0.0; 3];
        for (dimension, foreign) in foreign.iter_mut().enumerate() {
            let (Some(limit), Some(remaining)) =
                (self.limits[dimension], shown.remaining[dimension])
            else {
                continue;
            };
            let limit = limit.max(1) as f64;
            let capacity = self.shown_capacity[dimension].min(limit);
            let own = self.used.seconds[dimension] / 60.0 * limit;
            let missing = capacity - own.min(capacity) - remaining as f64;
            let rounding = if dimension == 0 { 2.0 } else { ROUNDING };
            if missing > rounding {
                *foreign = missing / limit;
            }
        }
        Some(ShownUse {
            at: row.sent,
            foreign,
        })
    }

    fn is_storm(&self) -> bool {
        let recent = self.recent.len();
        recent >= 5 && self.retries as f64 > STORM * recent as f64
    }

    fn cause(&self, row: &Row) -> Option<(Cause, Mark)> {
        if row.is_local {
            return Some(self.local_cause(row));
        }
        Some(match row.outcome {
            Outcome::SpendLimit => (Cause::SpendLimit, Mark::Exact),
            Outcome::Unauthorized | Outcome::Forbidden => (Cause::Key, Mark::Exact),
            Outcome::RampLimited => (Cause::Ramp, Mark::Exact),
            Outcome::RateLimited => self.limit_cause(row),
            Outcome::Overloaded => (Cause::Overload, Mark::Exact),
            Outcome::ServerError => (Cause::ServerError, Mark::Exact),
            Outcome::Timeout | Outcome::Transport if self.is_storm() => {
                (Cause::RetryStorm, Mark::Estimated)
            }
            Outcome::Timeout | Outcome::Transport => (Cause::Network, Mark::Exact),
            Outcome::Answered if row.sent - row.start >= SLOW => self.local_cause(row),
            Outcome::Answered | Outcome::Invalid | Outcome::Unknown => return None,
        })
    }

    /// Returns the cause of a rejection or a wait by the client's own layers.
    fn local_cause(&self, row: &Row) -> (Cause, Mark) {
        match row.outcome {
            Outcome::Overloaded => return (Cause::Overload, Mark::Estimated),
            Outcome::SpendLimit => return (Cause::SpendLimit, Mark::Estimated),
            Outcome::Unauthorized | Outcome::Forbidden => return (Cause::Key, Mark::Estimated),
            _ => {}
        }
        // A limiter pauses after a 429, so what follows has the same cause.
        let since = row.start - MINUTE;
        if let Some((_, cause)) = self.last_refusal.filter(|(at, _)| *at >= since) {
            return (cause, Mark::Estimated);
        }
        match self.fullest(row) {
            Some((dimension, _)) => (Cause::full(dimension), Mark::Estimated),
            None => (Cause::UnknownLimit, Mark::Estimated),
        }
    }

    /// Returns the dimension that is used most, with its use after this row in seconds of refill.
    fn fullest(&self, row: &Row) -> Option<(usize, f64)> {
        let cost = self.cost(row);
        let known = (0..3).filter(|dimension| self.limits[*dimension].is_some());
        let used =
            known.map(|dimension| (dimension, self.used.seconds[dimension] + cost[dimension]));
        used.max_by(|a, b| a.1.total_cmp(&b.1))
    }

    fn limit_cause(&self, row: &Row) -> (Cause, Mark) {
        if row.is_concurrency {
            return (Cause::Concurrency, Mark::Exact);
        }
        let shown = self.traffic.shown(row);
        let Some((dimension, seconds)) = self.fullest(row) else {
            return match shown
                .and_then(|shown| shown.remaining.iter().position(|left| *left == Some(0)))
            {
                Some(dimension) => (Cause::full(dimension), Mark::Estimated),
                None => (Cause::UnknownLimit, Mark::Estimated),
            };
        };
        let cost = self.cost(row);
        // Levels are known within two percent of a minute.
        let is_full = seconds > 58.8;
        let has_room = shown.is_some_and(|shown| {
            (0..3).all(
                |dimension| match (self.limits[dimension], shown.remaining[dimension]) {
                    (Some(limit), Some(left)) => {
                        left as f64 > (cost[dimension] / 60.0 + 0.05) * limit as f64
                    }
                    _ => true,
                },
            )
        });
        let in_flight = self.in_flight.len() + 1;
        if has_room && !is_full && in_flight > 2 && in_flight > self.most_in_flight {
            return (Cause::Concurrency, Mark::Estimated);
        }
        let foreign = self
            .foreign_use(row)
            .or(self.shown.filter(|shown| shown.at >= row.sent - MINUTE));
        let foreign = foreign.filter(|shown| shown.foreign.iter().any(|share| *share > FOREIGN));
        if !is_full {
            if foreign.is_none() && seconds > 1.0 && seconds >= 0.9 * self.most_admitted {
                return (Cause::Burst, Mark::Estimated);
            }
            return match (foreign.is_some(), has_room) {
                (true, _) => (Cause::OtherConsumer, Mark::Estimated),
                // The headers show room, and so does the own use.
                (false, true) => (Cause::UnknownLimit, Mark::Estimated),
                (false, false) if seconds < 30.0 => (Cause::OtherConsumer, Mark::Estimated),
                (false, false) => (Cause::full(dimension), Mark::Estimated),
            };
        }
        let first = self.first_used.seconds[dimension] + cost[dimension];
        if self.is_storm() && first <= 58.8 {
            return (Cause::RetryStorm, Mark::Estimated);
        }
        (Cause::full(dimension), Mark::exact_if(!row.is_estimated))
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
                finding.count,
                self.rejected + self.slow,
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
                    where_.push(format!("{kind} {name} ({count})"));
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
