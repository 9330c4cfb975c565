//! The evidence for a higher limit: a block of text to paste, and its data.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::{
    bucket::{self, DIMENSIONS, Quota},
    capacity::{CAPACITIES, CapacityEvidence},
    demand::PoolDemand,
    diagnose::{Cause, causes_of_pool},
    forecast::{Forecast, forecast},
    limits::{self, Known, LimitTable, PoolLimits},
    mark::Mark,
    plan::{check_growth, chosen_pools, in_units, points},
    replay::paced,
    rolling::{Peaks, Point, percentile, rolling_minutes},
    search::{Target, least_limit},
    text::{Lines, count, coverage, exact, percent, seconds, span},
    time::{DAY, HOUR, SECOND, Time},
    traffic::{Coverage, NameId, Outcome, Row, Traffic},
};

/// The most request ids in the evidence.
const MOST_IDS: usize = 20;

/// The part of the need that is asked for on top.
pub const MARGIN: f64 = 1.2;

/// The options of the evidence.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EvidenceOptions {
    /// The name of the pool.
    pub pool: String,
    /// The limit per minute that is asked for. Default: need × growth × [`MARGIN`].
    pub ask: Option<u64>,
    /// The dimension: 0 for requests, 1 for input tokens, 2 for output tokens. Default: the one
    /// that comes closest to its limit.
    pub dimension: Option<usize>,
    /// The limits. Default: those that response headers have shown.
    pub limits: Option<LimitTable>,
    /// The factor of growth, 1 for none. Default 1.5.
    pub growth: f64,
    /// The target for waits with pacing. Default: 95 % of the requests wait for 5 s at most.
    pub target: Target,
    /// The measures that were already taken, in the words of the user. Default: none.
    pub done: Vec<String>,
}

impl EvidenceOptions {
    /// Returns the options for a pool.
    #[must_use]
    pub fn new(pool: &str) -> Self {
        Self {
            pool: pool.to_owned(),
            ask: None,
            dimension: None,
            limits: None,
            growth: 1.5,
            target: Target::DEFAULT,
            done: Vec::new(),
        }
    }
}

/// The evidence for a higher limit.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Evidence {
    /// The answer in one sentence.
    pub verdict: String,
    /// The basis of all figures.
    pub coverage: Coverage,
    /// The pool.
    pub pool: String,
    /// The number of its requests.
    pub requests: u64,
    /// The dimension for which more is asked.
    pub dimension: &'static str,
    /// The mark of the figures about the record.
    pub mark: Mark,
    /// The limits in force.
    pub limits: Option<Known>,
    /// The limit that is asked for.
    pub ask: u64,
    /// The least limit for the target with pacing, with the smallest buckets that the record
    /// allows.
    pub need: Option<u64>,
    /// The target of the need.
    pub target: Target,
    /// The time in which the buckets of the need fill, in seconds.
    pub capacity_seconds: u64,
    /// The reasoning.
    pub reasoning: String,
    /// The dimensions.
    pub dimensions: Vec<DimensionEvidence>,
    /// The number of 429s by cause.
    pub rejections: Vec<(String, u64)>,
    /// Up to 20 request ids of 429s.
    pub request_ids: Vec<String>,
    /// The share of the input that was read from the cache.
    pub cache_rate: f64,
    /// The share of calls that waited for a limiter of the client.
    pub paced_share: f64,
    /// The first record with a wait.
    pub paced_since: Option<Time>,
    /// The measures that were already taken.
    pub done: Vec<String>,
    /// The growth, if the record is long enough.
    pub forecast: Option<Forecast>,
    /// The reason for which there is no growth.
    pub no_forecast: Option<String>,
    /// The 95th percentile of the waits in seconds, with growth, under the limit in force.
    pub wait_p95_if_refused: Option<f64>,
    /// The reasons for which figures are less certain.
    pub warnings: Vec<String>,
}

/// The use of one dimension.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DimensionEvidence {
    /// The name.
    pub dimension: &'static str,
    /// The limit per minute.
    pub limit: Option<u64>,
    /// The largest clock minute of the last 7 days, as the Console shows it. `None` if the record
    /// is shorter.
    pub console_7_days: Option<u64>,
    /// The largest clock minute of the last 28 days. `None` if the record is shorter.
    pub console_28_days: Option<u64>,
    /// The peaks of the whole record.
    pub peaks: Peaks,
    /// The sums of the last 60 s: the 50th, 95th and 99th percentile, and the largest.
    pub rolling_minutes: [u64; 4],
    /// The shares of time above 50, 80 and 100 % of the limit.
    pub time_above: Option<[f64; 3]>,
}

