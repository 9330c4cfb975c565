//! One run: who is there, what the server does, for how long.

use std::time::Duration;

use crate::{
    client::Kind,
    workload::{Quota, Source},
};

/// What the API does not document; both settings are run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Switches {
    /// A refused request costs one of the requests per minute.
    pub(crate) refused_cost: bool,
    /// Headers show the levels when the response leaves, not when the request was admitted.
    pub(crate) at_response: bool,
}

/// A fault of some clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The server's clock jumps, so many seconds.
    Date(i64),
    /// Reset stamps are off by so many seconds; `Date` is not.
    Reset(i64),
    /// The first client stands still for so long; what comes for it waits.
    Standstill(u64),
    /// The same, and its clock stands still with it.
    ClockStop(u64),
}

/// One client process.
#[derive(Clone, Debug)]
pub(crate) struct Party {
    pub(crate) kind: Kind,
    /// The limits it was told.
    pub(crate) told: Quota,
    pub(crate) sources: Vec<Source>,
    /// Whether its figures count; those of somebody else's do not.
    pub(crate) counted: bool,
}

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) quota: Quota,
    /// How long a refill the server's buckets hold.
    pub(crate) burst: Duration,
    pub(crate) switches: Switches,
    /// Nothing counts before this.
    pub(crate) warm_up: u64,
    /// How long everything counts after that.
    pub(crate) measured: u64,
    pub(crate) parties: Vec<Party>,
    /// Other limits from a time on.
    pub(crate) change: Option<(u64, Quota)>,
    /// A fault from a time on.
    pub(crate) fault: Option<(u64, Fault)>,
    /// Standard error of input estimates, relative.
    pub(crate) estimate_error: f64,
    /// Compare the first client's levels with the server's at every answer.
    pub(crate) probe: bool,
    /// Keep a picture of so much time from the start.
    pub(crate) sample: u64,
}

impl Setup {
    pub(crate) fn end(&self) -> u64 {
        self.warm_up + self.measured
    }

    /// Whether requests wait at the server's door.
    pub(crate) fn has_door(&self) -> bool {
        self.parties.iter().any(|party| party.kind == Kind::Oracle)
    }

    /// What the limits allow from the end of the warm-up on.
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
