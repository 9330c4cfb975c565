//! What kind of request it is.

use std::hash::BuildHasher;

use foldhash::quality::FixedState;

/// What kind of request it is, for estimates: requests of one workload (a feature, a prompt template, an
/// agent) use about as much as each other. Insert it into the request's extensions.
///
/// It is a hash of the label, the same in every process of one build. Two labels with one hash share
/// their estimates, no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Workload(u64);

impl Workload {
    /// Requests that say nothing.
    pub const NONE: Self = Self(0);

    /// The workload of this name. An empty name is [`NONE`](Self::NONE).
    #[must_use]
    pub fn named(name: &str) -> Self {
        if name.is_empty() {
            return Self::NONE;
        }
        Self(FixedState::with_seed(0).hash_one(name).max(1))
    }

    /// The hash as a number; 0 for [`NONE`](Self::NONE).
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }
}
