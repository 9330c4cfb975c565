//! The forecast of what requests use, learned from responses.

pub(crate) mod input;
pub(crate) mod lru_table;
pub(crate) mod margin;
pub(crate) mod mean;
pub(crate) mod output;

use tower_claude_core::Cost;
use tower_claude_wire::Usage;

use crate::{
    config::{LimiterConfig, OutputAccounting},
    pool::{
        bucket::MAX_CHARGE,
        dimension::{Charge, INPUT, NO_CHARGE, OUTPUT, REQUESTS, TOTAL},
        float::rounded,
        forecast::{
            input::InputEstimator,
            output::{OutputEstimator, OutputKey, OutputSlot},
        },
        in_flight::InFlight,
    },
};

/// The bound of plausible token counts. A higher count is an underflow in the server's response,
/// and charging it would block the scope for hours.
const MAX_PLAUSIBLE: u64 = 1 << 26;

/// Returns a reported token count if it is plausible.
pub(crate) fn plausible(tokens: Option<u64>) -> Option<u64> {
    tokens.filter(|tokens| *tokens < MAX_PLAUSIBLE)
}

/// The estimators of input and output.
#[derive(Debug)]
pub(crate) struct Forecast {
    pub(crate) input: InputEstimator,
    pub(crate) output: OutputEstimator,
    calibrate_input: bool,
    learn_output: bool,
    accounting: OutputAccounting,
}

impl Forecast {
    pub(crate) fn new(config: &LimiterConfig) -> Self {
        Self {
            input: InputEstimator::default(),
            output: OutputEstimator::default(),
            calibrate_input: config.calibrate_input,
            learn_output: config.learn_output,
            accounting: config.output_accounting,
        }
    }

    /// Returns the charge of a request, by the current estimates.
    pub(crate) fn charge(&self, cost: &Cost) -> Charge {
        let input = if self.calibrate_input && !cost.counted {
            rounded(cost.input_tokens as f64 * self.input.ratio_of(cost.workload))
        } else {
            cost.input_tokens
        };
        let max = cost.max_output_tokens.unwrap_or(u64::MAX);
        let mean = self.output.mean_of(OutputKey::of(cost));
        let expected = match (self.accounting, mean) {
            (OutputAccounting::MaxTokensReserved, _) if max < u64::MAX => max,
            (OutputAccounting::AsProduced, Some(mean)) if self.learn_output => rounded(mean),
            _ => cost.output_tokens,
        };
        let input = input.min(MAX_CHARGE);
        let output = expected.min(max).min(MAX_CHARGE);
        let mut charge = NO_CHARGE;
        charge[REQUESTS] = cost.requests.min(MAX_CHARGE);
        charge[INPUT] = input;
        charge[OUTPUT] = output;
        charge[TOTAL] = input + output;
        charge
    }

    /// Records that a request is in flight. Returns the slot of its output statistics.
    pub(crate) fn on_sent(&mut self, cost: &Cost, charge: &Charge) -> OutputSlot {
        self.input.add_uncounted(charge[INPUT]);
        self.output.on_sent(OutputKey::of(cost))
    }

    /// Records that the server's input count of a request is known.
    pub(crate) fn on_input_counted(&mut self, request: &mut InFlight) {
        let counted = std::mem::take(&mut request.uncounted_input);
        self.input.remove_uncounted(counted);
    }

    /// Records that a request is no longer in flight.
    pub(crate) fn on_ended(&mut self, request: &mut InFlight) {
        self.on_input_counted(request);
        self.output.on_ended(request.output_slot);
    }

    /// Learns from the usage of a successful request.
    pub(crate) fn learn(&mut self, request: &InFlight, usage: &Usage) {
        if let Some(output) = plausible(usage.limited_output()).filter(|_| self.learn_output) {
            self.output.learn(request.output_slot, output);
        }
        if let Some(input) = plausible(usage.limited_input()).filter(|_| self.calibrate_input) {
            let cost = &request.cost;
            let read = usage.cache_read_input_tokens.unwrap_or(0);
            let cached = cost.cached_tokens.unwrap_or(read);
            if cost.counted {
                self.input.learn_outlier(cost.input_tokens, input);
            } else if is_about(cached, read) {
                self.input.learn(cost.workload, cost.input_tokens, input);
            } else if read < cached {
                // A missing cache read shows nothing about the text, so only the error is learned.
                // An unexpected read is no error that a margin must cover.
                let expected = cost.input_tokens as f64 * self.input.ratio_of(cost.workload);
                self.input.learn_outlier(rounded(expected), input);
            }
        }
    }
}

/// Returns true if an expected cache read occurred, up to the error of its own token estimate.
const fn is_about(expected: u64, actual: u64) -> bool {
    let larger = if expected > actual { expected } else { actual };
    expected.abs_diff(actual) <= larger / 8
}
