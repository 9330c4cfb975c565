//! Points in time, as microseconds since 1970.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The microseconds of a second.
pub const SECOND: i64 = 1_000_000;

/// The microseconds of a minute.
pub const MINUTE: i64 = 60 * SECOND;

/// The microseconds of an hour.
pub const HOUR: i64 = 60 * MINUTE;

/// The microseconds of a day.
pub const DAY: i64 = 24 * HOUR;

/// The microseconds of a week.
pub const WEEK: i64 = 7 * DAY;

/// A point in time, in microseconds since 1970-01-01 00:00 UTC.
///
/// It is written as RFC 3339 in UTC. It is read from RFC 3339 with any offset, or from a number of
/// Unix seconds. A text without an offset is no point in time and is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub i64);

impl Time {
    /// Parses RFC 3339, such as `2026-11-28T09:12:03.5Z` or `2026-11-28 10:12:03+01:00`.
    ///
    /// # Errors
    /// Returns a message for a text that is no point in time.
    pub fn parse(text: &str) -> Result<Self, String> {
        let timestamp = text.trim().parse::<Timestamp>();
        timestamp.map(Self::from).map_err(|_| match is_local(text) {
            true => format!("the time {text:?} has no offset such as Z or +01:00"),
            false => format!("{text:?} is no time in RFC 3339"),
        })
    }

    /// Parses RFC 3339, and takes a text without an offset as UTC.
    ///
    /// # Errors
    /// Returns a message for a text that is no time.
    pub fn parse_or_utc(text: &str) -> Result<Self, String> {
        match is_local(text) {
            true => {
                let local: jiff::civil::DateTime = text.trim().parse().map_err(|_| not(text))?;
                let zoned = local.to_zoned(jiff::tz::TimeZone::UTC);
                zoned
                    .map(|zoned| zoned.timestamp().into())
                    .map_err(|_| not(text))
            }
            false => Self::parse(text),
        }
    }

    /// Returns the time of Unix seconds, or `None` if it is out of range.
    #[must_use]
    pub fn from_unix(seconds: f64) -> Option<Self> {
        // From 2001 to 2286. Milliseconds and small numbers are no Unix seconds.
        let is_plausible = (1e9..1e10).contains(&seconds);
        is_plausible.then(|| Self((seconds * 1e6).round() as i64))
    }

    /// Returns the time as RFC 3339 without a fraction of a second.
    #[must_use]
    pub fn to_second(self) -> String {
        self.timestamp().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// Returns the date and the minute in UTC.
    #[must_use]
    pub fn to_minute(self) -> String {
        self.timestamp().strftime("%Y-%m-%d %H:%M").to_string()
    }

    /// Returns the date in UTC.
    #[must_use]
    pub fn to_date(self) -> String {
        self.timestamp().strftime("%Y-%m-%d").to_string()
    }

    /// Returns the start of the period of this length, counted from 1970.
    #[must_use]
    pub const fn floor(self, period: i64) -> Self {
        Self(self.0 - self.0.rem_euclid(period))
    }

    fn timestamp(self) -> Timestamp {
        Timestamp::from_microsecond(self.0).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

fn is_local(text: &str) -> bool {
    text.trim().parse::<Timestamp>().is_err()
        && text.trim().parse::<jiff::civil::DateTime>().is_ok()
}

fn not(text: &str) -> String {
    format!("{text:?} is no time")
}

impl From<Timestamp> for Time {
    fn from(timestamp: Timestamp) -> Self {
        Self(timestamp.as_microsecond())
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", self.timestamp())
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TimeVisitor)
    }
}

struct TimeVisitor;

impl TimeVisitor {
    fn unix<E: de::Error>(seconds: f64) -> Result<Time, E> {
        Time::from_unix(seconds)
            .ok_or_else(|| E::custom(format_args!("{seconds} are no Unix seconds")))
    }
}

impl de::Visitor<'_> for TimeVisitor {
    type Value = Time;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time in RFC 3339 or in Unix seconds")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Time, E> {
        Time::parse(text).map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Time, E> {
        Self::unix(seconds)
    }

    fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Time, E> {
        Self::unix(seconds as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_another_offset_is_the_same_instant() {
        let zulu = Time::parse("2026-11-28T09:12:03.25Z").unwrap();
        assert_eq!(Time::parse("2026-11-28T10:12:03.25+01:00").unwrap(), zulu);
        assert_eq!(Time::from_unix(zulu.0 as f64 / 1e6), Some(zulu));
        assert_eq!(zulu.to_string(), "2026-11-28T09:12:03.250000Z");
        assert_eq!(zulu.to_minute(), "2026-11-28 09:12");
    }

    #[test]
    fn time_without_offset_is_refused_with_the_reason() {
        let error = Time::parse("2026-11-28T09:12:03").unwrap_err();
        assert!(error.contains("no offset"), "{error}");
        let utc = Time::parse_or_utc("2026-11-28T09:12").unwrap();
        assert_eq!(utc.to_second(), "2026-11-28T09:12:00Z");
        assert!(Time::parse("yesterday").unwrap_err().contains("RFC 3339"));
        assert_eq!(Time::from_unix(1_764_321_123_000.0), None);
    }
}
