//! The plan: which limit binds, which limit and tier are enough, and what would change it.

mod context;
mod report;

use std::time::Duration;

use tower_claude_wire::ModelCatalog;

use crate::{
    bucket::{self, DIMENSIONS, Quota},
    capacity::{CAPACITIES, CapacityEvidence},
    demand::{Demand, PoolDemand},
    event::Event,
    forecast::{Forecast, forecast},
    limits::{self, Known, LimitTable, PoolLimits, TIERS},
    mark::Mark,
    money,
    replay::{self, Summary, paced},
    rolling::{Peaks, Point, minute_sums, rolling_minutes},
    search::{Target, least_limit},
    time::{HOUR, MINUTE, SECOND, Time, WEEK},
    traffic::{NameId, Traffic},
    what_if::WhatIf,
};

use self::context::Context;
pub use self::report::{
    Curve, CurvePoint, DimensionPlan, EventResult, Fit, HourPeak, LimitReplay, Need, PlanReport,
    PoolPlan, TierFit, TierRow, WhatIfResult,
};

/// The most pools that are planned. The others are counted.
const MOST_POOLS: usize = 5;

/// The largest share of refused requests with which a tier without pacing is enough.
const FEW_REFUSED: f64 = 0.001;

/// The options of a plan.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PlanOptions {
    /// The only pool to plan. Default: the busiest.
    pub pool: Option<String>,
    /// The limits. Default: those that response headers have shown.
    pub limits: Option<LimitTable>,
    /// The time in which a bucket fills. Default: what the traffic shows, or all three.
    pub capacity: Option<Duration>,
    /// The factor of growth to plan for, 1 for none. Default 1.5.
    pub growth: f64,
    /// The target for waits with pacing. Default: 95 % of the requests wait for 5 s at most.
    pub target: Target,
    /// The changes whose effects are planned. Default: none.
    pub what_ifs: Vec<WhatIf>,
    /// The events to plan for. Default: none.
    pub events: Vec<Event>,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            pool: None,
            limits: None,
            capacity: None,
            growth: 1.5,
            target: Target::DEFAULT,
            what_ifs: Vec::new(),
            events: Vec::new(),
        }
    }
}

/// Makes a plan. `progress` gets a name of the step and the share that is done, from 0 to 1.
///
/// # Errors
/// Returns a message if the traffic is sampled, or if an option names something unknown.
pub fn plan(
    traffic: &Traffic,
    options: &PlanOptions,
    progress: &mut dyn FnMut(&str, f64),
) -> Result<PlanReport, String> {
    check(traffic, options)?;
    let pools = chosen_pools(traffic, options.pool.as_deref())?;
    let demands: Vec<PoolDemand> = traffic
        .pools()
        .into_iter()
        .map(|pool| PoolDemand::of(traffic, pool))
        .collect();
    for what_if in &options.what_ifs {
        if what_if.count(&demands, &traffic.names) == 0 {
            return Err(format!(
                "the what-if {what_if} concerns no request of the record"
            ));
        }
    }
    let kept: Vec<NameId> = pools.iter().copied().take(MOST_POOLS).collect();
    let mut planned = Vec::new();
    for (index, pool) in kept.iter().enumerate() {
        let mut step = |name: &str, share: f64| {
            progress(name, (index as f64 + share) / kept.len() as f64);
        };
        let demand = demands.iter().find(|demand| demand.pool == *pool);
        if let Some(demand) = demand.filter(|demand| !demand.demand.is_empty()) {
            planned.push(pool_plan(traffic, demand, &demands, options, &mut step));
        }
    }
    let others = pools.iter().skip(MOST_POOLS);
    let other_pools = others
        .map(|pool| traffic.names.get(*pool).to_owned())
        .collect();
    let first = planned
        .first()
        .ok_or("the record has no call that wanted an answer")?;
    Ok(PlanReport {
        verdict: crate::verdict::plan(first, options),
        catalog_as_of: ModelCatalog::builtin().as_of().to_owned(),
        coverage: traffic.coverage.clone(),
        target: options.target,
        growth: options.growth,
        warnings: warnings(traffic, &planned, options),
        pools: planned,
        other_pools,
    })
}

fn check(traffic: &Traffic, options: &PlanOptions) -> Result<(), String> {
    let rate = traffic.coverage.sample_rate;
    if rate < 1.0 {
        return Err(format!(
            "the record keeps {:.1} % of the requests only: peaks cannot be known from a sample",
            rate * 100.0
        ));
    }
    check_growth(options.growth)
}

