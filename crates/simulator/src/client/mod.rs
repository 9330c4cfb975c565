//! Strategies: how one client process paces what it sends.

mod aws_adaptive;
mod backoff_forever;
mod bucket;
mod fixed_bucket;
mod header_naive;
mod oracle;
mod ours;
mod parts;
mod sdk_default;

use tower_claude_limiter::Sharing;

use crate::{
    random::{Purpose, stream},
    workload::{Class, Quota},
};

/// A request by its slot; slots are used again.
pub(crate) type JobId = u32;

/// A request as its client knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) job: JobId,
    /// Input tokens, by estimate.
    pub(crate) estimate: u64,
    pub(crate) class: Class,
}

/// One limit as the headers show it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shown {
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    /// Seconds of the server's clock.
    pub(crate) reset: i64,
}

/// The head of a response, and what comes with it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Head {
    /// Requests, input tokens, output tokens.
    pub(crate) shown: [Shown; 3],
    /// Seconds of the server's clock.
    pub(crate) date: i64,
    /// A 429 with this `retry-after`, in seconds.
    pub(crate) refused: Option<u64>,
    /// Input tokens, as the first event of the answer tells.
    pub(crate) input: u64,
}

/// What a client believes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Believed {
    /// Left of requests, input and output tokens.
    pub(crate) levels: [i64; 3],
    /// Output tokens taken for answers that have not ended.
    pub(crate) outstanding_output: u64,
}

/// What an answer used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    pub(crate) input: u64,
    pub(crate) output: u64,
}

/// What a strategy wants done.
#[derive(Debug, Default)]
pub(crate) struct Io {
    /// To be sent now, first or again.
    pub(crate) send: Vec<JobId>,
    /// Given up.
    pub(crate) failed: Vec<JobId>,
    /// When to be woken, at the latest.
    pub(crate) wake: Option<u64>,
}

impl Io {
    pub(crate) fn wake_at(&mut self, at: u64) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// One client process. Times are those of its own clock.
pub(crate) trait Strategy: Send {
    /// A new request.
    fn submit(&mut self, now: u64, ask: Ask, io: &mut Io);
    /// The head of a response: an answer, or a 429, after which the job is the strategy's again.
    fn on_response(&mut self, now: u64, job: JobId, head: &Head, io: &mut Io);
    /// Output tokens of an answer seen so far.
    fn on_progress(&mut self, _now: u64, _job: JobId, _output: u64, _io: &mut Io) {}
    /// The end of an answer.
    fn on_end(&mut self, _now: u64, _job: JobId, _used: Used, _io: &mut Io) {}
    /// The time that was asked for, or earlier.
    fn wake(&mut self, _now: u64, _io: &mut Io) {}
    /// What it believes is there, of each limit.
    fn levels(&self, _now: u64) -> Option<Believed> {
        None
    }
}

/// A strategy by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// By the default of [`Sharing`]: it finds out itself.
    Ours,
    OursShared,
    OursAlone,
    SdkDefault,
    BackoffForever,
    FixedBucket,
    StaticShare,
    AwsAdaptive,
    HeaderNaive,
    Oracle,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::OursShared => "ours, shared",
            Self::OursAlone => "ours, alone",
            Self::SdkDefault => "SDK default",
            Self::BackoffForever => "backoff for ever",
            Self::FixedBucket => "fixed bucket",
            Self::StaticShare => "static share",
            Self::AwsAdaptive => "AWS adaptive",
            Self::HeaderNaive => "header-naive",
            Self::Oracle => "oracle",
        }
    }

    pub(crate) const fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::OursShared | Self::OursAlone)
    }

    /// A client of this kind that was told these limits; one of `clients`.
    pub(crate) fn start(
        self,
        told: Quota,
        clients: usize,
        seed: u64,
        index: usize,
    ) -> Box<dyn Strategy> {
        let rng = stream(seed, Purpose::Strategy, index);
        match self {
            Self::Ours => Box::new(ours::Ours::new(told, Sharing::Auto, rng)),
            Self::OursShared => Box::new(ours::Ours::new(told, Sharing::Shared, rng)),
            Self::OursAlone => Box::new(ours::Ours::new(told, Sharing::Exclusive, rng)),
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
