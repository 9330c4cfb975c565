//! Labels for similar requests.

use std::hash::BuildHasher;

use foldhash::quality::FixedState;

/// A label for requests that use about the same number of tokens.
///
/// A workload is, for example, a feature, a prompt template or an agent. Limiters learn the usage
/// of each workload separately, so their estimates improve. Insert it into the request's
/// extensions.
///
/// The value is a hash of the label and the same in every process of a build. Two labels with the
/// same hash share their estimates, which is harmless.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Workload(u64);

impl Workload {
    /// The workload of requests without a label. The default.
    pub const NONE: Self = Self(0);

    /// Returns the workload of this name. An empty name gives [`NONE`](Self::NONE).
    #[must_use]
    pub fn named(name: &str) -> Self {
        if name.is_empty() {
            return Self::NONE;
        }
        Self(FixedState::with_seed(0).hash_one(name).max(1))
    }

    /// Returns the hash as a number, which is 0 for [`NONE`](Self::NONE).
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }
}
