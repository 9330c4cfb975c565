//! What requests will probably use, from what they did use: the running figures.
//!
//! [`Outputs`](super::outputs::Outputs) and [`Input`](super::inputs::Input) keep them by kind of request.

/// Running means weigh a new sample by this, and at first by its share of all samples.
const OUTPUT_WEIGHT: f64 = 0.02;
const INPUT_WEIGHT: f64 = 0.05;
const ERROR_WEIGHT: f64 = 0.01;

/// A share of so many samples is no more than any of these weights.
const MANY: u32 = 100;

/// A kind of request stands for itself from so many answers on; before, it leans on the whole scope.
const GROWN: u32 = 16;

/// Running mean and variance of the output tokens of an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mean {
    samples: u32,
    mean: f64,
    variance: f64,
}

impl Mean {
    pub(crate) fn mean(&self) -> Option<f64> {
        (self.samples > 0).then_some(self.mean)
    }

    pub(crate) fn learn(&mut self, tokens: u64) {
        let sample = tokens as f64;
        let weight = weigh(&mut self.samples, OUTPUT_WEIGHT);
        let error = sample - self.mean;
        self.mean += weight * error;
        self.variance = (1.0 - weight) * (self.variance + weight * error * error);
    }

    /// Whether it stands for itself, whatever all others do.
    pub(crate) const fn is_grown(&self) -> bool {
        self.samples >= GROWN
    }

    /// The mean of a kind within `all`, which knows it better as long as this has few samples.
    pub(crate) fn mean_within(&self, all: &Self) -> Option<f64> {
        Some(blend(self.samples, self.mean, all.mean()?))
    }

    /// The same for the variance.
    pub(crate) fn variance_within(&self, all: &Self) -> f64 {
        blend(self.samples, self.variance, all.variance)
    }
}

/// Running ratio of actual to estimated tokens, weighed by size: what matters is the sum.
#[derive(Clone, Debug)]
pub(crate) struct Ratio {
    samples: u32,
    actual: f64,
    estimated: f64,
    /// Of the two above: reckoned when they change, since it is asked for more often.
    ratio: f64,
}

impl Default for Ratio {
    fn default() -> Self {
        Self {
            samples: 0,
            actual: 0.0,
            estimated: 0.0,
            ratio: 1.0,
        }
    }
}

impl Ratio {
    /// 1 before the first sample.
    pub(crate) const fn ratio(&self) -> f64 {
        self.ratio
    }

    /// The ratio of a kind within `all`, which knows it better as long as this has few samples.
    pub(crate) fn ratio_within(&self, all: &Self) -> f64 {
        blend(self.samples, self.ratio(), all.ratio())
    }

    pub(crate) fn learn(&mut self, estimate: f64, actual: f64) {
        let weight = weigh(&mut self.samples, INPUT_WEIGHT);
        self.actual += weight * (actual - self.actual);
        self.estimated += weight * (estimate - self.estimated);
        self.ratio = if self.estimated > 0.0 {
            (self.actual / self.estimated).clamp(0.1, 4.0)
        } else {
            1.0
        };
    }
}

/// Running error of estimates, relative to their size.
#[derive(Clone, Debug, Default)]
pub(crate) struct Error {
    samples: u32,
    error: f64,
    size: f64,
    /// Of the two above, as in [`Ratio`].
    relative: Option<f64>,
}

impl Error {
    pub(crate) const fn samples(&self) -> u32 {
        self.samples
    }

    /// The standard error of one estimate relative to its size; `None` when nothing of any size was
    /// estimated yet.
    pub(crate) const fn error(&self) -> Option<f64> {
        self.relative
    }

    pub(crate) fn learn(&mut self, expected: f64, actual: f64) {
        // A heavier weight would let it wander with a few requests.
        let weight = weigh(&mut self.samples, ERROR_WEIGHT);
        let error = actual - expected;
        // Each counts by its size: by the square of it, a few big ones would be all that counts.
        self.error += weight * (error * error / expected.max(1.0) - self.error);
        self.size += weight * (expected - self.size);
        self.relative = (self.size > 0.0).then(|| (self.error / self.size).sqrt().min(1.0));
    }
}

/// Between what a kind of request shows and what all do.
fn blend(samples: u32, own: f64, all: f64) -> f64 {
    if samples >= GROWN {
        return own;
    }
    all + (own - all) * f64::from(samples) / f64::from(GROWN)
}

fn weigh(samples: &mut u32, least: f64) -> f64 {
    *samples = samples.saturating_add(1);
    if *samples >= MANY {
        return least;
    }
    (1.0 / f64::from(*samples)).max(least)
}
