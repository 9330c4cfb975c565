//! The safety margins: the part of each level that is not used, because the server's level is not
//! known exactly.

use crate::pool::{
    bucket::{UNIT, units},
    buckets::Buckets,
    dimension::{DIMENSIONS, INPUT, Margins, OUTPUT, REQUESTS, TOTAL},
    float::rounded_up,
    forecast::Forecast,
};

/// Half of the 1,000 tokens that counts in headers are rounded to.
pub(crate) const HALF_ROUNDING: u64 = 500;

/// The number of standard errors in a margin.
pub(crate) const SIGMAS: f64 = 3.0;

/// Returns the safety margins, in units, for a request of this input. A configured limit that no
/// header has shown has none, so it is used to the last token.
pub(crate) fn margins(buckets: &Buckets, forecast: &Forecast, input: u64) -> Margins {
    let input = input_error(forecast, input);
    let output = output_error(forecast);
    let mut margins = [0; DIMENSIONS.len()];
    for (index, margin) in margins.iter_mut().enumerate() {
        let dimension = &buckets.dimensions[index];
        let capacity = match &dimension.bucket {
            Some(bucket) => bucket.capacity(),
            // Additional limits bound the margin by their own capacity.
            None if buckets.has_additional() => i128::MAX,
            None => continue,
        };
        let observed = dimension.observed;
        let rounding = if observed { units(HALF_ROUNDING) } else { 0 };
        let (wanted, tenths) = match index {
            REQUESTS if observed => (UNIT * 3 / 2, 1),
            // One ratio applies to a whole first burst, so its error does not average out.
            INPUT if forecast.input.has_few_samples() => (rounding + input, 2),
            INPUT => (rounding + input, 1),
            OUTPUT => (rounding + output, 3),
            TOTAL => (rounding + input + output, 3),
            _ => continue,
        };
        *margin = at_most_tenths(wanted, capacity, tenths);
    }
    margins
}

/// Returns the error of the input that the server has not counted yet, with that of the next
/// request.
fn input_error(forecast: &Forecast, input: u64) -> i128 {
    let error = forecast.input.error();
    if error <= 0.0 {
        return 0;
    }
    let tokens = forecast.input.uncounted().saturating_add(input);
    float_units(SIGMAS * error * tokens as f64)
}

/// Returns the error of the output in flight. It grows with the root of the number of responses.
fn output_error(forecast: &Forecast) -> i128 {
    let variance = forecast.output.variance();
    if variance <= 0.0 {
        return 0;
    }
    float_units(SIGMAS * variance.sqrt())
}

/// Returns at most this many tenths of a capacity. Up to a sixteenth needs no division.
fn at_most_tenths(wanted: i128, capacity: i128, tenths: i128) -> i128 {
    if wanted <= capacity >> 4 {
        return wanted;
    }
    wanted.min(capacity / 10 * tenths)
}

/// Returns whole tokens, rounded up, in units.
pub(crate) fn float_units(tokens: f64) -> i128 {
    // The callers cap higher values.
    units(rounded_up(tokens.min(1e12)))
}
