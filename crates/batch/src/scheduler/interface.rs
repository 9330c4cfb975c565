//! The calls, requests and outcomes at the boundary of a scheduler.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::time::Instant;
use tower_claude_core::event::BatchDecision;
use tower_claude_wire::Money;

use crate::id::{BatchNumber, Key, PoolId};

/// The settings of a [`Scheduler`](super::Scheduler).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SchedulerSettings {
    /// The longest time in the queue, five minutes by default. A tenth of the call's tolerance if
    /// that is shorter.
    pub max_age: Duration,
    /// The most calls of a batch. 100,000 by default.
    pub max_items: usize,
    /// The most bytes of a batch. 32 MiB by default.
    pub max_bytes: usize,
    /// The most calls in the queue. 200,000 by default.
    pub max_queued: usize,
    /// The most bytes in the queue. 1 GiB by default.
    pub max_queued_bytes: usize,
    /// The time that an ordinary call needs. Two minutes by default.
    pub live_time: Duration,
    /// The time after a delivery for which the same question gets the same answer after a restart.
    /// One hour by default.
    pub redelivery: Duration,
    /// True if callers can come back after a restart, so that batches without callers are kept.
    /// False by default.
    pub persistent: bool,
}

impl Default for SchedulerSettings {
    fn default() -> Self {
        Self {
            max_age: Duration::from_secs(300),
            max_items: 100_000,
            max_bytes: 32 * 1024 * 1024,
            max_queued: 200_000,
            max_queued_bytes: 1024 * 1024 * 1024,
            live_time: Duration::from_secs(120),
            redelivery: Duration::from_secs(3_600),
            persistent: false,
        }
    }
}

/// A call that waits in a [`Scheduler`](super::Scheduler).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(super) u64);

/// A prefix of a prompt that ends at a marker for the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharedPrefix {
    /// The hash of its content.
    pub hash: u64,
    /// Its estimated length in tokens.
    pub tokens: u64,
    /// True if the marker asks for a lifetime of one hour.
    pub lasts_an_hour: bool,
}

impl SharedPrefix {
    /// Creates a prefix.
    #[must_use]
    pub const fn new(hash: u64, tokens: u64, lasts_an_hour: bool) -> Self {
        Self {
            hash,
            tokens,
            lasts_an_hour,
        }
    }
}

/// A call that can wait.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BatchCall {
    /// The calls with which it may share a batch.
    pub pool: PoolId,
    /// Its question.
    pub key: Key,
    /// Its model.
    pub model: Arc<str>,
    /// The body of its request, a JSON object.
    pub body: Bytes,
    /// The longest prefix with a marker, if it is long enough for the cache.
    pub prefix: Option<SharedPrefix>,
    /// The time at which its answer must be there.
    pub deadline: Instant,
}

impl BatchCall {
    /// Creates a call without a marked prefix.
    #[must_use]
    pub const fn new(
        pool: PoolId,
        key: Key,
        model: Arc<str>,
        body: Bytes,
        deadline: Instant,
    ) -> Self {
        Self {
            pool,
            key,
            model,
            body,
            prefix: None,
            deadline,
        }
    }

    /// Sets the longest prefix with a marker.
    #[must_use]
    pub const fn with_prefix(mut self, prefix: Option<SharedPrefix>) -> Self {
        self.prefix = prefix;
        self
    }
}

/// The place of a new call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Placement {
    /// The call waits until `live_at`, and must be sent as an ordinary call then.
    Waits {
        /// The call.
        ticket: Ticket,
        /// The time at which an ordinary call must be sent to be answered in time.
        live_at: Instant,
    },
    /// The call must be sent as an ordinary call now, for this reason.
    Live(&'static str),
}

/// A request that is due.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Action {
    /// Create a batch. Report to [`Scheduler::on_created`](super::Scheduler::on_created).
    Create {
        /// The batch.
        batch: BatchNumber,
        /// The pool of its calls.
        pool: PoolId,
        /// The `custom_id` and the body of each call.
        items: Vec<(String, Bytes)>,
    },
    /// Retrieve the state of a batch. Report to
    /// [`Scheduler::on_status`](super::Scheduler::on_status).
    Retrieve {
        /// The batch.
        batch: BatchNumber,
        /// The pool of its calls.
        pool: PoolId,
        /// Its id.
        id: String,
    },
    /// Cancel a batch. There is nothing to report.
    Cancel {
        /// The pool of its calls.
        pool: PoolId,
        /// Its id.
        id: String,
    },
    /// List the batches that were created since. Report to
    /// [`Scheduler::on_list`](super::Scheduler::on_list).
    List {
        /// The pool.
        pool: PoolId,
        /// The time from which batches are needed.
        since: SystemTime,
    },
    /// Read the results of a batch. Report each to
    /// [`Scheduler::on_line`](super::Scheduler::on_line) and the end to
    /// [`Scheduler::on_results`](super::Scheduler::on_results).
    Results {
        /// The batch.
        batch: BatchNumber,
        /// The pool of its calls.
        pool: PoolId,
        /// Its id.
        id: String,
    },
}

