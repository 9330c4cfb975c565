//! Setup of one run: clients, server and duration.

use std::time::Duration;

use crate::{
    client::StrategyKind,
    workload::{Quota, Source},
};

/// Server behaviour that the API does not document. Both values are simulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerOptions {
    /// A rejected request counts against the requests per minute.
    pub(crate) refused_cost: bool,
    /// Headers have the levels at the response, not at the admission.
    pub(crate) at_response: bool,
}

/// Enforcement of the requests per minute, beside the buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Enforcement {
    /// By the buckets alone.
    #[default]
    Buckets,
    /// Also by a bucket of this capacity, as the time of a full refill, that no header shows.
    HiddenBucket(Duration),
    /// By windows of a minute that begin at full minutes. Headers show the window.
    FixedWindow,
    /// By the last minute. Headers show it.
    SlidingWindow,
}

/// Contents of the rate-limit headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum HeaderMode {
    #[default]
    True,
    /// There are none.
    Silent,
    /// The true limits, of which always nothing remains.
    NothingRemains,
}

/// A fault of some clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClockFault {
    /// The server's clock jumps by these seconds.
    Date(i64),
    /// Reset timestamps are wrong by these seconds, but `Date` is correct.
    Reset(i64),
    /// The first client is suspended for this time. Its events are delayed.
    Standstill(u64),
    /// Like `Standstill`, and its clock stops as well.
    ClockStop(u64),
}

/// Specification of one client process.
#[derive(Clone, Debug)]
pub(crate) struct ClientSpec {
    pub(crate) kind: StrategyKind,
    /// Configured limits.
    pub(crate) told: Quota,
    pub(crate) sources: Vec<Source>,
    /// True if its requests count in the results. False for a foreign client.
    pub(crate) counted: bool,
}

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) quota: Quota,
    /// Capacity of the server's buckets, as the time of a full refill.
    pub(crate) burst: Duration,
    pub(crate) switches: ServerOptions,
    /// Length of the warm-up, which is not measured.
    pub(crate) warm_up: u64,
    /// Length of the measurement after the warm-up.
    pub(crate) measured: u64,
    pub(crate) clients: Vec<ClientSpec>,
    /// Number of scopes to which the clients belong in turn. Scopes share nothing, so each has a
    /// server and a run of its own.
    pub(crate) scopes: usize,
    /// Times and values of changes of the limits, in order.
    pub(crate) changes: Vec<(u64, Quota)>,
    pub(crate) enforcement: Enforcement,
    pub(crate) headers: HeaderMode,
    /// Time and kind of a fault.
    pub(crate) fault: Option<(u64, ClockFault)>,
    /// Input of every request, if it is not random.
    pub(crate) input: Option<u32>,
    /// Relative standard error of input estimates.
    pub(crate) estimate_error: f64,
    /// True to compare the client's levels with the server's at every response.
    pub(crate) probe: bool,
    /// Time from the start for which samples are kept.
    pub(crate) sample: u64,
}

impl Setup {
    pub(crate) fn end(&self) -> u64 {
        self.warm_up + self.measured
    }

    /// Returns the runs of all scopes.
    pub(crate) fn of_scopes(&self) -> impl Iterator<Item = Self> {
        (0..self.scopes).map(|scope| {
            let clients = self.clients.iter().skip(scope).step_by(self.scopes);
            Self {
                seed: self.seed.wrapping_add((scope as u64) << 32),
                clients: clients.cloned().collect(),
                ..self.clone()
            }
        })
    }

    /// Returns true if requests wait in the oracle's queue.
    pub(crate) fn has_oracle_queue(&self) -> bool {
        self.clients
            .iter()
            .any(|party| party.kind == StrategyKind::Oracle)
    }

    /// Returns the requests and tokens that the limits allow during the measurement.
    pub(crate) fn allowance(&self) -> [f64; 3] {
        let end = self.end();
        let mut from = (0, self.quota);
        let mut allowed = [0.0; 3];
        for to in self.changes.iter().copied().chain([(end, self.quota)]) {
            let passed = to.0.clamp(self.warm_up, end) - from.0.clamp(self.warm_up, end);
            for (allowed, limit) in allowed.iter_mut().zip(from.1.0) {
                *allowed += limit as f64 * passed as f64 / 60e9;
            }
            from = to;
        }
        allowed
    }
}
