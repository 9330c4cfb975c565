//! Request sources, their times and sizes.

use std::{path::Path, sync::Arc};

use crate::{
    random::{exponential, lognormal, normal},
    units::{MINUTE, SECOND, nanos},
};

/// Mean tokens of a request and of a response, and the deviations of their logarithms.
pub(crate) const INPUT: (f64, f64) = (2_200.0, 1.0);
pub(crate) const OUTPUT: (f64, f64) = (340.0, 0.8);
/// Maximum lengths of both.
pub(crate) const MOST_INPUT: f64 = 30_000.0;
pub(crate) const MOST_OUTPUT: u64 = 4_096;
/// A larger request counts as big: five times the median.
pub(crate) const BIG: u64 = 6_672;

/// Limits per minute: requests, input tokens, output tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Quota(pub(crate) [u64; 3]);

impl Quota {
    /// The default limits.
    pub(crate) const USUAL: Self = Self([1_000, 450_000, 90_000]);

    pub(crate) fn times(self, factor: f64) -> Self {
        Self(self.0.map(|limit| (limit as f64 * factor).round() as u64))
    }

    /// Returns the seconds of the binding limit that a request of these sizes uses.
    pub(crate) fn work(&self, input: u64, output: u64) -> f64 {
        let share = |cost: u64, limit: u64| cost as f64 * 60.0 / limit as f64;
        share(1, self.0[0])
            .max(share(input, self.0[1]))
            .max(share(output, self.0[2]))
    }

    /// Returns the number of requests of mean size per second.
    pub(crate) fn per_second(&self) -> f64 {
        1.0 / self.work(INPUT.0 as u64, OUTPUT.0 as u64)
    }
}

/// Priority class of a request. Only a fair queue uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestClass {
    Batch,
    Interactive,
}

/// Arrival process of the requests of one source.
#[derive(Clone, Debug)]
pub(crate) enum When {
    /// A closed loop: each worker submits its next request at the end of the response.
    Closed(u32),
    /// Independent arrivals at a rate per second.
    Poisson(f64),
    /// Like [`Poisson`](Self::Poisson), but only in the first half of every two minutes.
    Bursts(f64),
    /// A recorded trace, repeated, in which each arrival has its own sizes.
    Trace(Arc<Trace>),
}

/// A stream of requests.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) when: When,
    pub(crate) class: RequestClass,
}

impl Source {
    pub(crate) const fn batch(when: When) -> Self {
        Self {
            when,
            class: RequestClass::Batch,
        }
    }

    pub(crate) const fn interactive(when: When) -> Self {
        Self {
            when,
            class: RequestClass::Interactive,
        }
    }

    /// Returns the time of arrival `index`, which follows the arrival at `now`. `None` for closed
    /// loops.
    pub(crate) fn next(&self, now: u64, index: u64, rng: &mut fastrand::Rng) -> Option<u64> {
        match &self.when {
            When::Closed(_) => None,
            When::Poisson(rate) => Some(now + nanos(exponential(rng, 1.0 / rate))),
            When::Bursts(rate) => {
                let at = now + nanos(exponential(rng, 1.0 / rate));
                let phase = at % (2 * MINUTE);
                Some(if phase < MINUTE {
                    at
                } else {
                    at - phase + 2 * MINUTE
                })
            }
            When::Trace(trace) => Some(trace.arrival(index)),
        }
    }
}

/// The actual sizes of a request, and the client's estimate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) input: u64,
    pub(crate) estimate: u64,
    pub(crate) output: u64,
}

impl Sizes {
    pub(crate) fn draw(rng: &mut fastrand::Rng, error: f64, of: Option<(u32, u32)>) -> Self {
        let (input, output) = match of {
            Some((input, output)) => (f64::from(input), f64::from(output)),
            None => (
                lognormal(rng, INPUT.0, INPUT.1),
                lognormal(rng, OUTPUT.0, OUTPUT.1),
            ),
        };
        let input = input.clamp(20.0, MOST_INPUT);
        let estimate = input * (1.0 + error * normal(rng));
        Self {
            input: input as u64,
            estimate: estimate.max(1.0) as u64,
            output: (output as u64).clamp(1, MOST_OUTPUT),
        }
    }
}

/// A recorded trace: arrivals in nanoseconds from its start, input and output tokens.
#[derive(Debug)]
pub(crate) struct Trace {
    rows: Vec<(u64, u32, u32)>,
}

impl Trace {
    /// Reads `TIMESTAMP,ContextTokens,GeneratedTokens` lines, all of one day.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let mut rows = Vec::new();
        for (number, line) in text.lines().enumerate().skip(1) {
            let row = parse(line.trim());
            rows.push(row.ok_or_else(|| format!("{}:{}: not a row", path.display(), number + 1))?);
        }
        let start = rows.iter().map(|row| row.0).min();
        let start = start.ok_or_else(|| format!("{}: no rows", path.display()))?;
        rows.iter_mut().for_each(|row| row.0 -= start);
        rows.sort_unstable();
        Ok(Self { rows })
    }

    fn row(&self, index: u64) -> (u64, u32, u32) {
        self.rows[(index % self.rows.len() as u64) as usize]
    }

    fn arrival(&self, index: u64) -> u64 {
        let length = self.rows[self.rows.len() - 1].0 + SECOND;
        self.row(index).0 + index / self.rows.len() as u64 * length
    }

    pub(crate) fn sizes(&self, index: u64) -> (u32, u32) {
        let (_, input, output) = self.row(index);
        (input, output)
    }
}

fn parse(line: &str) -> Option<(u64, u32, u32)> {
    let mut fields = line.split(',');
    let (_, time) = fields.next()?.split_once(' ')?;
    let mut clock = time.split(':');
    let hours: f64 = clock.next()?.parse().ok()?;
    let minutes: f64 = clock.next()?.parse().ok()?;
    let rest: f64 = clock.next()?.parse().ok()?;
    let at = nanos(hours * 3_600.0 + minutes * 60.0 + rest);
    Some((
        at,
        fields.next()?.parse().ok()?,
        fields.next()?.parse().ok()?,
    ))
}
