//! The server's accounting without a clock, a runtime or a socket. Every call takes the time in
//! nanoseconds since the server's start, so that a simulator can use virtual time. An earlier `now`
//! than in a previous call counts as the later one.
//!
//! The rules are as the API documents them: continuous refill, admission within all limits or none,
//! input estimated at admission and corrected later, free cache reads, output counted as it is
//! produced. [`PromptCache`] determines the reads.

mod bucket;
mod cache;
mod group;
mod limits;
mod ramp;

use std::collections::HashMap;
use std::sync::Arc;

pub use self::cache::{CacheBlock, CacheMarker, CacheTokens, CacheWrite, MarkerError, PromptCache};
use self::group::Group;
pub use self::group::{Charge, Dimension, GaugeSet, Reading, Rejected};
pub use self::limits::GroupLimits;
pub use self::ramp::Ramp;
pub use tower_claude_wire::CacheTtl;

/// Id of an admitted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdmissionId(u64);

#[derive(Clone, Copy, Debug)]
struct OpenRequest {
    group: usize,
    input: u64,
    max_output: u64,
    output: u64,
}

/// Accounting of all rate groups of one server.
///
/// ```
/// use tower_claude_fake_claude::model::{Accounting, Charge, Dimension, GroupLimits};
///
/// let mut accounting = Accounting::new(GroupLimits::new().with_input_tokens_per_minute(60_000));
/// let id = accounting.admit(0, "sonnet-5.5", Charge { input_estimate: 60_000, max_output: 0 }).unwrap();
/// let refused = accounting.admit(0, "sonnet-5.5", Charge { input_estimate: 5_000, max_output: 0 }).unwrap_err();
/// assert_eq!((refused.dimension, refused.retry_after.as_secs()), (Dimension::InputTokens, 5));
/// // Most of the first one's input turns out to be read from the cache.
/// accounting.correct_input(0, id, 10_000);
/// accounting.finish(0, id);
/// assert!(accounting.admit(0, "sonnet-5.5", Charge { input_estimate: 5_000, max_output: 0 }).is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct Accounting {
    default: GroupLimits,
    limits: HashMap<Arc<str>, GroupLimits>,
    index: HashMap<Arc<str>, usize>,
    groups: Vec<Group>,
    open: HashMap<AdmissionId, OpenRequest>,
    next: u64,
    rejected_costs_request: bool,
}

impl Accounting {
    /// Creates the accounting with the limits of every group. All buckets start full.
    #[must_use]
    pub fn new(limits: GroupLimits) -> Self {
        Self {
            default: limits,
            limits: HashMap::new(),
            index: HashMap::new(),
            groups: Vec::new(),
            open: HashMap::new(),
            next: 0,
            rejected_costs_request: false,
        }
    }

    /// Sets the limits of one group.
    #[must_use]
    pub fn with_group(mut self, group: &str, limits: GroupLimits) -> Self {
        self.limits.insert(Arc::from(group), limits);
        self
    }

    /// If true, a rejected request counts against the requests per minute. The API does not
    /// document it. Off by default.
    #[must_use]
    pub fn with_rejected_costs_request(mut self, costs: bool) -> Self {
        self.rejected_costs_request = costs;
        self
    }

    /// Admits a request within all limits, or charges nothing.
    ///
    /// # Errors
    /// Returns the exceeded limit and the time until it has room.
    pub fn admit(
        &mut self,
        now: u64,
        group: &str,
        charge: Charge,
    ) -> Result<AdmissionId, Rejected> {
        let index = self.group(now, group);
        if let Err(rejected) = self.groups[index].admit(now, charge) {
            if self.rejected_costs_request {
                self.groups[index].charge_rejected();
            }
            return Err(rejected);
        }
        let id = AdmissionId(self.next);
        self.next += 1;
        self.open.insert(
            id,
            OpenRequest {
                group: index,
                input: charge.input_estimate,
                max_output: charge.max_output,
                output: 0,
            },
        );
        Ok(id)
    }

    /// Replaces the charged input by `actual` tokens (without cache reads). May be called again.
    /// Does nothing for a finished request.
    pub fn correct_input(&mut self, now: u64, id: AdmissionId, actual: u64) {
        if let Some(open) = self.open.get_mut(&id) {
            self.groups[open.group].correct_input(now, open.input, actual);
            open.input = actual;
        }
    }

    /// Charges `tokens` of output. Does nothing for a finished request.
    pub fn produce(&mut self, now: u64, id: AdmissionId, tokens: u64) {
        if let Some(open) = self.open.get_mut(&id) {
            open.output += tokens;
            self.groups[open.group].produce(now, tokens);
        }
    }

    /// Ends a request. It no longer counts as concurrent, and its tokens stay charged. Further
    /// calls do nothing.
    pub fn finish(&mut self, now: u64, id: AdmissionId) {
        if let Some(open) = self.open.remove(&id) {
            self.groups[open.group].finish(now, open.max_output, open.output);
        }
    }

    /// Returns the levels of a group.
    pub fn gauges(&mut self, now: u64, group: &str) -> GaugeSet {
        let index = self.group(now, group);
        self.groups[index].gauges(now)
    }

    /// Returns the number of admitted requests that are not finished, over all groups.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.open.len()
    }

    fn group(&mut self, now: u64, name: &str) -> usize {
        if let Some(index) = self.index.get(name) {
            return *index;
        }
        let limits = self.limits.get(name).unwrap_or(&self.default);
        self.groups.push(Group::new(limits, now));
        self.index.insert(Arc::from(name), self.groups.len() - 1);
        self.groups.len() - 1
    }
}
