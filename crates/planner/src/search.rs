//! The search of the least limit that meets a target.

use std::{str::FromStr, time::Duration};

use serde::{Serialize, Serializer};

use crate::{
    bucket::{self, Quota},
    demand::Demand,
};

/// The relative precision of a search.
const PRECISION: u64 = 2_000;

/// The highest limit that is tried.
const MOST: u64 = 1 << 44;

/// A target for waits: this share of all requests waits no longer than this.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// The share, from 0 to 1.
    pub share: f64,
    /// The longest wait.
    pub wait: Duration,
}

impl Target {
    /// The target that no request waits.
    pub const NONE: Self = Self {
        share: 1.0,
        wait: Duration::ZERO,
    };

    /// The target that is used if none is given: 95 % of the requests wait for 5 s at most.
    pub const DEFAULT: Self = Self {
        share: 0.95,
        wait: Duration::from_secs(5),
    };

    /// Returns the number of `count` requests that may wait for longer.
    fn allowed(&self, count: usize) -> usize {
        count - ((self.share * count as f64).ceil() as usize).min(count)
    }

    /// Returns true if a replay with pacing meets the target.
    #[must_use]
    pub fn is_met(&self, demand: &[Demand], quota: &Quota) -> bool {
        let allowed = self.allowed(demand.len());
        let longest = u64::try_from(self.wait.as_nanos()).unwrap_or(u64::MAX);
        let mut longer = 0;
        bucket::replay(demand, quota, true, |_, wait| {
            longer += usize::from(wait.is_some_and(|wait| wait.nanos > longest));
            longer <= allowed
        });
        longer <= allowed
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.wait.is_zero(), self.share) {
            (true, 1.0..) => f.write_str("no wait"),
            (_, 1.0..) => write!(f, "every wait ≤ {} s", self.wait.as_secs_f64()),
            _ => write!(
                f,
                "p{} wait ≤ {} s",
                self.share * 100.0,
                self.wait.as_secs_f64()
            ),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Target {
    type Err = String;

    /// Parses `p95 5s`, `max 30s` or `none`.
    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is no target such as \"p95 5s\", \"max 30s\" or \"none\"");
        if text == "none" {
            return Ok(Self::NONE);
        }
        let (share, wait) = text.split_once(' ').ok_or_else(error)?;
        let share = match share.strip_prefix('p') {
            None if share == "max" => 100.0,
            Some(percent) => percent.parse::<f64>().map_err(|_| error())?,
            None => return Err(error()),
        };
        if !(1.0..=100.0).contains(&share) {
            return Err(error());
        }
        Ok(Self {
            share: share / 100.0,
            wait: parse_duration(wait.trim()).ok_or_else(error)?,
        })
    }
}

/// Parses a duration such as `500ms`, `10s`, `5m`, `2h` or `7d`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let at = text.find(|digit: char| !digit.is_ascii_digit() && digit != '.')?;
    let number: f64 = text[..at].parse().ok()?;
    let unit = match &text[at..] {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * unit)
        .ok()
        .filter(|time| time.as_secs() < 1 << 32)
}

/// Returns the least limit per minute in one dimension, with a bucket that holds `burst` of it, for
/// which a target is met. It is at most 0.05 % too high. `None` if no limit meets it.
#[must_use]
pub fn least_limit(
    demand: &[Demand],
    dimension: usize,
    burst: Duration,
    target: &Target,
) -> Option<u64> {
    let is_met = |limit| target.is_met(demand, &Quota::only(dimension, limit, burst));
    if demand
        .iter()
        .all(|request| request.limited()[dimension] == 0)
    {
        return Some(0);
    }
    let (mut low, mut high) = (0, 1_u64);
    while !is_met(high) {
        if high >= MOST {
            return None;
        }
        (low, high) = (high, high * 4);
    }
    while high - low > (high / PRECISION).max(1) {
        let middle = low + (high - low) / 2;
        match is_met(middle) {
            true => high = middle,
            false => low = middle,
        }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_is_parsed_and_printed() {
        let target: Target = "p95 5s".parse().unwrap();
        assert_eq!(target, Target::DEFAULT);
        assert_eq!(target.to_string(), "p95 wait ≤ 5 s");
        assert_eq!("none".parse::<Target>().unwrap().to_string(), "no wait");
        assert_eq!(
            "max 1.5m".parse::<Target>().unwrap().wait,
            Duration::from_secs(90)
        );
        for bad in [
            "",
            "p95",
            "p0 1s",
            "p101 1s",
            "q95 1s",
            "p95 5",
            "p95 -1s",
            "max 1e999s",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
