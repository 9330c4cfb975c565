//! The renewal of a limit per day.

/// The renewal of a limit per day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Day {
    /// A rolling day: no 24 hours contain more than the limit. Usage counts for 24 hours, rounded
    /// up to the next quarter of an hour.
    #[default]
    Rolling,
    /// The whole limit is available again at this time of each day.
    ResetsAt {
        /// Seconds after midnight UTC, modulo a day.
        seconds_after_midnight_utc: u32,
    },
}
