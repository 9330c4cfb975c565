//! What one run comes to.

use crate::workload::Class;

/// The levels and flows of one second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// The fullest share of the tightest bucket, 0..1.
    pub(crate) level: f64,
    pub(crate) admitted: u32,
    pub(crate) refused: u32,
}

/// What one run comes to. Counts are of the counted clients and from the end of the warm-up on, unless
/// stated otherwise.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) admitted: u64,
    pub(crate) refused: u64,
    /// During the warm-up.
    pub(crate) refused_before: u64,
    pub(crate) admitted_before: u64,
    /// Given up by the client.
    pub(crate) failed: u64,
    /// Tokens of each counted client.
    pub(crate) tokens: Vec<u64>,
    /// Use of requests, input and output by everyone, as a share of what the limits allow.
    pub(crate) used: [f64; 3],
    /// Seconds from asking to being sent, of the attempt that was admitted.
    pub(crate) waits: [Vec<f32>; 2],
    /// Seconds of the bottleneck that each took.
    pub(crate) works: [Vec<f32>; 2],
    pub(crate) big_waits: Vec<f32>,
    /// Attempts and admissions of big requests, and of all.
    pub(crate) big_attempts: (u64, u64),
    pub(crate) attempts: (u64, u64),
    /// By how much local levels were further from the server's than what is in flight explains: the
    /// most, of requests, input and output.
    pub(crate) drift: Option<[f64; 3]>,
    /// The longest time without an admission, in nanoseconds, over the whole run.
    pub(crate) longest_gap: u64,
    pub(crate) samples: Vec<Sample>,
}

impl Tally {
    pub(crate) const fn class(class: Class) -> usize {
        match class {
            Class::Batch => 0,
            Class::Interactive => 1,
        }
    }
}
