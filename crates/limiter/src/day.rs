//! How a limit per day renews.

/// How a limit per day renews.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Day {
    /// No 24 hours may see more than the limit. What was used counts for 24 hours, rounded up to the
    /// next quarter of an hour.
    #[default]
    Rolling,
    /// All of it is there again at this time of each day.
    ResetsAt {
        /// Seconds after midnight UTC; a day and more count as the rest of division by a day.
        seconds_after_midnight_utc: u32,
    },
}
