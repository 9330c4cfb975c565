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
    /// Time and values of a change of the limits.
    pub(crate) change: Option<(u64, Quota)>,
    /// Time and kind of a fault.
    pub(crate) fault: Option<(u64, ClockFault)>,
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

    /// Returns true if requests wait in the oracle's queue.
    pub(crate) fn has_oracle_queue(&self) -> bool {
        self.clients
            .iter()
            .any(|party| party.kind == StrategyKind::Oracle)
    }

    /// Returns the requests and tokens that the limits allow during the measurement.
    pub(crate) fn allowance(&self) -> [f64; 3] {
        let (start, end) = (self.warm_up, self.end());
        let (at, after) = self.change.unwrap_or((end, self.quota));
        let at = at.clamp(start, end);
        std::array::from_fn(|index| {
            let minutes = |nanos: u64| nanos as f64 / 60e9;
            self.quota.0[index] as f64 * minutes(at - start)
                + after.0[index] as f64 * minutes(end - at)
        })
    }
}