/// Returns a message for a growth that is no factor.
pub(crate) fn check_growth(growth: f64) -> Result<(), String> {
    let is_factor = (0.01..=1_000.0).contains(&growth);
    is_factor
        .then_some(())
        .ok_or_else(|| format!("the growth {growth} is no factor from 0.01 to 1000, such as 1.5"))
}

/// Returns the pools to plan.
pub(crate) fn chosen_pools(traffic: &Traffic, name: Option<&str>) -> Result<Vec<NameId>, String> {
    let pools = traffic.pools();
    let Some(name) = name else { return Ok(pools) };
    // A model is in the pool that its requests are.
    let group = ModelCatalog::builtin().lookup(name).rate_group;
    let find = |name: &str| {
        let is_wanted = |pool: &NameId| traffic.names.get(*pool) == name;
        pools.iter().copied().find(is_wanted)
    };
    let found = find(name).or_else(|| find(&group));
    found.map(|pool| vec![pool]).ok_or_else(|| {
        let names: Vec<&str> = pools.iter().map(|pool| traffic.names.get(*pool)).collect();
        format!(
            "no pool {name:?} in the record, which has {}",
            names.join(", ")
        )
    })
}

/// Returns the amounts of one dimension. Requests are whole.
pub(crate) fn points(demand: &[Demand], dimension: usize) -> Vec<Point> {
    let amount = |request: &Demand| request.limited()[dimension];
    demand
        .iter()
        .map(|request| (request.at, amount(request)))
        .collect()
}

/// Returns the peaks of a dimension.
pub(crate) fn peaks(demand: &[Demand], dimension: usize) -> Peaks {
    let mut peaks = Peaks::of(&points(demand, dimension));
    if dimension == 0 {
        // Requests are counted in thousandths.
        peaks.divide(1_000);
    }
    peaks
}

fn pool_plan(
    traffic: &Traffic,
    pool: &PoolDemand,
    all: &[PoolDemand],
    options: &PlanOptions,
    progress: &mut dyn FnMut(&str, f64),
) -> PoolPlan {
    let name = traffic.names.get(pool.pool);
    let demand = &pool.demand;
    let known = match &options.limits {
        Some(table) => table.of(name),
        None => limits::shown(traffic, pool.pool),
    };
    let capacity = evidence(traffic, pool.pool, options.capacity);
    let possible: Vec<Duration> = capacity
        .possible_seconds
        .iter()
        .map(|seconds| Duration::from_secs(*seconds))
        .collect();
    let smallest = possible.last().copied().unwrap_or(CAPACITIES[0]);
    progress("tiers", 0.0);
    let tiers = tiers(demand, name, &possible, options);
    let replayed = known.clone().unwrap_or_else(|| assumed(&tiers, name));
    let mut replays = Vec::new();
    for (index, burst) in possible.iter().enumerate() {
        let quota = Quota {
            limits: replayed.limits,
            burst: *burst,
        };
        let done = index as f64;
        let mut step = |paces: bool| {
            let waits = replay::replay(demand, &quota, paces, |count| {
                let half = if paces { 0.0 } else { 0.5 };
                let share = half + 0.5 * count as f64 / demand.len() as f64;
                progress("replay", 0.2 + 0.4 * (done + share) / possible.len() as f64);
            });
            Summary::of(&waits)
        };
        replays.push(LimitReplay {
            capacity_seconds: burst.as_secs(),
            paced: step(true),
            unpaced: step(false),
        });
    }
    let mut dimensions = Vec::new();
    for dimension in 0..3 {
        progress("needs", 0.6 + 0.3 * dimension as f64 / 3.0);
        let sizes = if options.capacity.is_some() {
            &possible[..]
        } else {
            &CAPACITIES[..]
        };
        let limit = replayed.limits[dimension];
        dimensions.push(dimension_plan(demand, dimension, limit, sizes, options));
    }
    let bound = replays
        .last()
        .and_then(|replay| replay.paced.binding_dimension());
    let binding = bound.unwrap_or_else(|| closest(&dimensions, smallest));
    progress("what-ifs", 0.9);
    let span = (traffic.coverage.span() as f64 / SECOND as f64).max(60.0);
    let dollars = |demand: &[Demand]| {
        let price = money::price(demand, &traffic.names, None, false)?;
        Some(price * 30.0 * 86_400.0 / span)
    };
    let quota = Quota {
        limits: replayed.limits,
        burst: smallest,
    };
    let context = Context {
        traffic,
        pool,
        all,
        quota,
        binding,
        target: options.target,
        per_month: 30.0 * 86_400.0 / span,
    };
    let (found, no_forecast) = match forecast(&points(demand, binding), scaled(&replayed, binding))
    {
        Ok(forecast) => (Some(in_units(forecast, binding)), None),
        Err(reason) => (None, Some(reason)),
    };
    PoolPlan {
        pool: name.to_owned(),
        basis: pool.basis,
        span_seconds: span,
        mark: Mark::exact_if(pool.basis.is_exact()),
        limits: known,
        capacity,
        binding,
        is_bound: bound.is_some(),
        dollars_per_month: dollars(demand),
        what_ifs: options
            .what_ifs
            .iter()
            .map(|what_if| context.what_if(what_if))
            .collect(),
        events: options
            .events
            .iter()
            .map(|event| context.event(event))
            .collect(),
        forecast: found,
        no_forecast,
        replayed,
        dimensions,
        replays,
        tiers,
    }
}