/// Collects the evidence.
///
/// # Errors
/// Returns a message for an unknown pool, for sampled traffic, or without a limit to ask for.
pub fn evidence(traffic: &Traffic, options: &EvidenceOptions) -> Result<Evidence, String> {
    if traffic.coverage.sample_rate < 1.0 {
        return Err("the record is a sample: peaks cannot be known from it".to_owned());
    }
    check_growth(options.growth)?;
    let pool = chosen_pools(traffic, Some(&options.pool))?[0];
    let name = traffic.names.get(pool).to_owned();
    let found = PoolDemand::of(traffic, pool);
    let demand = &found.demand;
    let known = match &options.limits {
        Some(table) => table.of(&name),
        None => limits::shown(traffic, pool),
    };
    let in_force = known.as_ref().map_or([None; 3], |known| known.limits);
    let capacity = CapacityEvidence::of_pool(traffic, pool);
    let sizes = &capacity.possible_seconds;
    let burst = sizes
        .last()
        .map_or(CAPACITIES[0], |seconds| Duration::from_secs(*seconds));
    let dimensions: Vec<DimensionEvidence> = (0..3)
        .map(|dimension| of_dimension(&points(demand, dimension), dimension, in_force[dimension]))
        .collect();
    let shares: [f64; 3] = std::array::from_fn(|dimension| {
        let limit = in_force[dimension].map_or(f64::INFINITY, |limit| limit.max(1) as f64);
        dimensions[dimension].peaks.rolling_minute as f64 / limit
    });
    // A limit that is asked for is some multiple of the one in force.
    let is_asked = |dimension: &usize| match (options.ask, in_force[*dimension]) {
        (Some(ask), Some(limit)) => ask > limit && ask / 100 <= limit,
        _ => true,
    };
    let closest = (0..3)
        .filter(|dimension| shares[*dimension] > 0.0)
        .filter(is_asked)
        .max_by(|a, b| shares[*a].total_cmp(&shares[*b]));
    let chosen = options.dimension.or(closest).unwrap_or(1);
    let need = least_limit(demand, chosen, burst, &options.target);
    let reasoned = need.map(|need| (need as f64 * options.growth * MARGIN).ceil() as u64);
    let ask = options
        .ask
        .or(reasoned)
        .ok_or("no limit meets the target: give one with --ask")?;
    let refused = in_force.iter().any(Option::is_some).then(|| {
        let quota = Quota {
            limits: in_force.map(|limit| limit.map(|limit| (limit as f64 / options.growth) as u64)),
            burst,
        };
        paced(demand, &quota).wait_p95
    });
    let limited = in_force[chosen].map(|limit| limit.saturating_mul(bucket::scale(chosen)));
    let (growth, no_forecast) = match forecast(&points(demand, chosen), limited) {
        Ok(forecast) => (Some(in_units(forecast, chosen)), None),
        Err(reason) => (None, Some(reason)),
    };
    let of_pool = || traffic.rows.iter().filter(|row| row.pool == pool);
    let (rejections, request_ids) = rejections(traffic, pool, in_force);
    let waited = |row: &&Row| row.sent > row.start;
    let read: u64 = demand.iter().map(|demand| demand.cache_read).sum();
    let prompt: u64 = demand
        .iter()
        .map(|demand| demand.input + demand.cache_write + demand.cache_read)
        .sum();
    let mut report = Evidence {
        verdict: String::new(),
        coverage: traffic.coverage.clone(),
        requests: of_pool().map(|row| u64::from(row.requests)).sum(),
        dimension: DIMENSIONS[chosen],
        mark: Mark::exact_if(found.basis.is_exact()),
        ask,
        need,
        target: options.target,
        capacity_seconds: burst.as_secs(),
        reasoning: String::new(),
        rejections,
        request_ids,
        cache_rate: read as f64 / prompt.max(1) as f64,
        paced_share: of_pool().filter(waited).count() as f64 / of_pool().count().max(1) as f64,
        paced_since: of_pool().find(waited).map(|row| Time(row.start)),
        done: options.done.clone(),
        forecast: growth,
        no_forecast,
        wait_p95_if_refused: refused,
        warnings: crate::verdict::coverage_warnings(&traffic.coverage),
        dimensions,
        limits: known,
        pool: name,
    };
    let missing = |table: &LimitTable| table.missing(&report.pool);
    report
        .warnings
        .extend(options.limits.as_ref().and_then(missing));
    report.reasoning = report.reason(options);
    report.verdict = report.verdict(in_force[chosen], shares[chosen]);
    Ok(report)
}

