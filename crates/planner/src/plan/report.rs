//! The data of a plan, for a text, for JSON and for a page.

use serde::Serialize;

use crate::{
    capacity::CapacityEvidence,
    demand::Basis,
    event::EventBasis,
    forecast::Forecast,
    limits::{Known, PoolLimits},
    mark::Mark,
    replay::Summary,
    rolling::Peaks,
    search::Target,
    time::Time,
    traffic::Coverage,
};

/// A plan.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PlanReport {
    /// The answer in one sentence.
    pub verdict: String,
    /// The date of the catalog of tiers and prices.
    pub catalog_as_of: String,
    /// The basis of all figures.
    pub coverage: Coverage,
    /// The target for waits with pacing.
    pub target: Target,
    /// The factor of growth.
    pub growth: f64,
    /// The pools, the busiest first.
    pub pools: Vec<PoolPlan>,
    /// The names of the pools that were left out.
    pub other_pools: Vec<String>,
    /// The reasons for which figures are less certain.
    pub warnings: Vec<String>,
}

/// The plan of one pool.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PoolPlan {
    /// The pool.
    pub pool: String,
    /// The basis of its demand.
    pub basis: Basis,
    /// The seconds from the first record to the last.
    pub span_seconds: f64,
    /// The mark of all figures about the record: exact, unless tokens are estimated or missing.
    pub mark: Mark,
    /// The limits in force, if they are known.
    pub limits: Option<Known>,
    /// The limits of the replay: those in force, or those of a tier.
    pub replayed: Known,
    /// The size of the buckets, as far as the traffic shows it.
    pub capacity: CapacityEvidence,
    /// The dimensions.
    pub dimensions: Vec<DimensionPlan>,
    /// The replays through the limiter, one for each possible size of the buckets.
    pub replays: Vec<LimitReplay>,
    /// The index of the dimension that delays the most requests in the replay with the smallest
    /// buckets. If none is delayed, the index of the dimension that comes closest.
    pub binding: usize,
    /// True if the replay has delayed requests.
    pub is_bound: bool,
    /// The tiers.
    pub tiers: Vec<TierRow>,
    /// The price of the traffic for 30 days in US dollars, if it is known.
    pub dollars_per_month: Option<f64>,
    /// The effects of the what-ifs.
    pub what_ifs: Vec<WhatIfResult>,
    /// The events.
    pub events: Vec<EventResult>,
    /// The forecast of the binding dimension.
    pub forecast: Option<Forecast>,
    /// The reason for which there is no forecast.
    pub no_forecast: Option<String>,
}

/// The plan of one dimension of a pool.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DimensionPlan {
    /// The name.
    pub dimension: &'static str,
    /// The limit per minute of the replay.
    pub limit: Option<u64>,
    /// The peaks.
    pub peaks: Peaks,
    /// The shares of time in which the last 60 s used more than 50, 80 and 100 % of the limit.
    pub time_above: Option<[f64; 3]>,
    /// The hours in which the last 60 s used more than 80 % of the limit: per week, or in the whole
    /// record if it is shorter.
    pub hours_above_80: Option<f64>,
    /// The least limits.
    pub needs: Vec<Need>,
    /// The busiest clock minute of each hour of the last 28 days, idle hours included.
    pub hours: Vec<HourPeak>,
    /// The waits with pacing at several limits, for each size of the buckets.
    pub curves: Vec<Curve>,
}

/// The busiest clock minute of an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HourPeak {
    /// The start of the hour.
    pub from: Time,
    /// The sum of the minute.
    pub most: u64,
}

/// The waits with pacing at several limits.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Curve {
    /// The time in which a bucket fills, in seconds.
    pub capacity_seconds: u64,
    /// The waits, by limit.
    pub points: Vec<CurvePoint>,
}

/// The waits at one limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CurvePoint {
    /// The limit per minute.
    pub limit: u64,
    /// The 95th percentile of the waits in seconds.
    pub wait_p95: f64,
    /// The longest wait in seconds.
    pub wait_max: f64,
}

/// The least limits per minute for one size of the buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Need {
    /// The time in which a bucket fills, in seconds.
    pub capacity_seconds: u64,
    /// The least limit at which no request waits. It is also the least at which none is refused
    /// without pacing.
    pub without_wait: Option<u64>,
    /// The least limit that meets the target with pacing.
    pub for_target: Option<u64>,
    /// The least limit at which no request waits for more than 30 s.
    pub within_30_seconds: Option<u64>,
}

/// Replays under the limits in force.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct LimitReplay {
    /// The time in which a bucket fills, in seconds.
    pub capacity_seconds: u64,
    /// With pacing.
    pub paced: Summary,
    /// Without pacing.
    pub unpaced: Summary,
}

/// One tier.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct TierRow {
    /// The name.
    pub tier: &'static str,
    /// The limits.
    pub limits: PoolLimits,
    /// The fits, by size of the buckets.
    pub fits: Vec<TierFit>,
}

/// The fit of a tier for one size of the buckets.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct TierFit {
    /// The time in which a bucket fills, in seconds.
    pub capacity_seconds: u64,
    /// The recorded traffic.
    pub now: Fit,
    /// The traffic with growth.
    pub grown: Fit,
}

/// The fit of limits.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Fit {
    /// The 95th percentile of the waits with pacing, in seconds.
    pub wait_p95: f64,
    /// The longest wait with pacing, in seconds.
    pub wait_max: f64,
    /// The share of requests that are refused without pacing.
    pub refused: f64,
    /// True if the target is met with pacing.
    pub suffices_paced: bool,
    /// True if at most one request of a thousand is refused without pacing.
    pub suffices_unpaced: bool,
}

/// The effect of a what-if on a pool.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct WhatIfResult {
    /// The what-if.
    pub what_if: String,
    /// The reason for which it changes nothing, or a remark.
    pub note: Option<String>,
    /// The need for the target in the binding dimension, before and after.
    pub need: (Option<u64>, Option<u64>),
    /// The 95th percentile of the waits in seconds under the limits of the replay, before and
    /// after.
    pub wait_p95: (f64, f64),
    /// The price for 30 days in US dollars, before and after.
    pub dollars_per_month: (Option<f64>, Option<f64>),
}

/// The plan of an event.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct EventResult {
    /// The event.
    pub event: String,
    /// The traffic that it is a multiple of. `None` if there is none.
    pub basis: Option<EventBasis>,
    /// The needs for the target in each dimension, with the smallest possible buckets.
    pub needs: [Option<u64>; 3],
    /// True if the limits of the replay are enough.
    pub fits: bool,
    /// The 95th percentile of the waits in seconds under the limits of the replay.
    pub wait_p95: f64,
}