/// Returns the limit in the units of the demand.
fn scaled(known: &Known, dimension: usize) -> Option<u64> {
    let limit = known.limits[dimension]?;
    Some(limit.saturating_mul(bucket::scale(dimension)))
}

pub(crate) fn in_units(mut forecast: Forecast, dimension: usize) -> Forecast {
    let scale = bucket::scale(dimension) as f64;
    let (middle, low, high) = forecast.in_four_weeks;
    forecast.last_week_p95 /= scale;
    forecast.in_four_weeks = (middle / scale, low / scale, high / scale);
    forecast
}

fn evidence(traffic: &Traffic, pool: NameId, chosen: Option<Duration>) -> CapacityEvidence {
    let mut found = CapacityEvidence::of_pool(traffic, pool);
    if let Some(chosen) = chosen {
        found.possible_seconds = vec![chosen.as_secs().max(1)];
    }
    found
}

/// Returns the limits of the lowest tier that is enough with pacing, or those of the highest.
fn assumed(tiers: &[TierRow], pool: &str) -> Known {
    let fits = |row: &&TierRow| row.fits.last().is_some_and(|fit| fit.now.suffices_paced);
    let row = tiers.iter().find(fits).or(tiers.last());
    match row {
        Some(row) => Known {
            limits: row.limits,
            source: format!("assumed: tier {}", row.tier),
            is_assumed: true,
        },
        None => Known {
            limits: [None; 3],
            source: format!("no limits are published for the pool {pool}"),
            is_assumed: true,
        },
    }
}

fn dimension_plan(
    demand: &[Demand],
    dimension: usize,
    limit: Option<u64>,
    sizes: &[Duration],
    options: &PlanOptions,
) -> DimensionPlan {
    let points = points(demand, dimension);
    let above = limit.map(|limit| {
        let limit = limit.saturating_mul(bucket::scale(dimension)) as f64;
        let sums = rolling_minutes(&points);
        [0.5, 0.8, 1.0].map(|share| {
            let below = sums.partition_point(|sum| *sum as f64 <= limit * share);
            (sums.len() - below) as f64 / sums.len().max(1) as f64
        })
    });
    // The hours of a short record are not scaled up to a week.
    let span = points.last().map_or(0, |last| last.0) - points.first().map_or(0, |first| first.0);
    let hours = (span.min(WEEK)) as f64 / (3_600 * SECOND) as f64;
    let need = |burst: &Duration| {
        let least = |target: &Target| least_limit(demand, dimension, *burst, target);
        Need {
            capacity_seconds: burst.as_secs(),
            without_wait: least(&Target::NONE),
            for_target: least(&options.target),
            within_30_seconds: least(&Target {
                share: 1.0,
                wait: Duration::from_secs(30),
            }),
        }
    };
    let needs: Vec<Need> = sizes.iter().map(need).collect();
    DimensionPlan {
        dimension: DIMENSIONS[dimension],
        limit,
        peaks: peaks(demand, dimension),
        time_above: above,
        hours_above_80: above.map(|above| above[1] * hours),
        hours: hour_peaks(&points, bucket::scale(dimension)),
        curves: needs
            .iter()
            .map(|need| curve(demand, dimension, need))
            .collect(),
        needs,
    }
}

/// The hours of the busiest minutes: those of 28 days.
const MOST_HOURS: usize = 28 * 24;

fn hour_peaks(points: &[Point], scale: u64) -> Vec<HourPeak> {
    let Some(first) = points.first() else {
        return Vec::new();
    };
    let start = Time(first.0).floor(MINUTE).0;
    let mut hours: Vec<HourPeak> = Vec::new();
    for (minute, sum) in (0..).zip(minute_sums(points, 0)) {
        let from = Time(start + minute * MINUTE).floor(HOUR);
        let most = sum.div_ceil(scale);
        match hours.last_mut() {
            Some(hour) if hour.from == from => hour.most = hour.most.max(most),
            _ => hours.push(HourPeak { from, most }),
        }
    }
    hours.split_off(hours.len().saturating_sub(MOST_HOURS))
}

