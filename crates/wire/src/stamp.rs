//! Times in the two forms that servers write them in, since every response has several. Every other
//! form is left to a library, and so is every doubt.

use std::time::{Duration, SystemTime};

/// Days of the months; the 29th of February is a doubt.
const DAYS: [u32; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

const MONTHS: [[u8; 3]; 12] = [
    *b"Jan", *b"Feb", *b"Mar", *b"Apr", *b"May", *b"Jun", *b"Jul", *b"Aug", *b"Sep", *b"Oct",
    *b"Nov", *b"Dec",
];

/// From the first day of 1970 on, a Thursday.
const WEEKDAYS: [[u8; 3]; 7] = [
    *b"Thu", *b"Fri", *b"Sat", *b"Sun", *b"Mon", *b"Tue", *b"Wed",
];

/// `2026-11-22T10:00:00Z`; `None` means no more than that a library must look.
pub(crate) fn rfc3339(text: &[u8]) -> Option<SystemTime> {
    let text: &[u8; 20] = text.try_into().ok()?;
    #[rustfmt::skip]
    let [
        y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1, b'T', clock @ .., b'Z',
    ] = text else { return None };
    let date = [
        number(&[*y0, *y1, *y2, *y3])?,
        number(&[*m0, *m1])?,
        number(&[*d0, *d1])?,
    ];
    time(days(date)?, clock)
}

/// The day of the last stamp: those of one response mostly fall on one.
#[derive(Default)]
pub(crate) struct Day {
    text: [u8; 10],
    days: u32,
}

impl Day {
    /// As [`rfc3339`], and where that must give up as the library has it.
    #[inline]
    pub(crate) fn rfc3339(&mut self, text: &[u8]) -> Option<SystemTime> {
        if let Some((date, [b'T', clock @ .., b'Z'])) = text.split_first_chunk::<10>()
            && let Ok(clock) = clock.try_into()
            && (*date == self.text || self.set(date))
            && let Some(time) = time(self.days, clock)
        {
            return Some(time);
        }
        crate::headers::rfc3339(text)
    }

    fn set(&mut self, text: &[u8; 10]) -> bool {
        let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1] = text else {
            return false;
        };
        let found = (|| {
            days([
                number(&[*y0, *y1, *y2, *y3])?,
                number(&[*m0, *m1])?,
                number(&[*d0, *d1])?,
            ])
        })();
        let Some(days) = found else { return false };
        *self = Self { text: *text, days };
        true
    }
}

/// `Sun, 22 Nov 2026 10:00:00 GMT`; `None` means no more than that a library must look.
///
/// Source: <https://www.rfc-editor.org/rfc/rfc9110#name-date-time-formats>.
pub(crate) fn http_date(text: &[u8]) -> Option<SystemTime> {
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

/// `10:00:00` on a day since 1970.
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

/// Days since 1970 of a year, month and day.
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

    use super::{http_date, rfc3339};

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
    fn every_day_as_the_libraries_have_it() {
        let mut left_to_a_library = 0;
        for day in 0..200 * 366 {
            let seconds = day * 86_400 + 86_399;
            let iso = iso(seconds);
            let http = httpdate::fmt_http_date(at(seconds));
            if rfc3339(iso.as_bytes()).is_none() {
                assert!(iso.contains("-02-29T"), "{iso}");
                assert_eq!(http_date(http.as_bytes()), None);
                left_to_a_library += 1;
                continue;
            }
            assert_eq!(rfc3339(iso.as_bytes()), Some(at(seconds)), "{iso}");
            assert_eq!(http_date(http.as_bytes()), Some(at(seconds)), "{http}");
        }
        assert_eq!(left_to_a_library, 49);
    }

    #[test]
    fn what_is_in_doubt_is_left_to_a_library() {
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
            assert_eq!(rfc3339(text.as_bytes()), None, "{text}");
        }
        for text in [
            "Mon, 22 Nov 2026 10:00:00 GMT",
            "Sun, 22 nov 2026 10:00:00 GMT",
            "Sun, 22 Nov 2026 10:00:00 UTC",
            "Sun, 22 Nov 2026 24:00:00 GMT",
            "Sunday, 22-Nov-26 10:00:00 GMT",
            "",
        ] {
            assert_eq!(http_date(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        /// Whatever is read here, the libraries read alike.
        #[test]
        fn one_changed_byte(seconds in 0_u64..253_402_300_799, index in 0_usize..29, byte in 0_u8..128) {
            let mut iso = iso(seconds).into_bytes();
            let at_iso = index % iso.len();
            iso[at_iso] = byte;
            if let Some(time) = rfc3339(&iso) {
                let text = std::str::from_utf8(&iso).expect("ASCII");
                let stamp: jiff::Timestamp = text.parse().expect("a stamp");
                prop_assert_eq!(time, SystemTime::from(stamp));
            }
            let mut http = httpdate::fmt_http_date(at(seconds)).into_bytes();
            http[index] = byte;
            if let Some(time) = http_date(&http) {
                let text = std::str::from_utf8(&http).expect("ASCII");
                prop_assert_eq!(Ok(time), httpdate::parse_http_date(text).map_err(|_| ()));
            }
        }
    }
}
