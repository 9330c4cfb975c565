//! The way of another attempt, where a policy chooses among several targets.

use std::time::Duration;

/// The way of another attempt, as reported by an attempt policy that chooses its target.
///
/// See [`AttemptPolicy::reroute`](crate::driver::AttemptPolicy::reroute).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reroute {
    /// Another attempt goes to a target that this call has not tried, and that is not known to
    /// fail. It needs no wait: what the failed target asked for does not concern the other one.
    AtOnce,
    /// All targets have been tried, or fail at present. One of them takes another attempt after
    /// this wait, which replaces the wait that the failed one asked for. If it is zero, nothing was
    /// asked for, and the usual delay between attempts applies.
    After(Duration),
    /// No target can serve the call.
    Nowhere,
}

/// No way is known.
const UNSET: u64 = u64::MAX;
const NOWHERE: u64 = u64::MAX - 1;
const AT_ONCE: u64 = u64::MAX - 2;

impl Reroute {
    pub(crate) fn to_u64(way: Option<Self>) -> u64 {
        match way {
            None => UNSET,
            Some(Self::Nowhere) => NOWHERE,
            Some(Self::AtOnce) => AT_ONCE,
            Some(Self::After(wait)) => {
                u64::try_from(wait.as_nanos()).map_or(AT_ONCE - 1, |nanos| nanos.min(AT_ONCE - 1))
            }
        }
    }

    pub(crate) const fn from_u64(number: u64) -> Option<Self> {
        match number {
            UNSET => None,
            NOWHERE => Some(Self::Nowhere),
            AT_ONCE => Some(Self::AtOnce),
            nanos => Some(Self::After(Duration::from_nanos(nanos))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reroute;
    use std::time::Duration;

    #[test]
    fn way_as_a_number_comes_back() {
        for way in [
            None,
            Some(Reroute::AtOnce),
            Some(Reroute::Nowhere),
            Some(Reroute::After(Duration::ZERO)),
            Some(Reroute::After(Duration::from_secs(3_600))),
        ] {
            assert_eq!(Reroute::from_u64(Reroute::to_u64(way)), way);
        }
        let longest = Reroute::to_u64(Some(Reroute::After(Duration::MAX)));
        assert!(matches!(
            Reroute::from_u64(longest),
            Some(Reroute::After(wait)) if wait > Duration::from_secs(3_600 * 24 * 365 * 100)
        ));
    }
}