fn of_dimension(points: &[Point], dimension: usize, limit: Option<u64>) -> DimensionEvidence {
    let scale = bucket::scale(dimension);
    let last = points.last().map_or(0, |last| last.0);
    let first = points.first().map_or(0, |first| first.0);
    let console = |days: i64| {
        let from = points.partition_point(|point| point.0 <= last - days * DAY);
        let is_covered = last - first >= days * DAY - HOUR;
        is_covered.then(|| Peaks::of(&points[from..]).clock_minute.div_ceil(scale))
    };
    let sums = rolling_minutes(points);
    let above = limit.map(|limit| {
        [0.5, 0.8, 1.0].map(|share| {
            let bound = limit.saturating_mul(scale) as f64 * share;
            let below = sums.partition_point(|sum| *sum as f64 <= bound);
            (sums.len() - below) as f64 / sums.len().max(1) as f64
        })
    });
    let mut peaks = Peaks::of(points);
    peaks.divide(scale);
    // The percentiles are those of samples, and the largest sum is exact.
    let [p50, p95, p99] = [0.50, 0.95, 0.99].map(|share| percentile(&sums, share).div_ceil(scale));
    DimensionEvidence {
        dimension: DIMENSIONS[dimension],
        limit,
        console_7_days: console(7),
        console_28_days: console(28),
        rolling_minutes: [p50, p95, p99, peaks.rolling_minute],
        peaks,
        time_above: above,
    }
}

/// Returns the number of 429s by cause, and some of their request ids.
fn rejections(
    traffic: &Traffic,
    pool: NameId,
    limits: PoolLimits,
) -> (Vec<(String, u64)>, Vec<String>) {
    let is_limit = |cause: Cause| {
        !matches!(
            cause,
            Cause::Overload | Cause::ServerError | Cause::Network | Cause::Key | Cause::SpendLimit
        )
    };
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, cause, _) in causes_of_pool(traffic, pool, limits) {
        if is_limit(cause) {
            *counts.entry(cause.name()).or_default() += 1;
        }
    }
    let of_pool = traffic.rows.iter().filter(|row| row.pool == pool);
    let refused = of_pool.filter(|row| row.outcome == Outcome::RateLimited && !row.is_local);
    let ids = refused
        .filter_map(|row| traffic.request_id(row))
        .take(MOST_IDS);
    let counts = counts
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count))
        .collect();
    (counts, ids.map(str::to_owned).collect())
}

impl Evidence {
    fn reason(&self, options: &EvidenceOptions) -> String {
        let need = self.need.map_or("no limit".to_owned(), count);
        let first = format!(
            "A replay of the recorded traffic needs {need} {} a minute for {} with client-side pacing (buckets of {} s).",
            self.dimension, options.target, self.capacity_seconds
        );
        let second = match options.ask {
            None => format!(
                "With a growth of {} and a margin of {MARGIN} this is {}.",
                options.growth,
                count(self.ask)
            ),
            Some(ask) => {
                let room = self
                    .need
                    .map_or(1.0, |need| ask as f64 / need.max(1) as f64);
                format!("The limit asked for is {room:.1} times that, for growth and a margin.")
            }
        };
        format!("{first} {second}")
    }

    fn verdict(&self, limit: Option<u64>, share: f64) -> String {
        let ask = format!(
            "ask for {} {} a minute for pool {}",
            count(self.ask),
            self.dimension,
            self.pool
        );
        match limit {
            None => format!("{ask}; the limit in force is not known"),
            // The form can be used from half of the limit on.
            Some(limit) if share < 0.5 => format!(
                "{ask}; but at most {} of the limit of {} were used in 60 s, and an increase can be asked for from 50 %",
                percent(share),
                count(limit)
            ),
            Some(limit) => format!(
                "{ask}: {} of the limit of {} were used in 60 s",
                percent(share),
                count(limit)
            ),
        }
    }

