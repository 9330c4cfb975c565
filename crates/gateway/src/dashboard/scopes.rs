//! The pools of limits: their use, trend and queues.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use serde::Serialize;
use tower_claude::{
    core::Dimension,
    limiter::{ClassSnapshot, DimensionSnapshot, ScopeSnapshot},
};

use super::{
    forecast::{Forecast, forecast},
    samples::Samples,
};

/// The dimensions that are charged per minute.
const CHARGED: [Dimension; 3] = [
    Dimension::Requests,
    Dimension::InputTokens,
    Dimension::OutputTokens,
];

/// The used part of a bucket below which it is not the reason why requests wait.
const HALF: f64 = 0.5;

/// A pool of limits.
#[derive(Debug, Serialize)]
pub(super) struct ScopeState {
    pub(super) name: String,
    pub(super) in_flight: u64,
    /// The remaining pause after a 429 in seconds.
    pub(super) paused: f64,
    pub(super) queues: Vec<Queue>,
    pub(super) limits: Vec<Limit>,
}

/// The requests of one priority that wait.
#[derive(Debug, Serialize)]
pub(super) struct Queue {
    pub(super) priority: &'static str,
    pub(super) queued: usize,
    /// The estimated wait of a new request in seconds.
    pub(super) wait: f64,
}

/// A limit of a pool.
#[derive(Debug, Serialize)]
pub(super) struct Limit {
    /// The dimension in words.
    pub(super) dimension: &'static str,
    /// The limit per minute, at once, or per day.
    pub(super) limit: u64,
    pub(super) unit: &'static str,
    /// The amount that can be used at once. Negative in debt.
    pub(super) left: i64,
    pub(super) capacity: u64,
    /// The amount used in the last minute, at once, or today.
    pub(super) used: u64,
    /// The used part of the limit.
    pub(super) share: f64,
    /// The share at points 10 s apart, the newest last.
    pub(super) trend: Vec<f64>,
    pub(super) forecast: Forecast,
    /// True if headers or 429s named the limit, false if the configuration did.
    pub(super) learned: bool,
    /// True for the limit of the pool that is used up first.
    pub(super) binds: bool,
}

/// Returns the scopes, the fullest first.
pub(super) fn scopes(scopes: Vec<(Arc<str>, ScopeSnapshot)>, samples: &Samples) -> Vec<ScopeState> {
    let merged = merged(scopes);
    let all = merged.iter();
    let mut all: Vec<_> = all
        .map(|(name, scope)| ScopeState::new(name, scope, samples))
        .collect();
    all.sort_by_key(|scope| Reverse(scope.use_in_percent()));
    all
}

/// Adds up the scopes with the same label, for example those of several credentials without names.
fn merged(scopes: Vec<(Arc<str>, ScopeSnapshot)>) -> BTreeMap<Arc<str>, ScopeSnapshot> {
    let mut all: BTreeMap<Arc<str>, ScopeSnapshot> = BTreeMap::new();
    for (label, scope) in scopes {
        let scope = with_emptiest_limits(scope);
        let Some(sum) = all.get_mut(&label) else {
            all.insert(label, scope);
            continue;
        };
        sum.in_flight += scope.in_flight;
        sum.paused_for = sum.paused_for.max(scope.paused_for);
        for class in scope.classes {
            let same = |other: &&mut ClassSnapshot| other.priority == class.priority;
            match sum.classes.iter_mut().find(same) {
                Some(known) => {
                    known.queued += class.queued;
                    known.estimated_wait = known.estimated_wait.max(class.estimated_wait);
                }
                None => sum.classes.push(class),
            }
        }
        for limit in scope.dimensions {
            let same = |other: &&mut DimensionSnapshot| other.dimension == limit.dimension;
            match sum.dimensions.iter_mut().find(same) {
                Some(known) => {
                    known.limit += limit.limit;
                    known.capacity += limit.capacity;
                    known.available = known.available.saturating_add(limit.available);
                    known.learned |= limit.learned;
                }
                None => sum.dimensions.push(limit),
            }
        }
    }
    all
}

