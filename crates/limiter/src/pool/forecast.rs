//! The forecast of what requests use, learned from responses, and the safety margins for its error.

use tower_claude_core::{Cost, Workload};

use crate::{
    config::{LimiterConfig, OutputAccounting},
    pool::{
        bucket::{
            Charge, DIMENSIONS, INPUT, MAX_CHARGE, Margins, NO_CHARGE, OUTPUT, REQUESTS, TOTAL,
            UNIT, rounded, rounded_up, units,
        },
        buckets::Buckets,
        calibration::Calibration,
        in_flight::{InFlight, OutputSlot},
        statistics::{LatestErrors, LruTable, Mean, RelativeError, quantile},
    },
    snapshot::EstimateSnapshot,
};

/// The estimators of input and output.
#[derive(Debug)]
pub(crate) struct Forecast {
    pub(crate) input: InputEstimator,
    pub(crate) output: OutputEstimator,
    calibrate_input: bool,
    learn_output: bool,
    /// The share of requests that are not to exceed their charge near a limit, if that is more than
    /// the half.
    near_limit_share: Option<f64>,
    accounting: OutputAccounting,
}

impl Forecast {
    pub(crate) fn new(config: &LimiterConfig) -> Self {
        Self {
            input: InputEstimator::default(),
            output: OutputEstimator::default(),
            calibrate_input: config.calibrate_input,
            learn_output: config.learn_output,
            near_limit_share: near_limit_share(config.near_limit_percentile),
            accounting: config.output_accounting,
        }
    }

    /// Returns true if the charged output is what is expected, and not what the server reserves.
    pub(crate) fn expects_output(&self) -> bool {
        self.accounting == OutputAccounting::AsProduced
    }

