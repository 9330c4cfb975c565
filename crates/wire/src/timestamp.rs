//! Timestamps in the two forms that servers write. Every response has several, so these two are
//! parsed here. All other forms, invalid values and leap days are left to a library.

use std::time::{Duration, SystemTime};

/// Days of the months. The 29th of February is left to the library.
const DAYS: [u32; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

const MONTHS: [[u8; 3]; 12] = [
    *b"Jan", *b"Feb", *b"Mar", *b"Apr", *b"May", *b"Jun", *b"Jul", *b"Aug", *b"Sep", *b"Oct",
    *b"Nov", *b"Dec",
];

/// Weekdays, beginning with that of 1970-01-01.
const WEEKDAYS: [[u8; 3]; 7] = [
    *b"Thu", *b"Fri", *b"Sat", *b"Sun", *b"Mon", *b"Tue", *b"Wed",
];

/// Parses an RFC 3339 timestamp.
pub(crate) fn rfc3339(text: &[u8]) -> Option<SystemTime> {
    TimestampParser::default().rfc3339(text)
}

/// Parses the RFC 3339 timestamps of one response. It remembers the last date, because all of them
/// usually have the same.
#[derive(Default)]
pub(crate) struct TimestampParser {
    /// The last date as text, and as days since 1970.
    last: Option<([u8; 10], u32)>,
}

impl TimestampParser {
    #[inline]
    pub(crate) fn rfc3339(&mut self, text: &[u8]) -> Option<SystemTime> {
        self.usual_form(text).or_else(|| any_rfc3339(text))
    }

    /// Parses `2026-11-22T10:00:00Z`. `None` means that the library must parse it.
    #[inline]
    fn usual_form(&mut self, text: &[u8]) -> Option<SystemTime> {
        let (date, [b'T', clock @ .., b'Z']) = text.split_first_chunk::<10>()? else {
            return None;
        };
        let days = match self.last {
            Some((last, days)) if last == *date => days,
            _ => iso_days(date)?,
        };
        self.last = Some((*date, days));
        time(days, clock.try_into().ok()?)
    }
}

fn any_rfc3339(bytes: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let timestamp: jiff::Timestamp = text.parse().ok()?;
    let since = timestamp.as_duration();
    if since.is_negative() {
        SystemTime::UNIX_EPOCH.checked_sub(since.unsigned_abs())
    } else {
        SystemTime::UNIX_EPOCH.checked_add(since.unsigned_abs())
    }
}

/// Parses `2026-11-22` as days since 1970.
fn iso_days(date: &[u8; 10]) -> Option<u32> {
    let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1] = *date else {
        return None;
    };
    days([
        number(&[y0, y1, y2, y3])?,
        number(&[m0, m1])?,
        number(&[d0, d1])?,
    ])
}

/// Parses an HTTP date in any of its three forms.
pub(crate) fn http_date(text: &[u8]) -> Option<SystemTime> {
    imf_fixdate(text)
        .or_else(|| httpdate::parse_http_date(std::str::from_utf8(text).ok()?.trim()).ok())
}

/// Parses `Sun, 22 Nov 2026 10:00:00 GMT`. `None` means that the library must parse it.
///
/// Source: <https://www.rfc-editor.org/rfc/rfc9110#name-date-time-formats>.
fn imf_fixdate(text: &[u8]) -> Option<SystemTime> {
    let text: &[u8; 29] = text.try_into().ok()?;
    #[rustfmt::skip]
    let [
        w0, w1, w2, b',', b' ', d0, d1, b' ', m0, m1, m2, b' ', y0, y1, y2, y3, b' ',
        clock @ .., b' ', b'G', b'M', b'T',
    ] = text else { return None };
    let month = MONTHS.iter().position(|name| *name == [*m0, *m1, *m2])? as u32 + 1;
    let days = days([number(&[*y0, *y1, *y2, *y3])?, month, number(&[*d0, *d1])?])?;
    if WEEKDAYS[days as usize % 7] != [*w0, *w1, *w2] {
        return None;
    }
    time(days, clock)
}

