//! Durations and sizes as texts.

use std::time::Duration;

/// The units of a duration, the smallest first, with their length in milliseconds.
const TIMES: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// The units of a size, the smallest first.
const SIZES: [(&str, u64); 4] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// Parses a whole number with one of these units.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit());
    let (number, unit) = text.split_at(digits?);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Writes a number in the largest unit that divides it, and zero in the smallest.
fn write(number: u64, units: &[(&str, u64)]) -> String {
    let units = if number == 0 { &units[..1] } else { units };
    let fitting = units
        .iter()
        .rev()
        .find(|(_, factor)| number.is_multiple_of(*factor));
    let (name, factor) = fitting.unwrap_or(&units[0]);
    format!("{}{name}", number / factor)
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let millis = parse(text, &TIMES);
    let millis = millis.ok_or_else(|| format!("{text:?} is not a duration such as \"15s\""))?;
    // Longer durations overflow instants.
    let longest = Duration::from_secs(365 * 86_400);
    Ok(Duration::from_millis(millis).min(longest))
}

fn write_duration(time: Duration) -> String {
    write(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), &TIMES)
}

/// A duration as text, with one of the units `ms`, `s`, `m` and `h`. At most a year.
pub(crate) mod duration {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::time::Duration;

    pub(crate) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::write_duration(*time))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        super::parse_duration(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// A duration that may be absent.
pub(crate) mod optional_duration {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::time::Duration;

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => to.serialize_some(&super::write_duration(*time)),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        let time = text.map(|text| super::parse_duration(&text)).transpose();
        time.map_err(D::Error::custom)
    }
}

/// A size as text, with one of the units `B`, `KiB`, `MiB` and `GiB`.
pub(crate) mod bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(size: &usize, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::write(*size as u64, &super::SIZES))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
        let text = String::deserialize(from)?;
        let size = super::parse(&text, &super::SIZES).and_then(|size| usize::try_from(size).ok());
        size.ok_or_else(|| D::Error::custom(format!("{text:?} is not a size such as \"32MiB\"")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_in_any_unit_is_read_and_written() {
        for (text, millis) in [
            ("0ms", 0),
            ("500ms", 500),
            ("15s", 15_000),
            ("10m", 600_000),
            ("2h", 7_200_000),
        ] {
            let time = Duration::from_millis(millis);
            assert_eq!(parse_duration(text), Ok(time), "{text}");
            assert_eq!(parse_duration(&write_duration(time)), Ok(time), "{text}");
        }
        for text in [
            "",
            "15",
            "s",
            "-1s",
            "1.5s",
            "15 days",
            "99999999999999999h",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn size_is_written_in_the_largest_unit() {
        assert_eq!(write(32 << 20, &SIZES), "32MiB");
        assert_eq!(write(1_000, &SIZES), "1000B");
        assert_eq!(write(0, &SIZES), "0B");
        assert_eq!(parse("64 KiB", &SIZES), Some(65_536));
    }
}
