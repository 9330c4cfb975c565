//! The demand behind recorded traffic: what callers wanted, without waits and retries.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::{
    time::SECOND,
    traffic::{NameId, Outcome, Row, Traffic},
};

/// The pieces into which a sum is divided: one for each second.
const PIECE: i64 = SECOND;

/// The most pieces of one sum.
const MOST_PIECES: i64 = 3_600;

/// One call that arrived, or a part of a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The arrival, in microseconds.
    pub at: i64,
    /// The number of requests, in thousandths, because parts of a sum have fractions.
    pub millirequests: u64,
    /// Uncached input.
    pub input: u64,
    /// Input read from the cache.
    pub cache_read: u64,
    /// Input written to the cache.
    pub cache_write: u64,
    /// Output.
    pub output: u64,
    /// The tag.
    pub tag: NameId,
    /// The model.
    pub model: NameId,
}

impl Demand {
    /// Returns the amounts that the limits count: thousandths of requests, input and output.
    #[must_use]
    pub const fn limited(&self) -> [u64; 3] {
        let input = self.input.saturating_add(self.cache_write);
        [self.millirequests, input, self.output]
    }
}

/// The basis of the demand of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Basis {
    /// The calls, or the requests of sums.
    pub calls: u64,
    /// The calls that were never answered. Their tokens may not be known.
    pub unanswered: u64,
    /// The attempts after the first of a call, which are no demand.
    pub retries: u64,
    /// The failed attempts of calls that cannot be distinguished, which are left out.
    pub unlinked_failures: u64,
    /// True if sums were spread evenly, so that bursts within them are not seen.
    pub has_sums: bool,
    /// True if tokens are estimates.
    pub has_estimates: bool,
    /// The calls without tokens.
    pub unmeasured: u64,
}

impl Basis {
    /// Returns true if more than one call of a hundred was never answered, so that the need is
    /// understated.
    #[must_use]
    pub const fn is_understated(&self) -> bool {
        (self.unanswered + self.unlinked_failures) * 100 > self.calls
    }

    /// Returns true if all figures about the past are exact.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        !self.has_sums && !self.has_estimates && self.unmeasured == 0 && !self.is_understated()
    }
}

/// The demand of one pool, in the order of arrival.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolDemand {
    /// The pool.
    pub pool: NameId,
    /// The demand.
    pub demand: Vec<Demand>,
    /// Its basis.
    pub basis: Basis,
}

impl PoolDemand {
    /// Finds the demand of a pool.
    ///
    /// The attempts of a call are one demand, at the arrival of the call and with the tokens of the
    /// attempt that was answered. Without an id of the call, answered attempts are the demand.
    #[must_use]
    pub fn of(traffic: &Traffic, pool: NameId) -> Self {
        let mut found = Self {
            pool,
            demand: Vec::new(),
            basis: Basis::default(),
        };
        // The index of each call in the list, and true if it was answered.
        let mut calls: HashMap<u64, (usize, bool), foldhash::fast::FixedState> = HashMap::default();
        let mut sums: BTreeMap<_, Row> = BTreeMap::new();
        for row in traffic.rows.iter().filter(|row| row.pool == pool) {
            found.basis.has_estimates |= row.is_estimated;
            if row.is_sum {
                // Sums by key or workspace of one period are one sum, which saves most pieces.
                let period = (row.start, row.end, row.tag, row.model);
                sums.entry(period)
                    .and_modify(|sum| add(sum, row))
                    .or_insert(*row);
            } else if row.call == 0 {
                found.add_unlinked(row);
            } else {
                found.add_attempt(row, &mut calls);
            }
        }
        for sum in sums.values() {
            found.add_sum(sum);
        }
        found.basis.unanswered = calls.values().filter(|(_, answered)| !answered).count() as u64;
        found.demand.sort_by_key(|demand| demand.at);
        found
    }

    fn add_sum(&mut self, row: &Row) {
        self.basis.has_sums = true;
        self.basis.calls += u64::from(row.requests);
        let length = (row.end - row.start).max(1);
        let pieces = (length / PIECE).clamp(1, MOST_PIECES);
        // The part of piece `n` is the difference of two prefixes, so that no token is lost.
        let part = |amount: u64, n: i64| {
            let prefix = |n: i64| u128::from(amount) * n as u128 / pieces as u128;
            (prefix(n + 1) - prefix(n)) as u64
        };
        for n in 0..pieces {
            self.demand.push(Demand {
                at: row.start + (i128::from(length) * i128::from(n) / i128::from(pieces)) as i64,
                millirequests: part(u64::from(row.requests) * 1_000, n),
                input: part(row.input, n),
                cache_read: part(row.cache_read, n),
                cache_write: part(row.cache_write, n),
                output: part(row.output, n),
                tag: row.tag,
                model: row.model,
            });
        }
    }

    fn add_unlinked(&mut self, row: &Row) {
        self.basis.retries += u64::from(row.attempt > 1);
        if row.outcome.is_refusal() {
            self.basis.unlinked_failures += 1;
            return;
        }
        if row.outcome != Outcome::Invalid {
            self.push(row);
        }
    }

    fn add_attempt(
        &mut self,
        row: &Row,
        calls: &mut HashMap<u64, (usize, bool), foldhash::fast::FixedState>,
    ) {
        let is_answered = !row.outcome.is_refusal();
        if let Some((index, answered)) = calls.get_mut(&row.call) {
            self.basis.retries += 1;
            if !*answered && !row.is_unmeasured {
                let known = demand(row);
                let at = self.demand[*index].at;
                self.demand[*index] = Demand { at, ..known };
            }
            *answered |= is_answered;
            return;
        }
        if row.outcome == Outcome::Invalid {
            return;
        }
        calls.insert(row.call, (self.demand.len(), is_answered));
        self.push(row);
    }

    fn push(&mut self, row: &Row) {
        self.basis.calls += 1;
        self.basis.unmeasured += u64::from(row.is_unmeasured && !row.outcome.is_refusal());
        self.demand.push(demand(row));
    }
}

/// Adds the amounts of a sum to another of the same period.
const fn add(sum: &mut Row, row: &Row) {
    sum.requests = sum.requests.saturating_add(row.requests);
    sum.input = sum.input.saturating_add(row.input);
    sum.cache_read = sum.cache_read.saturating_add(row.cache_read);
    sum.cache_write = sum.cache_write.saturating_add(row.cache_write);
    sum.output = sum.output.saturating_add(row.output);
}

fn demand(row: &Row) -> Demand {
    Demand {
        at: row.start,
        millirequests: u64::from(row.requests) * 1_000,
        input: row.input,
        cache_read: row.cache_read,
        cache_write: row.cache_write,
        output: row.output,
        tag: row.tag,
        model: row.model,
    }
}