/// Keeps the emptiest limit of each dimension, if there are several, for example one per second.
fn with_emptiest_limits(mut scope: ScopeSnapshot) -> ScopeSnapshot {
    let left = |limit: &DimensionSnapshot| limit.available as f64 / limit.capacity.max(1) as f64;
    scope.dimensions.sort_by(|a, b| {
        let by_dimension = a.dimension.cmp(&b.dimension);
        by_dimension.then(left(a).total_cmp(&left(b)))
    });
    scope.dimensions.dedup_by_key(|limit| limit.dimension);
    scope
}

impl ScopeState {
    fn new(name: &str, scope: &ScopeSnapshot, samples: &Samples) -> Self {
        let limits = scope.dimensions.iter();
        let mut limits: Vec<_> = limits
            .map(|limit| Limit::new(name, limit, samples))
            .collect();
        let queues: Vec<_> = scope
            .classes
            .iter()
            .map(|class| Queue {
                priority: class.priority.label(),
                queued: class.queued,
                wait: class.estimated_wait.as_secs_f64(),
            })
            .collect();
        // While requests wait, the emptiest bucket is the reason, unless a 429 or another limit is.
        let waits = queues.iter().any(|queue: &Queue| queue.queued > 0);
        let by_level = waits && scope.paused_for.is_zero();
        let emptiness = |limit: &Limit| 1.0 - limit.left as f64 / limit.capacity.max(1) as f64;
        let pressure = |limit: &Limit| match by_level {
            true => emptiness(limit),
            false => limit.share,
        };
        let binding = limits
            .iter_mut()
            .max_by(|a, b| pressure(a).total_cmp(&pressure(b)));
        if let Some(limit) = binding.filter(|limit| pressure(limit) > 0.0) {
            limit.binds = true;
            if by_level && emptiness(limit) > HALF {
                limit.forecast = Forecast::Full;
            }
        }
        Self {
            name: name.to_owned(),
            in_flight: scope.in_flight,
            paused: scope.paused_for.as_secs_f64(),
            queues,
            limits,
        }
    }
}

impl ScopeState {
    /// Returns the use of the fullest limit.
    fn use_in_percent(&self) -> u64 {
        let shares = self.limits.iter().map(|limit| limit.share);
        (100.0 * shares.fold(0.0, f64::max)) as u64
    }

    /// Returns the number of requests that wait, and the longest estimated wait in seconds.
    pub(super) fn waiting(&self) -> (usize, f64) {
        let queues = self.queues.iter().filter(|queue| queue.queued > 0);
        queues.fold((0, 0.0), |(queued, wait), queue| {
            (queued + queue.queued, f64::max(wait, queue.wait))
        })
    }
}

impl Limit {
    fn new(scope: &str, limit: &DimensionSnapshot, samples: &Samples) -> Self {
        let dimension = limit.dimension;
        let find = |metric| {
            let labels = [("scope", scope), ("dimension", dimension.label())];
            samples.find(metric, &labels)
        };
        let most = limit.limit.max(1) as f64;
        let is_charged = CHARGED.contains(&dimension);
        let (used, trend): (f64, Vec<f64>) = if is_charged {
            let charged = find("tower_claude_charged_total");
            let of = |ago| charged.map_or(0.0, |series| series.minute_until(ago));
            (of(0), samples.points().map(|ago| of(ago) / most).collect())
        } else {
            let series = (find("tower_claude_level"), find("tower_claude_capacity"));
            let of = |ago| match series {
                (Some(level), Some(capacity)) => {
                    let capacity = capacity.at(ago);
                    (capacity - level.at(ago)).max(0.0) / capacity.max(1.0)
                }
                _ => 0.0,
            };
            let capacity = i64::try_from(limit.capacity).unwrap_or(i64::MAX);
            let used = capacity.saturating_sub(limit.available).max(0);
            (used as f64, samples.points().map(of).collect())
        };
        Self {
            dimension: dimension.as_str(),
            limit: limit.limit,
            unit: match dimension {
                Dimension::Concurrency => "at once",
                Dimension::TokensPerDay => "a day",
                _ => "a minute",
            },
            left: limit.available,
            capacity: limit.capacity,
            used: used as u64,
            share: used / most,
            forecast: forecast(&trend),
            trend,
            learned: limit.learned,
            binds: false,
        }
    }
}