    /// Returns the charge of a request, by the current estimates.
    pub(crate) fn charge(&self, cost: &Cost) -> Charge {
        let input = if self.calibrate_input && !cost.counted && cost.settles_input() {
            rounded(self.input.expected(InputKey::of(cost), cost.input_tokens))
        } else {
            cost.input_tokens
        };
        let max = cost.max_output_tokens.unwrap_or(u64::MAX);
        let mean = self.output.mean_of(OutputKey::of(cost));
        let expected = match (self.accounting, mean) {
            _ if !cost.settles_output() => cost.output_tokens,
            (OutputAccounting::MaxTokensReserved, _) if max < u64::MAX => max,
            (OutputAccounting::AsProduced, Some(mean)) if self.learn_output => rounded(mean),
            _ => cost.output_tokens,
        };
        // A ratio that was learned from odd responses charges no more than the request can use.
        let input = if self.calibrate_input && cost.settles_input() {
            input.min(u64::from(cost.bound.input_tokens).max(cost.input_tokens))
        } else {
            input
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

    /// Returns the charge with the input that the configured share of requests does not exceed, if
    /// a limit on input is nearly used up.
    pub(crate) fn charge_near(&self, buckets: &Buckets, cost: &Cost) -> Charge {
        match self.near_limit_share {
            Some(share) => self.charge_with_doubt(buckets, cost, share),
            None => self.charge(cost),
        }
    }

    // Out of line, since it is off by default.
    #[inline(never)]
    fn charge_with_doubt(&self, buckets: &Buckets, cost: &Cost, share: f64) -> Charge {
        let mut charge = self.charge(cost);
        let near = buckets.of_input().filter(|bucket| {
            let left = bucket.level() - units(charge[INPUT]);
            left < bucket.capacity() / 4
        });
        // A guess must not make a request larger than a limit.
        let most = near.map(|bucket| bucket.capacity() / UNIT).min();
        if let Some(most) = most.and_then(|most| u64::try_from(most).ok()) {
            let input = charge[INPUT].saturating_add(self.doubt(cost, &charge, share));
            charge[INPUT] = input.min(most).max(charge[INPUT]);
            charge[TOTAL] = charge[INPUT] + charge[OUTPUT];
        }
        charge
    }

    /// Returns the input beyond the charge that this share of requests like this one does not
    /// exceed. 0 if the input is known, or is not to be corrected.
    pub(crate) fn doubt(&self, cost: &Cost, charge: &Charge, share: f64) -> u64 {
        if cost.counted || !cost.settles_input() || !self.calibrate_input {
            return 0;
        }
        let ratio = self.input.upper_ratio(InputKey::of(cost), share);
        let upper = rounded_up(charge[INPUT] as f64 * ratio).min(MAX_CHARGE);
        let most = u64::from(cost.bound.input_tokens).max(charge[INPUT]);
        upper.min(most).saturating_sub(charge[INPUT])
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

    /// Records that a request is no longer in flight. Learns from its output, if that shows what
    /// such requests use.
    pub(crate) fn on_ended(&mut self, request: &InFlight, output: Option<u64>) {
        self.input.remove_uncounted(request.uncounted_input);
        let output = output.filter(|_| self.learn_output);
        self.output.on_ended(request.output_slot, output);
    }

    /// Learns from the input of a request that the server took. `read` is the input that it read
    /// from the prompt cache.
    pub(crate) fn learn_input(&mut self, cost: &Cost, input: u64, read: u64) {
        if !self.calibrate_input {
            return;
        }
        let cached = cost.cached_tokens;
        if cost.counted {
            self.input.learn_outlier(cost.input_tokens, input);
        } else if cached.is_none_or(|cached| is_about(cached, read)) {
            self.input.learn(cost, input);
        } else if cached.is_some_and(|cached| read < cached) {
            // A missing cache read shows nothing about the text, so only the error is learned. An
            // unexpected read is no error that a margin must cover.
            let expected = self.input.expected(InputKey::of(cost), cost.input_tokens);
            self.input.learn_outlier(rounded(expected), input);
        }
    }
}

fn near_limit_share(percent: u8) -> Option<f64> {
    (percent > 50).then(|| f64::from(percent.min(99)) / 100.0)
}

/// Returns true if an expected cache read occurred, up to the error of its own token estimate.
const fn is_about(expected: u64, actual: u64) -> bool {
    let larger = if expected > actual { expected } else { actual };
    expected.abs_diff(actual) <= larger / 8
}

/// The errors from which on their quantiles are believed, and the ratio of actual to expected
/// tokens that a first estimate hardly exceeds.
const ENOUGH_ERRORS: usize = 16;
const FIRST_RATIO: f64 = 1.35;

/// Below this many responses the error is taken to be at least [`PRIOR_ERROR`].
const FEW: u32 = 32;
const PRIOR_ERROR: f64 = 0.1;

/// The key of requests with a calibration of their own: their workload, and the variant of their
/// prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InputKey(u64);

impl InputKey {
    const fn of(cost: &Cost) -> Self {
        Self(cost.workload.to_bits() << 8 | cost.variant as u64)
    }
}

/// The calibration of one key, and the errors that remained.
#[derive(Debug, Default)]
struct InputStats {
    workload: Workload,
    variant: u8,
    calibration: Calibration,
    errors: LatestErrors,
}

/// Calibrations of input estimates, and the relative error that remains.
#[derive(Debug)]
pub(crate) struct InputEstimator {
    all: Calibration,
    keys: LruTable<InputStats>,
    error: RelativeError,
    /// Input in flight that the server's count of is not known yet.
    uncounted: u64,
}

impl Default for InputEstimator {
    fn default() -> Self {
        Self {
            all: Calibration::of_scope(),
            keys: LruTable::default(),
            error: RelativeError::default(),
            uncounted: 0,
        }
    }
}

impl InputEstimator {
    /// Returns the mean ratio of actual to estimated tokens of the whole scope.
    pub(crate) fn ratio(&self) -> f64 {
        self.all.ratio()
    }

    /// Returns the tokens that are expected for an estimate.
    fn expected(&self, key: InputKey, estimate: u64) -> f64 {
        let estimate = estimate as f64;
        match self.keys.get(key.0) {
            Some(stats) => stats.calibration.expected_within(&self.all, estimate),
            None => self.all.expected(estimate),
        }
    }

    /// Returns the ratio of actual to expected tokens that this share of the requests of a key does
    /// not exceed, at least 1. It is at least that of a first estimate while there are few samples.
    fn upper_ratio(&self, key: InputKey, share: f64) -> f64 {
        let stats = self.keys.get(key.0);
        let errors = stats.map(|stats| stats.errors.sorted()).unwrap_or_default();
        let ratio = quantile(&errors, share).unwrap_or(1.0).max(1.0);
        let is_sure = errors.len() >= ENOUGH_ERRORS;
        if is_sure {
            ratio
        } else {
            ratio.max(FIRST_RATIO)
        }
    }

    /// Returns the calibrations by key, and their latest errors.
    pub(crate) fn snapshot(&self) -> Vec<EstimateSnapshot> {
        let stats = self.keys.values();
        let snapshot = |stats: &InputStats| EstimateSnapshot {
            workload: stats.workload,
            variant: stats.variant,
            samples: stats.calibration.samples(),
            offset: stats.calibration.offset(),
            slope: stats.calibration.slope(),
            errors: stats.errors.sorted().into(),
        };
        stats.map(snapshot).collect()
    }

    pub(crate) const fn uncounted(&self) -> u64 {
        self.uncounted
    }

    pub(crate) const fn add_uncounted(&mut self, tokens: u64) {
        self.uncounted += tokens;
    }

    pub(crate) const fn remove_uncounted(&mut self, tokens: u64) {
        self.uncounted -= tokens;
    }

    pub(crate) const fn has_few_samples(&self) -> bool {
        self.error.samples() < FEW
    }

    /// Returns the standard error of one corrected estimate, relative to its size.
    pub(crate) fn error(&self) -> f64 {
        match self.error.error() {
            Some(error) if self.has_few_samples() => error.max(PRIOR_ERROR),
            Some(error) => error,
            None if self.error.samples() == 0 => 0.0,
            None => PRIOR_ERROR,
        }
    }

    fn learn(&mut self, cost: &Cost, actual: u64) {
        let (key, estimate) = (InputKey::of(cost), cost.input_tokens);
        if estimate == 0 {
            return;
        }
        let (estimate, actual) = (estimate as f64, actual as f64);
        let slot = self.keys.claim(key.0, |_| true);
        let Some(own) = slot.and_then(|slot| self.keys.at(slot)) else {
            return;
        };
        (own.workload, own.variant) = (cost.workload, cost.variant);
        // The expectation of a new key is that of the scope.
        let before = own.calibration.expected_within(&self.all, estimate);
        own.errors.learn(before, actual);
        self.all.learn(estimate, actual);
        own.calibration.learn(estimate, actual);
        let after = own.calibration.expected_within(&self.all, estimate);
        self.error.learn(after, actual);
    }

    /// Learns only the error of an estimate that no ratio corrects, or that was wrong altogether.
    pub(crate) fn learn_outlier(&mut self, expected: u64, actual: u64) {
        if expected > 0 {
            self.error.learn(expected as f64, actual as f64);
        }
    }
}

/// The upper bound of one response's variance, so that no sum overflows.
const MAX_VARIANCE: f64 = (1_u64 << 40) as f64;

/// The key of requests with a mean of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutputKey(u64);

impl OutputKey {
    /// Returns the key of the workload and of `max_tokens` by powers of four, since callers choose
    /// among few values.
    pub(crate) const fn of(cost: &Cost) -> Self {
        let band = match cost.max_output_tokens {
            None => 0,
            Some(0) => 1,
            Some(max) => 2 + max.ilog2() as u64 / 2,
        };
        Self(cost.workload.to_bits() << 6 | band)
    }
}

/// The mean of one key, and its requests in flight.
#[derive(Debug, Default)]
struct OutputStats {
    mean: Mean,
    in_flight: u64,
    /// The variance of one request, in square tokens.
    variance: f64,
}

impl OutputStats {
    /// Returns the variance of its requests in flight, in whole square tokens.
    fn variance_in_flight(&self) -> u64 {
        self.in_flight * rounded_up(self.variance.min(MAX_VARIANCE))
    }
}

/// Means by key, with the requests in flight.
#[derive(Debug, Default)]
pub(crate) struct OutputEstimator {
    all: Mean,
    keys: LruTable<OutputStats>,
    /// Requests in flight that found no slot of their own.
    others: OutputStats,
}

impl OutputEstimator {
    /// Returns the mean of the whole scope.
    pub(crate) fn mean(&self) -> Option<f64> {
        self.all.mean()
    }

    /// Returns the mean of one key.
    pub(crate) fn mean_of(&self, key: OutputKey) -> Option<f64> {
        match self.keys.get(key.0) {
            Some(stats) => stats.mean.mean_within(&self.all),
            None => self.all.mean(),
        }
    }

    /// Returns the variance of the sum that the requests in flight will use.
    // Most requests are far from all limits and never read it, so no sum is kept up to date.
    pub(crate) fn variance(&self) -> f64 {
        let keys = self.keys.values().map(OutputStats::variance_in_flight);
        (keys.sum::<u64>() + self.others.variance_in_flight()) as f64
    }

    /// Records that a request is in flight.
    pub(crate) fn on_sent(&mut self, key: OutputKey) -> OutputSlot {
        let slot = self.keys.claim(key.0, |stats| stats.in_flight == 0);
        let slot = OutputSlot(slot.and_then(|slot| u8::try_from(slot).ok()));
        self.change(slot, None, |in_flight| in_flight + 1);
        slot
    }

    /// Records that a request is no longer in flight, and learns from the output of its response.
    pub(crate) fn on_ended(&mut self, slot: OutputSlot, output: Option<u64>) {
        self.change(slot, output, |in_flight| in_flight.saturating_sub(1));
    }

    /// Counts a request, and learns from an output.
    #[inline]
    fn change(&mut self, slot: OutputSlot, output: Option<u64>, count: impl FnOnce(u64) -> u64) {
        let own = slot.0.and_then(|slot| self.keys.at(slot.into()));
        let stats = own.unwrap_or(&mut self.others);
        stats.in_flight = count(stats.in_flight);
        if let Some(output) = output {
            self.all.learn(output);
            stats.mean.learn(output);
        }
        // A key with few samples is blended with the scope's mean, which has learned since.
        if output.is_some() || !stats.mean.has_enough_samples() {
            stats.variance = stats.mean.variance_within(&self.all);
        }
    }
}

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
