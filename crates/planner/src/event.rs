//! The plan of an event: a multiple of the usual traffic at a known time.

use std::{str::FromStr, time::Duration};

use serde::Serialize;

use crate::{
    demand::Demand,
    search::parse_duration,
    time::{Time, WEEK},
};

/// An event to plan for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// The start.
    pub at: Time,
    /// The multiple of the usual traffic.
    pub factor: f64,
    /// The length.
    pub length: Duration,
}

impl FromStr for Event {
    type Err = String;

    /// Parses `2026-12-05T18:00 4x 2h`. A time without an offset is UTC.
    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is no event such as \"2026-12-05T18:00 4x 2h\"");
        let mut words = text.split_whitespace();
        let (Some(at), Some(factor), Some(length), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(error());
        };
        let factor = factor
            .strip_suffix('x')
            .and_then(|factor| factor.parse::<f64>().ok());
        let factor = factor.filter(|factor| *factor > 0.0 && *factor <= 1_000.0);
        let length = parse_duration(length).filter(|length| {
            *length >= Duration::from_secs(60) && *length <= Duration::from_secs(7 * 86_400)
        });
        Ok(Self {
            at: Time::parse_or_utc(at)?,
            factor: factor.ok_or_else(error)?,
            length: length.ok_or_else(error)?,
        })
    }
}

/// The most requests of an event. There are fewer copies of more requests.
const MOST: usize = 4_000_000;

/// The traffic that an event is a multiple of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EventBasis {
    /// The start of the window in the record.
    pub from: Time,
    /// True for the same hours of an earlier week, false for the busiest hours of the record.
    pub is_same_hours: bool,
}

/// Returns the demand of an event, and its basis. `None` if the record has no traffic.
pub(crate) fn demand(all: &[Demand], event: &Event) -> Option<(Vec<Demand>, EventBasis)> {
    let (first, last) = (all.first()?.at, all.last()?.at);
    let length = event.length.as_micros() as i64;
    let weeks_back = (event.at.0 + length - last).max(0).div_euclid(WEEK) + 1;
    let same = event.at.0 - weeks_back * WEEK;
    let (from, is_same_hours) = match same >= first && same + length <= last {
        true => (same, true),
        false => (busiest(all, length), false),
    };
    let inside: Vec<&Demand> = all
        .iter()
        .filter(|request| (from..from + length).contains(&request.at))
        .collect();
    let mut demand = Vec::new();
    // Whole copies, and a part of one. A second between copies keeps bursts from adding up.
    let whole = event.factor.ceil() as usize;
    let copies = whole.min(MOST / inside.len().max(1)).max(1);
    for request in inside {
        for copy in 0..copies {
            let part = match copies == whole {
                true => (event.factor - copy as f64).min(1.0),
                // Fewer and larger ones.
                false => event.factor / copies as f64,
            };
            let scaled = |amount: u64| (amount as f64 * part).round() as u64;
            demand.push(Demand {
                at: request.at + copy as i64 * 1_000_000,
                millirequests: scaled(request.millirequests),
                input: scaled(request.input),
                cache_read: scaled(request.cache_read),
                cache_write: scaled(request.cache_write),
                output: scaled(request.output),
                ..*request
            });
        }
    }
    demand.sort_by_key(|request| request.at);
    let basis = EventBasis {
        from: Time(from),
        is_same_hours,
    };
    (!demand.is_empty()).then_some((demand, basis))
}

/// Returns the start of the window of this length with the most tokens.
fn busiest(all: &[Demand], length: i64) -> i64 {
    let tokens = |request: &Demand| request.input + request.cache_write + request.output;
    let (mut from, mut sum, mut most, mut start) = (0, 0_u128, 0, all[0].at);
    for request in all {
        sum += u128::from(tokens(request));
        while all[from].at <= request.at - length {
            sum -= u128::from(tokens(&all[from]));
            from += 1;
        }
        if sum > most {
            (most, start) = (sum, all[from].at);
        }
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factor_multiplies_all_amounts_with_any_number_of_copies() {
        let request = |at: i64| Demand {
            at: at * 1_000_000,
            millirequests: 1_000,
            input: 1_000,
            cache_read: 0,
            cache_write: 0,
            output: 0,
            tag: 0,
            model: 0,
        };
        let all: Vec<Demand> = (0..5_000).map(request).collect();
        for (factor, count) in [("2.5x", 15_000), ("1000x", MOST)] {
            let event: Event = format!("2026-12-05T18:00 {factor} 2h").parse().unwrap();
            let (demand, basis) = demand(&all, &event).unwrap();
            assert!(!basis.is_same_hours);
            assert_eq!(demand.len(), count);
            let sum: u64 = demand.iter().map(|request| request.input).sum();
            assert_eq!(sum as f64, 5_000_000.0 * event.factor);
        }
    }
}
