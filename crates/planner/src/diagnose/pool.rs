//! The search of the causes in the traffic of one pool.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use super::cause::{Cause, SLOW};
use crate::{
    limits::PoolLimits,
    mark::Mark,
    time::{MINUTE, SECOND},
    traffic::{NameId, Outcome, Row, Traffic},
};

/// The share of retries from which on they are a storm.
const STORM: f64 = 0.2;

/// The least difference from the shown level, as a share of the limit, that shows other use.
const FOREIGN: f64 = 0.1;

/// The rounding of token counts in headers, twice.
const ROUNDING: f64 = 2_000.0;

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
pub(super) struct PoolDiagnosis<'a> {
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
    in_flight: BinaryHeap<Reverse<i64>>,
    /// The attempts of the last minute: the time, and true for a retry.
    recent: VecDeque<(i64, bool)>,
    retries: usize,
    shown: Option<ShownUse>,
    last_refusal: Option<(i64, Cause)>,
}

impl<'a> PoolDiagnosis<'a> {
    pub(super) fn new(traffic: &'a Traffic, pool: NameId, limits: PoolLimits) -> Self {
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
            in_flight: BinaryHeap::new(),
            recent: VecDeque::new(),
            retries: 0,
            shown: None,
            last_refusal: None,
        }
    }

    /// Returns the rejected and slow rows with their causes, in the order of sending.
    pub(super) fn causes(mut self) -> Vec<(Row, Cause, Mark)> {
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
        while self.in_flight.peek().is_some_and(|end| end.0 <= row.sent) {
            self.in_flight.pop();
        }
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
            self.in_flight.push(Reverse(row.end));
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
