//! What requests will probably use, from what they did use.

/// Running means weigh a new sample by this, and at first by its share of all samples.
const OUTPUT_WEIGHT: f64 = 0.02;
const INPUT_WEIGHT: f64 = 0.05;
const ERROR_WEIGHT: f64 = 0.01;

/// Until so many answers were seen the input error is taken to be at least [`PRIOR_ERROR`].
const FEW: u32 = 32;
const PRIOR_ERROR: f64 = 0.1;

/// Running mean and variance of the output tokens of an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output {
    samples: u32,
    mean: f64,
    variance: f64,
}

impl Output {
    pub(crate) fn mean(&self) -> Option<f64> {
        (self.samples > 0).then_some(self.mean)
    }

    pub(crate) const fn variance(&self) -> f64 {
        self.variance
    }

    pub(crate) fn learn(&mut self, tokens: u64) {
        let sample = tokens as f64;
        let weight = weigh(&mut self.samples, OUTPUT_WEIGHT);
        let error = sample - self.mean;
        self.mean += weight * error;
        self.variance = (1.0 - weight) * (self.variance + weight * error * error);
    }
}

/// Running ratio of actual to estimated input tokens, weighed by size (what matters is the sum), and
/// the relative error that remains.
#[derive(Clone, Debug, Default)]
pub(crate) struct Input {
    samples: u32,
    actual: f64,
    estimated: f64,
    error: f64,
    size: f64,
}

impl Input {
    pub(crate) fn ratio(&self) -> f64 {
        if self.estimated > 0.0 {
            (self.actual / self.estimated).clamp(0.1, 4.0)
        } else {
            1.0
        }
    }

    /// Whether the ratio rests on few answers.
    pub(crate) const fn is_young(&self) -> bool {
        self.samples < FEW
    }

    /// The standard error of one estimate after correction, relative to its size.
    pub(crate) fn error(&self) -> f64 {
        if self.size <= 0.0 {
            return if self.samples == 0 { 0.0 } else { PRIOR_ERROR };
        }
        let error = (self.error / self.size).sqrt().min(1.0);
        if self.is_young() {
            error.max(PRIOR_ERROR)
        } else {
            error
        }
    }

    pub(crate) fn learn(&mut self, estimate: u64, actual: u64) {
        if estimate == 0 {
            return;
        }
        let (estimate, actual) = (estimate as f64, actual as f64);
        let weight = weigh(&mut self.samples, INPUT_WEIGHT);
        self.actual += weight * (actual - self.actual);
        self.estimated += weight * (estimate - self.estimated);
        let expected = estimate * self.ratio();
        let error = actual - expected;
        // A few requests would make it wander.
        let weight = (1.0 / f64::from(self.samples)).max(ERROR_WEIGHT);
        // Each counts by its size: by the square of it, a few big ones would be all that counts.
        self.error += weight * (error * error / expected.max(1.0) - self.error);
        self.size += weight * (expected - self.size);
    }
}

fn weigh(samples: &mut u32, least: f64) -> f64 {
    *samples = samples.saturating_add(1);
    (1.0 / f64::from(*samples)).max(least)
}