/// The outcome of [`Action::Create`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Creation {
    /// The batch exists.
    Created {
        /// Its id.
        id: String,
    },
    /// The request was certainly not processed, and another one may be.
    NotTaken {
        /// The wait before another attempt.
        retry_after: Option<Duration>,
    },
    /// The batch is too large.
    TooLarge,
    /// The API takes no batches, or not this one.
    Rejected,
    /// The credential is not accepted or not funded.
    Denied,
    /// The batch may exist or not.
    Ambiguous,
}

/// The outcome of [`Action::Retrieve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// The batch has not ended.
    Running,
    /// The batch has ended.
    Ended,
    /// There is no such batch.
    NotFound,
    /// The credential is not accepted or not funded.
    Denied,
    /// The request failed.
    Failed {
        /// The wait before another attempt.
        retry_after: Option<Duration>,
    },
}

/// A batch in the list of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listed {
    /// The id.
    pub id: String,
    /// The age, by the clock of the server.
    pub age: Duration,
    /// True if it has ended.
    pub ended: bool,
    /// The number of its requests.
    pub total: u64,
}

impl Listed {
    /// Creates an entry.
    #[must_use]
    pub const fn new(id: String, age: Duration, ended: bool, total: u64) -> Self {
        Self {
            id,
            age,
            ended,
            total,
        }
    }
}

/// The result of one call of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ItemOutcome {
    /// A message.
    Succeeded {
        /// Its tokens.
        tokens: u64,
        /// Its cost.
        cost: Money,
        /// The difference to the cost of an ordinary call.
        saved: Money,
        /// The input tokens that were read from the cache, and those written to it.
        cache: (u64, u64),
    },
    /// An error that is returned to its caller.
    Failed,
    /// An error of the credential or of its funding, which is returned to all callers.
    Denied,
    /// An error that an ordinary call may not have.
    Temporary,
    /// Not processed in time.
    Expired,
    /// Cancelled.
    Canceled,
}

/// The use of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LineUse {
    /// It is the answer of this call. Report to
    /// [`Scheduler::delivered`](super::Scheduler::delivered) when its caller has it.
    Deliver(Ticket),
    /// No caller waits for it, or not any more.
    Skip,
    /// The batch is not the one that was looked for, so the other results are of no use.
    OtherBatch,
}

/// The end of reading results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResultsEnd {
    /// All results were read.
    Complete,
    /// There are no results.
    NotFound,
    /// The credential is not accepted or not funded.
    Denied,
    /// Reading failed.
    Failed {
        /// The wait before another attempt.
        retry_after: Option<Duration>,
    },
}

/// The end of the wait of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It must be sent as an ordinary call, for this reason.
    Live(&'static str),
    /// It is answered with the error that was last reported.
    Denied,
}

/// A decision for the events of the layer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Decision {
    /// The decision.
    pub decision: BatchDecision,
    /// The reason in one word, or empty.
    pub because: &'static str,
    /// The number of calls.
    pub calls: usize,
    /// The id of the batch.
    pub batch: Option<String>,
    /// The model.
    pub model: Option<Arc<str>>,
    /// The time from the creation to the end.
    pub latency: Option<Duration>,
    /// The cost of the answer.
    pub cost: Money,
    /// The difference to the cost of an ordinary call.
    pub saved: Money,
}

/// The latencies of the batches of one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LatencySnapshot {
    /// The number of batches that were measured, at most 64.
    pub batches: usize,
    /// The median.
    pub p50: Duration,
    /// The latency that 95 % of the batches do not exceed.
    pub p95: Duration,
}

/// The state of a layer at one moment. The counters start at zero when the layer is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchSnapshot {
    /// The calls in the queue.
    pub queued: usize,
    /// The bytes of their bodies.
    pub queued_bytes: usize,
    /// The calls that wait for a batch.
    pub in_batches: usize,
    /// The batches that have not ended. Their creation may not be certain.
    pub batches: usize,
    /// The batches whose creation is not certain.
    pub unknown: usize,
    /// The time for which the oldest call in the queue waits.
    pub oldest: Option<Duration>,
    /// The latencies by model.
    pub latency: BTreeMap<Arc<str>, LatencySnapshot>,
    /// The calls that were attached to a batch that had their question already.
    pub attached: u64,
    /// The calls that were answered by a batch.
    pub answered: u64,
    /// The calls that were answered by an error of their batch.
    pub failed: u64,
    /// The tokens of the answers of batches.
    pub tokens: u64,
    /// The cost of the answers of batches, as far as the prices of their models are known.
    pub cost: Money,
    /// The difference to the cost of ordinary calls.
    pub saved: Money,
    /// The calls that were sent live while their batch may still be billed.
    pub sent_twice: u64,
    /// The calls that were sent live at once, by reason.
    pub passed: BTreeMap<&'static str, u64>,
    /// The calls that were sent live after they had waited, by reason.
    pub went_live: BTreeMap<&'static str, u64>,
}
