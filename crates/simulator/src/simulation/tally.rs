//! Results of one run.

use crate::workload::RequestClass;

/// Sample of one second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Level of the most restrictive bucket, as a share of its capacity, 0 to 1.
    pub(crate) level: f64,
    pub(crate) admitted: u32,
    pub(crate) refused: u32,
}

/// Results of one run. They include the counted clients after the warm-up, unless stated otherwise.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) admitted: u64,
    pub(crate) refused: u64,
    /// During the warm-up.
    pub(crate) refused_before: u64,
    /// From the fault on.
    pub(crate) refused_after_fault: u64,
    pub(crate) admitted_before: u64,
    /// Requests that the client has given up.
    pub(crate) failed: u64,
    /// Tokens of each counted client.
    pub(crate) tokens: Vec<u64>,
    /// Use of requests, input and output by all clients, as a share of the allowance.
    pub(crate) used: [f64; 3],
    /// Seconds from the request to the send of the admitted attempt, by class.
    pub(crate) waits: [Vec<f32>; 2],
    /// Seconds of the binding limit that each request used, by class.
    pub(crate) works: [Vec<f32>; 2],
    pub(crate) big_waits: Vec<f32>,
    /// Attempts and admissions of big requests, and of all.
    pub(crate) big_attempts: (u64, u64),
    pub(crate) attempts: (u64, u64),
    /// Maximum difference of local and server levels that the requests in flight do not explain, of
    /// requests, input and output.
    pub(crate) drift: Option<[f64; 3]>,
    /// The longest time without an admission, in nanoseconds, over the whole run.
    pub(crate) longest_gap: u64,
    pub(crate) samples: Vec<Sample>,
}

impl Tally {
    pub(crate) const fn class(class: RequestClass) -> usize {
        match class {
            RequestClass::Batch => 0,
            RequestClass::Interactive => 1,
        }
    }
}
