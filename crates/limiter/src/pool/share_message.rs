//! The messages of a pool to a store that several processes share, and its answers.

use std::{num::NonZeroU32, time::Duration};

/// The settings of limits that are shared through a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharePolicy {
    /// The longest wait for an answer of the store. After it, requests are admitted by the local
    /// share. Default 30 ms.
    pub patience: Duration,
    /// Rejects requests while the store does not answer, instead of admitting them by the local
    /// share. Default false.
    pub fail_closed: bool,
    /// The number of processes if the store has never answered. Default 4.
    pub assumed_processes: NonZeroU32,
}

impl SharePolicy {
    /// Returns the defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            patience: Duration::from_millis(30),
            fail_closed: false,
            assumed_processes: NonZeroU32::new(4).expect("4 is not 0"),
        }
    }

    /// Sets [`patience`](Self::patience).
    #[must_use]
    pub const fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sets [`fail_closed`](Self::fail_closed).
    #[must_use]
    pub const fn with_fail_closed(mut self, fail_closed: bool) -> Self {
        self.fail_closed = fail_closed;
        self
    }

    /// Sets [`assumed_processes`](Self::assumed_processes).
    #[must_use]
    pub const fn with_assumed_processes(mut self, processes: NonZeroU32) -> Self {
        self.assumed_processes = processes;
        self
    }
}

impl Default for SharePolicy {
    fn default() -> Self {
        Self::new()
    }
}

/// A message of a pool to the store. The store applies all of it or nothing, and once for each id.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ShareMessage {
    /// The number of the message, unique in its pool.
    pub id: u64,
    /// The message carries the [settings](ShareLimit::settings) of its limits. A store without
    /// state answers any other message with [`ShareOutcome::StateMissing`].
    pub has_settings: bool,
    /// A pause that a 429 has caused.
    pub pause: Option<Duration>,
    /// The block to be charged. The amounts are in the limits.
    pub block: Option<ShareBlock>,
    /// The limits that the message concerns.
    pub limits: Vec<ShareLimit>,
}

/// The terms of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShareBlock {
    /// The longest acceptable wait. A block with a longer wait is not charged.
    pub max_wait: Duration,
    /// The time that the first request takes of the tightest limit.
    pub work: Duration,
}

/// The accounting period of a shared limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SharePeriod {
    /// A bucket that is refilled by the limit each minute.
    Minute,
    /// A limit for any 24 hours.
    RollingDay,
    /// A limit for each day that begins at this second after midnight UTC.
    Day {
        /// Seconds after midnight UTC.
        begins_at: u32,
    },
}

/// The part of a message that concerns one limit. Amounts are tokens or requests.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ShareLimit {
    /// The position of the limit in the configuration, the same in all processes.
    pub index: usize,
    /// The period.
    pub period: SharePeriod,
    /// The amount that the block charges.
    pub cost: u64,
    /// The level that the block needs, which is its cost, a safety margin, and a reserve for more
    /// urgent classes.
    pub need: u64,
    /// The correction of earlier charges, positive if they were too high.
    pub credit: f64,
    /// An upper bound of the level before the block, which headers have shown.
    pub ceiling: Option<f64>,
    /// The settings of the limit, as this process knows them.
    pub settings: ShareSettings,
}

/// The settings of a limit, as one process knows them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ShareSettings {
    /// The configured limit. The smallest of all processes holds.
    pub configured: Option<u64>,
    /// The limit to be used until headers name one.
    pub hint: Option<u64>,
    /// The limit that a header has named, if that is news.
    pub learned: Option<u64>,
    /// The time in which the bucket is filled.
    pub burst: Duration,
    /// The level to start from if the store has none. `None` is a full bucket.
    pub start: Option<f64>,
}

/// The outcome of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShareOutcome {
    /// The message had no block, and was applied.
    Applied,
    /// The block is charged and may be used after this time. It may have been charged by an earlier
    /// message with the same id.
    Granted(Duration),
    /// The block was not charged, because its wait is this long.
    Refused(Duration),
    /// Nothing was applied, because the store has no state of the scope.
    StateMissing,
}

/// An answer of the store.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ShareReply {
    /// The outcome.
    pub outcome: ShareOutcome,
    /// The remaining pause.
    pub pause: Duration,
    /// The identity of the state. Another one shows that the state was lost.
    pub epoch: u64,
    /// The number of processes that use the scope, 0 if unknown.
    pub processes: u32,
    /// The work of the largest recent request of any process. Blocks are about as large.
    pub quantum: Duration,
    /// The state of the limits of the message, in the same order.
    pub limits: Vec<SharedLevel>,
}

impl ShareReply {
    /// Returns a reply without limits.
    #[must_use]
    pub const fn new(outcome: ShareOutcome) -> Self {
        Self {
            outcome,
            pause: Duration::ZERO,
            epoch: 0,
            processes: 0,
            quantum: Duration::ZERO,
            limits: Vec::new(),
        }
    }
}

/// The state of one limit in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SharedLevel {
    /// The level after the message, in thousandths.
    pub level: i64,
    /// The limit that holds, 0 if none is known.
    pub limit: u64,
    /// The smallest configured limit of all processes, 0 if unknown.
    pub configured: u64,
    /// The time since the bucket was last full. What was charged before that is not given back
    /// beyond it.
    pub full_ago: Duration,
}