/// Parses `10:00:00` on a day since 1970.
fn time(days: u32, clock: &[u8; 8]) -> Option<SystemTime> {
    let [h0, h1, b':', m0, m1, b':', s0, s1] = *clock else {
        return None;
    };
    let (hour, minute, second) = (number(&[h0, h1])?, number(&[m0, m1])?, number(&[s0, s1])?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = u64::from(days) * 86_400 + u64::from(hour * 3_600 + minute * 60 + second);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Returns the days since 1970 of a year, month and day.
fn days([year, month, day]: [u32; 3]) -> Option<u32> {
    let most = *DAYS.get(month.checked_sub(1)? as usize)?;
    if year < 1970 || day == 0 || day > most {
        return None;
    }
    // Counted in years that begin in March: a leap day is then the last of its year.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    Some(365 * year + leap_days + day_of_year - 719_468)
}

fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |sum, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit <= 9).then(|| sum * 10 + u32::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::{TimestampParser, imf_fixdate, rfc3339};

    fn usual_form(text: &[u8]) -> Option<SystemTime> {
        TimestampParser::default().usual_form(text)
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn iso(seconds: u64) -> String {
        let seconds = i64::try_from(seconds).expect("before the year 10000");
        jiff::Timestamp::from_second(seconds)
            .expect("in range")
            .to_string()
    }

    #[test]
    fn every_day_is_parsed_as_by_the_libraries() {
        let mut left_to_a_library = 0;
        for day in 0..200 * 366 {
            let seconds = day * 86_400 + 86_399;
            let iso = iso(seconds);
            let http = httpdate::fmt_http_date(at(seconds));
            if usual_form(iso.as_bytes()).is_none() {
                assert!(iso.contains("-02-29T"), "{iso}");
                assert_eq!(imf_fixdate(http.as_bytes()), None);
                left_to_a_library += 1;
                continue;
            }
            assert_eq!(usual_form(iso.as_bytes()), Some(at(seconds)), "{iso}");
            assert_eq!(imf_fixdate(http.as_bytes()), Some(at(seconds)), "{http}");
        }
        assert_eq!(left_to_a_library, 49);
    }

    #[test]
    fn invalid_or_unusual_timestamps_are_left_to_the_library() {
        for text in [
            "2026-11-22T10:00:60Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T10:60:00Z",
            "2026-11-31T10:00:00Z",
            "2026-00-22T10:00:00Z",
            "2026-13-22T10:00:00Z",
            "2026-11-00T10:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-11-22 10:00:00Z",
            "2026-11-22T10:00:00z",
            "2026-11-22T10:00:0 Z",
            "2026-11-22T10:00:00.5Z",
            "",
        ] {
            assert_eq!(usual_form(text.as_bytes()), None, "{text}");
        }
        for text in [
            "Mon, 22 Nov 2026 10:00:00 GMT",
            "Sun, 22 nov 2026 10:00:00 GMT",
            "Sun, 22 Nov 2026 10:00:00 UTC",
            "Sun, 22 Nov 2026 24:00:00 GMT",
            "Sunday, 22-Nov-26 10:00:00 GMT",
            "",
        ] {
            assert_eq!(imf_fixdate(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn timestamp_with_one_changed_byte_is_parsed_as_by_the_libraries(seconds in 0_u64..253_402_300_799, index in 0_usize..29, byte in 0_u8..128) {
            let mut iso = iso(seconds).into_bytes();
            let at_iso = index % iso.len();
            iso[at_iso] = byte;
            if let Some(time) = usual_form(&iso) {
                let text = std::str::from_utf8(&iso).expect("ASCII");
                let stamp: jiff::Timestamp = text.parse().expect("a stamp");
                prop_assert_eq!(time, SystemTime::from(stamp));
            }
            let mut http = httpdate::fmt_http_date(at(seconds)).into_bytes();
            http[index] = byte;
            if let Some(time) = imf_fixdate(&http) {
                let text = std::str::from_utf8(&http).expect("ASCII");
                prop_assert_eq!(Ok(time), httpdate::parse_http_date(text).map_err(|_| ()));
            }
        }

        /// The date that the parser remembers changes no result.
        #[test]
        fn sequence_of_timestamps_is_parsed_as_one_by_one(
            texts in prop::collection::vec(
                prop_oneof![
                    "2026-1[0-3]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9]Z",
                    "2026-11-22T10:00:00[Zz ]",
                    any::<String>(),
                ],
                0..8,
            ),
        ) {
            let mut parser = TimestampParser::default();
            for text in texts {
                prop_assert_eq!(parser.rfc3339(text.as_bytes()), rfc3339(text.as_bytes()));
            }
        }
    }
}
