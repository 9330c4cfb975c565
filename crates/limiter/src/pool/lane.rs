//! One counted dimension: its bucket, if a limit is known, and what flowed through.

use tower_claude_core::Dimension;

use super::{bucket::Bucket, drain::Drift};

/// Counted dimensions.
pub(crate) const LANES: usize = 4;
pub(crate) const REQUESTS: usize = 0;
pub(crate) const INPUT: usize = 1;
pub(crate) const OUTPUT: usize = 2;
pub(crate) const TOTAL: usize = 3;

/// Amounts by lane.
pub(crate) type Charge = [u64; LANES];

/// What the lanes count, in order.
pub(crate) const DIMENSIONS: [Dimension; LANES] = [
    Dimension::Requests,
    Dimension::InputTokens,
    Dimension::OutputTokens,
    Dimension::TotalTokens,
];

/// When the server is sure to have counted a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// When the head of the response has arrived.
    AtHead,
    /// When the response has ended.
    AtEnd,
}

/// One counted dimension.
#[derive(Debug)]
pub(crate) struct Lane {
    /// `None` as long as no limit is known: such a lane only counts.
    pub(crate) bucket: Option<Bucket>,
    pub(crate) counted: Counted,
    /// Charges sent, ever (wraps; only differences are used).
    pub(crate) sent: i64,
    /// Of those, charges the server has surely counted.
    pub(crate) seen: i64,
    /// The server's level has been seen.
    pub(crate) observed: bool,
    /// When a header last named the limit, if that is where it comes from.
    pub(crate) confirmed: Option<u64>,
    /// The running estimate of the server's capacity in units.
    pub(crate) capacity: Option<f64>,
    /// By that estimate, a second short.
    pub(crate) fits: i128,
    /// The highest level the server has shown under this limit, in units.
    pub(crate) peak: i128,
    /// What the headers took away that is not explained, lately.
    pub(crate) drift: Drift,
    /// The used share is over the warning share.
    pub(crate) warned: bool,
}

impl Lane {
    pub(crate) const fn new(bucket: Option<Bucket>, counted: Counted) -> Self {
        Self {
            bucket,
            counted,
            sent: 0,
            seen: 0,
            observed: false,
            confirmed: None,
            capacity: None,
            fits: 0,
            peak: 0,
            drift: Drift::new(),
            warned: false,
        }
    }

    /// Takes a charge.
    pub(crate) fn charge(&mut self, tokens: u64) {
        if let Some(bucket) = &mut self.bucket {
            bucket.take(tokens);
        }
        self.sent = self.sent.wrapping_add(tokens as i64);
    }

    /// Changes a charge from `old` to `new`.
    pub(crate) fn recharge(&mut self, old: u64, new: u64) {
        if let Some(bucket) = &mut self.bucket {
            if new > old {
                bucket.take(new - old);
            } else {
                bucket.give(old - new);
            }
        }
        if self.counted == Counted::AtEnd {
            self.sent = self.sent.wrapping_add(new as i64).wrapping_sub(old as i64);
        }
    }
}
