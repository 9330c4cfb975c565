//! The events, requests and clients of a simulation.

use tower_claude_limiter::pool::{ShareMessage, ShareReply};

use crate::{
    client::{JobId, ResponseHead, Strategy},
    random::{Purpose, stream},
    setup::ClientSpec,
    workload::{Quota, RequestClass, Sizes, Source},
};

/// An event of the simulation. A server event causes the client's event after a network delay.
#[derive(Clone, Copy, Debug)]
pub(super) enum SimulationEvent {
    /// A client has a new request from one of its sources.
    Submit { client: u32, source: u32 },
    /// A request reaches the server.
    Arrive(JobId),
    /// The server starts the response.
    Stream(JobId),
    /// The response head reaches the client.
    Deliver(JobId),
    /// The client reports its received output.
    Progress(JobId),
    /// The server has produced the complete response.
    Finish(JobId),
    /// The end of a response reaches the client.
    Done(JobId),
    /// The message of a client reaches the store.
    Store(u32),
    /// The store's answer reaches the client.
    Reply(u32),
    /// The timer of a client expires.
    Wake(u32),
    /// The first request of the oracle's queue may be admitted.
    OracleQueue,
    /// The warm-up ends.
    WarmUpEnd,
    /// The limits change.
    Change(Quota),
    /// A clock fails.
    Fault,
    /// A sample is taken.
    Sample,
}

/// A request with all its attempts.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) client: u32,
    pub(super) source: u32,
    pub(super) class: RequestClass,
    pub(super) sizes: Sizes,
    /// Time from admission to the first output.
    pub(super) think: u64,
    pub(super) submitted: u64,
    pub(super) sent: u64,
    pub(super) arrived: u64,
    pub(super) streaming: u64,
    pub(super) delivered: u64,
    pub(super) attempts: u32,
    /// Count of output tokens at which the client reports next.
    pub(super) report: u64,
    pub(super) head: ResponseHead,
}

pub(super) struct Client {
    pub(super) strategy: Box<dyn Strategy>,
    /// The message to the store, and its answer.
    pub(super) message: Option<ShareMessage>,
    pub(super) reply: Option<ShareReply>,
    pub(super) sources: Vec<Source>,
    /// Number of requests of each source so far.
    pub(super) counts: Vec<u64>,
    pub(super) sizes: fastrand::Rng,
    pub(super) arrivals: fastrand::Rng,
    pub(super) counted: bool,
    /// Time of the earliest wake event in the queue.
    pub(super) armed: u64,
    /// Time by which its clock is late.
    pub(super) behind: u64,
    /// End of its suspension.
    pub(super) asleep_until: u64,
}

impl Client {
    /// Creates the client of this index among `count`.
    pub(super) fn new(spec: &ClientSpec, seed: u64, index: usize, count: usize) -> Self {
        Self {
            strategy: spec.kind.start(spec.told, count, seed, index),
            message: None,
            reply: None,
            counts: vec![0; spec.sources.len()],
            sources: spec.sources.clone(),
            sizes: stream(seed, Purpose::Sizes, index),
            arrivals: stream(seed, Purpose::Arrivals, index),
            counted: spec.counted,
            armed: u64::MAX,
            behind: 0,
            asleep_until: 0,
        }
    }
}
