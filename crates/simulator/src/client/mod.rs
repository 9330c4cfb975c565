//! Strategies by which a client process paces its requests.

mod aws_adaptive;
mod backoff_forever;
mod bucket;
mod fixed_bucket;
mod header_naive;
mod job_table;
mod oracle;
mod sdk_default;
mod this_limiter;

use tower_claude_limiter::{
    Sharing,
    pool::{ShareMessage, ShareReply},
};

use crate::{
    random::{Purpose, stream},
    workload::{Quota, RequestClass},
};

/// Slot of a request. Slots are reused.
pub(crate) type JobId = u32;

/// A new request, with the facts that its client has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewRequest {
    pub(crate) job: JobId,
    /// Estimated input tokens.
    pub(crate) estimate: u64,
    pub(crate) class: RequestClass,
}

/// State of one limit in the headers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeaderGauge {
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    /// Seconds of the server's clock.
    pub(crate) reset: i64,
}

/// The head of a response, with the input of its first event.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ResponseHead {
    /// Requests, input tokens, output tokens.
    pub(crate) shown: [HeaderGauge; 3],
    /// The response has no rate-limit headers.
    pub(crate) is_silent: bool,
    /// Seconds of the server's clock.
    pub(crate) date: i64,
    /// A 429 with this `retry-after`, in seconds.
    pub(crate) refused: Option<u64>,
    /// Input tokens, from the first event of the response.
    pub(crate) input: u64,
}

/// A client's own levels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LevelEstimate {
    /// Remaining requests, input and output tokens.
    pub(crate) levels: [i64; 3],
    /// Output tokens reserved for responses that have not ended.
    pub(crate) outstanding_output: u64,
}

/// Actual use of a response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActualUse {
    pub(crate) input: u64,
    pub(crate) output: u64,
}

/// Actions that a strategy requests.
#[derive(Debug, Default)]
pub(crate) struct Action {
    /// Requests to send now, including retries.
    pub(crate) send: Vec<JobId>,
    /// Requests that are given up.
    pub(crate) failed: Vec<JobId>,
    /// Latest time of the next wake.
    pub(crate) wake: Option<u64>,
}

impl Action {
    pub(crate) fn wake_at(&mut self, at: u64) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// Strategy of one client process. All times are by its own clock.
pub(crate) trait Strategy: Send {
    /// Handles a new request.
    fn submit(&mut self, now: u64, ask: NewRequest, io: &mut Action);
    /// Handles the head of a response. After a 429 the strategy may send the request again.
    fn on_response(&mut self, now: u64, job: JobId, head: &ResponseHead, io: &mut Action);
    /// Handles the output tokens received so far.
    fn on_progress(&mut self, _now: u64, _job: JobId, _output: u64, _io: &mut Action) {}
    /// Handles the end of a response.
    fn on_end(&mut self, _now: u64, _job: JobId, _used: ActualUse, _io: &mut Action) {}
    /// Handles the requested wake, or an earlier one.
    fn wake(&mut self, _now: u64, _io: &mut Action) {}
    /// Takes the next message to the store that the processes share. At most one is outstanding.
    fn take_message(&mut self, _now: u64) -> Option<ShareMessage> {
        None
    }
    /// Handles the store's answer to message `id`.
    fn on_reply(&mut self, _now: u64, _id: u64, _reply: &ShareReply, _io: &mut Action) {}
    /// Returns the client's own levels, if it has any.
    fn levels(&self, _now: u64) -> Option<LevelEstimate> {
        None
    }
}

/// A strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StrategyKind {
    /// This limiter with the default of [`Sharing`], which detects other clients.
    ThisLimiter,
    ThisLimiterShared,
    ThisLimiterAlone,
    /// This limiter with levels in a store that all processes share.
    Redis,
    SdkDefault,
    BackoffForever,
    FixedBucket,
    StaticShare,
    AwsAdaptive,
    HeaderNaive,
    Oracle,
}

impl StrategyKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ThisLimiter => "ours",
            Self::ThisLimiterShared => "ours, shared",
            Self::ThisLimiterAlone => "ours, alone",
            Self::Redis => "redis",
            Self::SdkDefault => "SDK default",
            Self::BackoffForever => "backoff for ever",
            Self::FixedBucket => "fixed bucket",
            Self::StaticShare => "static share",
            Self::AwsAdaptive => "AWS adaptive",
            Self::HeaderNaive => "header-naive",
            Self::Oracle => "oracle",
        }
    }

    pub(crate) const fn is_this_limiter(self) -> bool {
        matches!(
            self,
            Self::ThisLimiter | Self::ThisLimiterShared | Self::ThisLimiterAlone | Self::Redis
        )
    }

    /// Creates the strategy of one of `clients` clients with these configured limits.
    pub(crate) fn start(
        self,
        told: Quota,
        clients: usize,
        seed: u64,
        index: usize,
    ) -> Box<dyn Strategy> {
        let rng = stream(seed, Purpose::Strategy, index);
        let ours = |sharing| this_limiter::ThisLimiter::new(told, sharing, rng.clone());
        match self {
            Self::ThisLimiter => Box::new(ours(Some(Sharing::Auto))),
            Self::ThisLimiterShared => Box::new(ours(Some(Sharing::Shared))),
            Self::ThisLimiterAlone => Box::new(ours(Some(Sharing::Exclusive))),
            Self::Redis => Box::new(ours(None)),
            Self::SdkDefault => Box::new(sdk_default::SdkDefault::new(rng)),
            Self::BackoffForever => Box::new(backoff_forever::BackoffForever::new(rng)),
            Self::FixedBucket => Box::new(fixed_bucket::FixedBucket::new(told, rng)),
            Self::StaticShare => {
                let share = told.times(1.0 / clients as f64);
                Box::new(fixed_bucket::FixedBucket::new(share, rng))
            }
            Self::AwsAdaptive => Box::new(aws_adaptive::AwsAdaptive::new(rng)),
            Self::HeaderNaive => Box::new(header_naive::HeaderNaive::new(told)),
            Self::Oracle => Box::new(oracle::Oracle),
        }
    }
}