    /// Returns the block of text to paste into the request.
    #[must_use]
    pub fn paste(&self) -> String {
        let mut text = format!(
            "Rate limit increase: {} {} per minute for {} (now {}).\n",
            exact(self.ask),
            self.dimension,
            self.pool,
            self.dimensions
                .iter()
                .find(|found| found.dimension == self.dimension)
                .and_then(|found| found.limit)
                .map_or("not known".to_owned(), exact)
        );
        let covered = self.coverage.span() - (self.coverage.hole_seconds * SECOND as f64) as i64;
        text.push_str(&format!(
            "Basis: {} requests from {} to {} UTC, {} recorded.\n",
            exact(self.requests),
            self.coverage.from.to_minute(),
            self.coverage.until.to_minute(),
            span(covered)
        ));
        for found in &self.dimensions {
            let [p50, p95, p99, max] = found.rolling_minutes.map(exact);
            let above = found.time_above.map_or(String::new(), |above| {
                let [half, most, all] = above.map(percent);
                format!("; above 50/80/100 % of the limit for {half} / {most} / {all} of the time")
            });
            let console = match (found.console_7_days, found.console_28_days) {
                (Some(week), Some(month)) => format!(
                    "; hourly maximum per minute {} in 7 days, {} in 28 days",
                    exact(week),
                    exact(month)
                ),
                (Some(week), None) => {
                    format!("; hourly maximum per minute {} in 7 days", exact(week))
                }
                _ => format!("; maximum clock minute {}", exact(found.peaks.clock_minute)),
            };
            text.push_str(&format!(
                "{} in any 60 s: p50 {p50}, p95 {p95}, p99 {p99}, max {max}{console}{above}.\n",
                found.dimension
            ));
        }
        let causes: Vec<String> = self
            .rejections
            .iter()
            .map(|(cause, count)| format!("{cause} {}", exact(*count)))
            .collect();
        text.push_str(&match causes.is_empty() {
            true => "429s: none recorded.\n".to_owned(),
            false => format!("429s and waits by cause: {}.\n", causes.join(", ")),
        });
        if !self.request_ids.is_empty() {
            text.push_str(&format!("Request ids: {}.\n", self.request_ids.join(", ")));
        }
        text.push_str(&format!(
            "Already done: {} of the prompt tokens are read from the cache; {} of the requests were paced{}{}.\n",
            percent(self.cache_rate),
            percent(self.paced_share),
            self.paced_since.map_or(String::new(), |since| format!(" (since {})", since.to_date())),
            self.done.iter().map(|done| format!("; {done}")).collect::<String>()
        ));
        if let Some(forecast) = &self.forecast {
            let (low, high) = forecast.growth_interval;
            text.push_str(&format!(
                "Growth: {:+.1} % a week ({:+.1} to {:+.1} %).\n",
                forecast.growth_per_week * 100.0,
                low * 100.0,
                high * 100.0
            ));
        }
        text.push_str(&self.reasoning);
        text.push('\n');
        if let Some(wait) = self.wait_p95_if_refused {
            text.push_str(&format!(
                "Without the increase, the 95th percentile of the waits becomes {} at the expected growth.\n",
                seconds(wait)
            ));
        }
        text
    }

    /// Returns the evidence as text: the verdict, the record, and the block to paste.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = Lines::default();
        lines.push(&*self.verdict);
        lines.push(coverage(&self.coverage));
        lines.push(match self.mark {
            Mark::Exact => "figures  exact for the record; need, growth and wait are estimates",
            Mark::Estimated => "figures  estimates, because the record lacks something (see below)",
        });
        if let Some(reason) = &self.no_forecast {
            lines.push(format!("growth   {reason}"));
        }
        for warning in &self.warnings {
            lines.push(format!("! {warning}"));
        }
        lines.push("--- paste at https://platform.claude.com/settings/limits ---");
        for line in self.paste().lines() {
            lines.push(line);
        }
        lines.text()
    }
}
