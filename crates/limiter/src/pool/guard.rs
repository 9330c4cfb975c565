//! What is held back because the server's level is not known exactly.

use super::{
    Pool,
    bucket::{UNIT, units},
    float::rounded_up,
    lane::{INPUT, LANES, OUTPUT, REQUESTS, TOTAL},
};

/// Half of the thousand that token counts in headers are rounded to.
pub(crate) const HALF_ROUNDING: u64 = 500;

/// Three standard errors.
pub(crate) const SIGMAS: f64 = 3.0;

impl Pool {
    /// The part of each level that is not given out, in units. Zero where nothing is uncertain: a
    /// configured limit that no header has spoken of is used to the last token. `input` is what is about
    /// to be sent. Of a lane that only further limits are on it is not bounded by any capacity.
    pub(super) fn guards(&self, input: u64) -> [i128; LANES] {
        let mut guards = [0; LANES];
        let input = self.input_error(input);
        let output = self.output_error();
        for (lane, guard) in guards.iter_mut().enumerate() {
            let capacity = match &self.lanes[lane].bucket {
                Some(bucket) => bucket.capacity(),
                // Limits beside the main one hold back a part of their own.
                None if !self.extras.is_empty() => i128::MAX,
                None => continue,
            };
            let observed = self.lanes[lane].observed;
            let rounding = if observed { units(HALF_ROUNDING) } else { 0 };
            let (wanted, tenths) = match lane {
                REQUESTS if observed => (UNIT * 3 / 2, 1),
                // One ratio for a whole first burst: its error does not average out.
                INPUT => (rounding + input, if self.input.is_young() { 2 } else { 1 }),
                OUTPUT => (rounding + output, 3),
                TOTAL => (rounding + input + output, 3),
                _ => continue,
            };
            *guard = at_most_tenths(wanted, capacity, tenths);
        }
        guards
    }

    /// Errors of the input that the server has not told its own count of yet, and of what is about to
    /// be sent.
    fn input_error(&self, input: u64) -> i128 {
        let error = self.input.error();
        if error <= 0.0 {
            return 0;
        }
        float_units(SIGMAS * error * self.guessed_input.saturating_add(input) as f64)
    }

    /// Errors of independent answers grow with the root of their number.
    fn output_error(&self) -> i128 {
        let variance = self.output.variance();
        if variance <= 0.0 {
            return 0;
        }
        float_units(SIGMAS * variance.sqrt())
    }
}

/// At most so many tenths of a capacity. Less than a sixteenth needs no division to see.
fn at_most_tenths(wanted: i128, capacity: i128, tenths: i128) -> i128 {
    if wanted <= capacity >> 4 {
        return wanted;
    }
    wanted.min(capacity / 10 * tenths)
}

/// Whole tokens, rounded up, in units.
pub(crate) fn float_units(tokens: f64) -> i128 {
    // Anything near that is capped by the caller.
    units(rounded_up(tokens.min(1e12)))
}
