//! The chance that a prefix comes again.

use std::time::Duration;

/// The times after the last use at which the next interval begins. The first interval is the
/// shorter lifetime of the cache, and the last one ends with the longer lifetime.
pub(crate) const INTERVALS: [Duration; 4] = [
    Duration::from_secs(5 * 60),
    Duration::from_secs(15 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(60 * 60),
];

/// The time between two renewals. The lifetime of an entry is five minutes.
pub(crate) const PERIOD: Duration = Duration::from_secs(270);

/// The number of intervals.
pub(crate) const COUNT: usize = INTERVALS.len();

/// The sum of the weights of an interval at which they are halved, so that old behaviour fades.
const MOST_WEIGHT: f64 = 64.0;

/// The chance of each interval for prefixes of which nothing is known. It is below the break-even,
/// so a prefix of a new kind is not marked until one has come again.
const UNKNOWN: [f64; COUNT] = [0.15, 0.05, 0.05, 0.05];

/// Counts of prefixes that were used again, by the time since their last use.
///
/// Each interval has a count of its own, over the prefixes that were not used before it began. A
/// prefix that still waits counts only in the intervals that it has passed, so that the counts are
/// right at any time (this is the estimator of Kaplan and Meier).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReuseCounts {
    intervals: [Counts; COUNT],
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    again: f64,
    not: f64,
}

impl ReuseCounts {
    /// Records that a prefix came again in this interval, or that the interval passed without it.
    pub(crate) fn record(&mut self, interval: usize, again: bool) {
        let Some(counts) = self.intervals.get_mut(interval) else {
            return;
        };
        *(if again {
            &mut counts.again
        } else {
            &mut counts.not
        }) += 1.0;
        if counts.again + counts.not > MOST_WEIGHT {
            counts.again /= 2.0;
            counts.not /= 2.0;
        }
    }

    /// Returns the chances, which are those of a wider class (with this weight) where there are few
    /// counts.
    fn over(&self, wider: Chances, weight: f64) -> Chances {
        Chances(std::array::from_fn(|at| {
            let Counts { again, not } = self.intervals[at];
            (again + weight * wider.0[at]) / (again + not + weight)
        }))
    }
}

/// The chance of each interval that a prefix comes again in it, if it did not before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Chances([f64; COUNT]);

impl Chances {
    /// Returns the chances of a prefix from its own counts, those of its class and those of its
    /// kind.
    pub(crate) fn of(own: &ReuseCounts, class: &ReuseCounts, kind: &ReuseCounts) -> Self {
        /// The counts after which those of the wider group matter less.
        const WEIGHT: f64 = 3.0;
        const OWN_WEIGHT: f64 = 2.0;
        let kind = kind.over(Self(UNKNOWN), WEIGHT);
        own.over(class.over(kind, WEIGHT), OWN_WEIGHT)
    }

    /// Returns the chances that the prefix is read, if this share of the reads comes.
    pub(crate) fn times(self, share: f64) -> Self {
        Self(self.0.map(|chance| chance * share))
    }

    /// Returns the chance that the prefix comes again within five minutes.
    pub(crate) const fn within_5m(&self) -> f64 {
        self.0[0]
    }

    /// Returns the chance that the prefix comes again within an hour.
    pub(crate) fn within_1h(&self) -> f64 {
        1.0 - self.0.iter().map(|chance| 1.0 - chance).product::<f64>()
    }
}

/// The renewals of a prefix in a pause.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Renewals {
    /// The time after the last use at which they end.
    pub(crate) until: Duration,
    /// The expected number in one pause.
    pub(crate) expected: f64,
    /// The chance that the prefix comes again before they end.
    pub(crate) chance: f64,
}

impl Chances {
    /// Returns the renewals, sent once a period, that pay. `None` if none do. `read` and `write`
    /// are prices.
    pub(crate) fn renewals(&self, read: f64, write: f64, period: Duration) -> Option<Renewals> {
        let mut waiting = 1.0 - self.0[0];
        let (mut balance, mut best_balance, mut expected) = (0.0, 0.0, 0.0);
        let mut best = None;
        for interval in 1..COUNT {
            let length = (INTERVALS[interval] - INTERVALS[interval - 1]).as_secs_f64();
            let returns = waiting * self.0[interval];
            // A prefix that returns does so in the middle of the interval on average.
            let renewals = length / period.as_secs_f64() * (waiting - returns / 2.0);
            balance += returns * (write - read) - renewals * read;
            expected += renewals;
            waiting -= returns;
            if balance > best_balance {
                best_balance = balance;
                best = Some(Renewals {
                    until: INTERVALS[interval],
                    expected,
                    chance: 1.0 - waiting,
                });
            }
        }
        best
    }
}

/// Returns the expected number of uses in a row, each of which follows the one before with this
/// chance.
pub(crate) fn expected_uses(chance: f64) -> f64 {
    /// A chance near 1 is a guess from few counts.
    const MOST: f64 = 20.0;
    (chance / (1.0 - chance).max(1e-9)).min(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_prefix_counts_in_the_intervals_that_it_has_passed() {
        let mut counts = ReuseCounts::default();
        for _ in 0..40 {
            counts.record(0, false);
        }
        let none = ReuseCounts::default();
        let chances = Chances::of(&none, &counts, &none);
        assert!(chances.within_5m() < 0.02, "{chances:?}");
        assert!(chances.within_1h() < 0.2, "{chances:?}");
    }

    #[test]
    fn unknown_prefix_has_a_chance_below_the_break_even() {
        let none = ReuseCounts::default();
        let chances = Chances::of(&none, &none, &none);
        assert!(expected_uses(chances.within_5m()) * 0.9 < 0.25);
    }

    #[test]
    fn one_return_of_a_kind_is_above_the_break_even() {
        let none = ReuseCounts::default();
        let mut one = ReuseCounts::default();
        one.record(0, true);
        let chances = Chances::of(&none, &one, &one);
        assert!(expected_uses(chances.within_5m()) * 0.9 > 0.25);
    }

    #[test]
    fn likely_return_is_worth_renewals_and_an_unlikely_one_is_not() {
        let period = Duration::from_secs(270);
        let mut returns = ReuseCounts::default();
        for _ in 0..30 {
            returns.record(0, false);
            returns.record(1, false);
            returns.record(2, true);
        }
        let none = ReuseCounts::default();
        let likely = Chances::of(&returns, &returns, &returns);
        let renewals = likely.renewals(0.1, 1.25, period).expect("renewals");
        assert_eq!(renewals.until, INTERVALS[2]);
        assert!(
            renewals.chance > 0.8 && renewals.expected > 3.0,
            "{renewals:?}"
        );
        let unlikely = Chances::of(&none, &none, &none);
        assert_eq!(unlikely.renewals(0.1, 1.25, period), None);
    }
}