/// The points of a curve.
const CURVE_POINTS: u32 = 12;

/// Returns the waits at limits from the half of what the target needs to the one without waits.
pub(crate) fn curve(demand: &[Demand], dimension: usize, need: &Need) -> Curve {
    let burst = Duration::from_secs(need.capacity_seconds);
    let ends = need
        .for_target
        .zip(need.without_wait)
        .filter(|(low, _)| *low > 0);
    let points = ends.map_or(Vec::new(), |(low, high)| {
        let (low, high) = (low as f64 / 2.0, high as f64);
        let ratio = (high / low).max(1.0);
        let limit =
            |step: u32| (low * ratio.powf(f64::from(step) / f64::from(CURVE_POINTS - 1))).ceil();
        let point = |step| {
            let quota = Quota::only(dimension, limit(step) as u64, burst);
            let summary = paced(demand, &quota);
            CurvePoint {
                limit: limit(step) as u64,
                wait_p95: summary.wait_p95,
                wait_max: summary.wait_max,
            }
        };
        (0..CURVE_POINTS).map(point).collect()
    });
    Curve {
        capacity_seconds: need.capacity_seconds,
        points,
    }
}

/// Returns the dimension whose need comes closest to its limit.
fn closest(dimensions: &[DimensionPlan], burst: Duration) -> usize {
    let ratio = |plan: &DimensionPlan| {
        let need = plan
            .needs
            .iter()
            .find(|need| need.capacity_seconds == burst.as_secs());
        let need = need.and_then(|need| need.without_wait).unwrap_or(0) as f64;
        // Without limits, the output counts five times: that is the usual ratio of limits.
        let weight = [1.0 / 400.0, 1.0, 0.2];
        match plan.limit {
            Some(limit) => need / limit.max(1) as f64,
            None => need * weight[0],
        }
    };
    let all = dimensions.iter().enumerate();
    let most = all.max_by(|a, b| ratio(a.1).total_cmp(&ratio(b.1)));
    most.map_or(1, |(index, _)| index)
}

fn tiers(demand: &[Demand], pool: &str, sizes: &[Duration], options: &PlanOptions) -> Vec<TierRow> {
    let rows = TIERS.iter().filter_map(|(tier, name)| {
        let limits = limits::of_tier(*tier, pool)?;
        let fits = sizes.iter().map(|burst| TierFit {
            capacity_seconds: burst.as_secs(),
            now: fit(demand, &limits, *burst, 1.0, &options.target),
            grown: fit(demand, &limits, *burst, options.growth, &options.target),
        });
        Some(TierRow {
            tier: name,
            limits,
            fits: fits.collect(),
        })
    });
    rows.collect()
}

/// Returns the fit of limits for demand that is `growth` times as large, which is that of lower
/// limits for the same demand.
fn fit(
    demand: &[Demand],
    limits: &PoolLimits,
    burst: Duration,
    growth: f64,
    target: &Target,
) -> Fit {
    let quota = Quota {
        limits: limits.map(|limit| limit.map(|limit| (limit as f64 / growth) as u64)),
        burst,
    };
    let waits = |paces| {
        let mut waits = Vec::with_capacity(demand.len());
        bucket::replay(demand, &quota, paces, |_, wait| {
            waits.push(wait);
            true
        });
        Summary::of(&waits)
    };
    let (paced, unpaced) = (waits(true), waits(false));
    Fit {
        wait_p95: paced.wait_p95,
        wait_max: paced.wait_max,
        refused: unpaced.refused,
        suffices_paced: target.is_met(demand, &quota),
        suffices_unpaced: unpaced.refused <= FEW_REFUSED,
    }
}

fn warnings(traffic: &Traffic, pools: &[PoolPlan], options: &PlanOptions) -> Vec<String> {
    let mut warnings = crate::verdict::coverage_warnings(&traffic.coverage);
    for plan in pools {
        let (basis, pool) = (&plan.basis, &plan.pool);
        warnings.extend(
            options
                .limits
                .as_ref()
                .and_then(|table| table.missing(pool)),
        );
        if basis.is_understated() {
            warnings.push(format!(
                "pool {pool}: {} of {} calls were not answered, so the need is understated",
                crate::text::exact(basis.unanswered + basis.unlinked_failures),
                crate::text::exact(basis.calls + basis.unlinked_failures)
            ));
        }
        if basis.has_sums {
            warnings.push(format!(
                "pool {pool}: sums hide bursts, so needs are lower bounds"
            ));
        }
        if basis.unmeasured > 0 {
            warnings.push(format!(
                "pool {pool}: {} calls without tokens",
                crate::text::exact(basis.unmeasured)
            ));
        }
    }
    warnings
}
