//! The calibration of input estimates: the actual tokens as an affine function of the estimate.

use crate::pool::statistics::blend;

/// The weight of a new sample. The first samples weigh their share of all samples.
const WEIGHT: f64 = 0.02;

/// The factor from the median from which on a sample of one workload is clipped, and one of a scope
/// with several. For the first sample, it is the factor from the estimate.
const CLIP: f64 = 3.0;
const SCOPE_CLIP: f64 = 5.0;
const FIRST_CLIP: f64 = 2.0;

/// The clipped samples in a row from which on the sums begin anew.
const CLIPPED_RESTARTS: u32 = 3;

/// The relative steps of a median.
const FIRST_STEP: f64 = 0.1;
const MIN_STEP: f64 = 0.02;
const MAX_STEP: f64 = 2.0;

/// The bound of a median, so that no product overflows.
const MAX_RATIO: f64 = 1e6;

/// Requests of fewer tokens show little of the text, because their frame is a large part of them. A
/// sample of half of it counts a quarter, and so on.
const SMALL: f64 = 500.0;
const LEAST_COUNT: f64 = 1e-3;

/// The samples in a row on one side of their predictions that show another kind of requests, and
/// the least relative distance of each. The distance is at least half more than the usual one.
const RUN: u8 = 6;
const FAR: f64 = 0.05;
const FARTHER: f64 = 1.5;

/// The weight of a new sample in the usual distance.
const SPREAD_WEIGHT: f64 = 0.05;

/// The doubt about an offset. The smaller the spread of the sizes is and the fewer the samples are,
/// the more of an apparent offset is an error.
const DOUBT: f64 = 0.02;
const LEAST_DOUBT: f64 = 0.000_5;

/// The samples until which the line is fitted again with each sample, and the samples of one fit
/// after that.
const OFTEN: u32 = 50;
const SELDOM: u32 = 8;

/// The part of the mean ratio that is the least slope, so that a request of another size than all
/// before is not estimated by the offset alone.
const LEAST_SLOPE: f64 = 0.1;

/// A robust affine calibration: `tokens = slope · (estimate + shift)`.
///
/// The offset (`slope · shift`) is what each request has beside the text that was estimated: the
/// prompt of tools, or frames. It is never below zero. Both are fitted by recursive least squares
/// with forgetting: after 34 more samples, a sample counts half.
///
/// A sample counts as at most three times or a third of the running median of the samples (five
/// times or a fifth in a scope of several workloads), and then with a quarter of its weight, so
/// that one odd response changes little. The median moves by steps that do not depend on the size
/// of a sample. The steps grow while the samples are on one side of it, so that a ratio that is
/// wrong by a hundred times is corrected within ten samples. A run of samples far on one side of
/// their predictions shows other requests than before, and then the sums begin anew.
///
/// Samples under 500 tokens hardly count beside larger ones. A route that has no others is
/// calibrated by them nevertheless.
#[derive(Clone, Debug)]
pub(crate) struct Calibration {
    /// The factor from the median from which on a sample is clipped.
    clip: f64,
    samples: u32,
    /// The median of actual tokens by shifted estimates.
    median: f64,
    /// The relative size of the next step of the median.
    step: f64,
    was_above: bool,
    /// Samples in a row that were clipped.
    clipped: u32,
    /// The samples in a row that were far above their predictions, or below, and their number.
    run_above: bool,
    run: u8,
    /// The usual relative distance of a sample from its prediction.
    spread: f64,
    /// The samples in the sums below, and the sum of what they count.
    summed: u32,
    count: f64,
    /// The running means of actual tokens and of shifted estimates.
    actual: f64,
    shifted: f64,
    fit: Fit,
    /// The tokens beside the text, in units of the estimate.
    shift: f64,
    /// The quotient of the two means above, since it is read more often than they change.
    slope: f64,
}

impl Default for Calibration {
    fn default() -> Self {
        Self {
            clip: CLIP,
            samples: 0,
            median: 1.0,
            step: FIRST_STEP,
            was_above: false,
            clipped: 0,
            run_above: false,
            run: 0,
            spread: 0.0,
            summed: 0,
            count: 0.0,
            actual: 0.0,
            shifted: 0.0,
            fit: Fit::default(),
            shift: 0.0,
            slope: 1.0,
        }
    }
}

impl Calibration {
    /// Creates a calibration of a scope, whose workloads may differ.
    pub(crate) fn of_scope() -> Self {
        Self {
            clip: SCOPE_CLIP,
            ..Self::default()
        }
    }

    pub(crate) const fn samples(&self) -> u32 {
        self.samples
    }

    /// Returns the tokens for each estimated one beyond the offset. 1 before the first sample.
    pub(crate) const fn slope(&self) -> f64 {
        self.slope
    }

    /// Returns the tokens of a request beside those that are estimated.
    pub(crate) fn offset(&self) -> f64 {
        self.slope * self.shift
    }

    /// Returns the mean ratio of actual to estimated tokens, 1 before the first sample.
    pub(crate) fn ratio(&self) -> f64 {
        let estimated = self.shifted - self.shift;
        if self.samples == 0 || estimated <= 0.0 {
            return self.slope;
        }
        self.actual / estimated
    }

    /// Returns the tokens that are expected for an estimate. None are expected for an estimate of
    /// 0, which is not one of text.
    pub(crate) fn expected(&self, estimate: f64) -> f64 {
        if estimate <= 0.0 {
            return 0.0;
        }
        self.slope * (estimate + self.shift)
    }

    /// Returns the same, blended with that of the scope while there are few samples.
    pub(crate) fn expected_within(&self, all: &Self, estimate: f64) -> f64 {
        blend(
            self.samples,
            self.expected(estimate),
            all.expected(estimate),
        )
    }

    /// Learns from an estimate over 0.
    pub(crate) fn learn(&mut self, estimate: f64, actual: f64) {
        let shifted = estimate + self.shift;
        let predicted = self.slope * shifted;
        self.review_run(predicted, actual);
        let clip = match self.samples {
            0 => FIRST_CLIP,
            _ => self.clip,
        };
        let expected = self.median * shifted;
        let within = actual.clamp(expected / clip, expected * clip);
        let clipped = if within == actual {
            0
        } else {
            self.clipped + 1
        };
        let holds_only_clipped = self.clipped > 0 && self.clipped >= self.summed;
        if holds_only_clipped || clipped >= CLIPPED_RESTARTS {
            self.summed = 0;
        }
        self.clipped = clipped;
        let is_above = actual > expected;
        if self.samples == 0 {
            self.median = within / shifted;
            self.was_above = is_above;
        } else {
            self.move_median(is_above);
        }
        self.samples = self.samples.saturating_add(1);
        // Not `f64::max`, which takes more time to consider what is not a number.
        let size = if predicted > estimate {
            predicted
        } else {
            estimate
        };
        let mut weight = self.weigh(size);
        if self.clipped > 0 && self.summed > 1 {
            weight /= 4.0;
        }
        self.actual += weight * (within - self.actual);
        self.shifted += weight * (shifted - self.shifted);
        // A clipped sample shows no slope. The first one after a restart begins the sums.
        if self.clipped == 0 || self.summed == 1 {
            self.fit.learn(weight, estimate, within, shifted);
        }
        if self.summed < OFTEN || self.summed.is_multiple_of(SELDOM) {
            self.set_shift(self.fit.shift(self.summed));
        } else {
            self.slope = self.actual / self.shifted;
        }
    }

    /// Counts a sample of this size, and returns its weight.
    fn weigh(&mut self, size: f64) -> f64 {
        if self.summed == 0 {
            self.count = 0.0;
        }
        self.summed = self.summed.saturating_add(1);
        let part = (size / SMALL).min(1.0);
        let count = (part * part).max(LEAST_COUNT);
        self.count = (self.count + count).min(1.0 / WEIGHT);
        count / self.count
    }

    /// Counts the samples in a row that are far on one side of their predictions.
    fn review_run(&mut self, expected: f64, actual: f64) {
        if self.samples == 0 || expected <= 0.0 {
            return;
        }
        let distance = (actual / expected - 1.0).clamp(-1.0, 1.0);
        let is_far = distance.abs() > (FARTHER * self.spread).max(FAR);
        self.spread += SPREAD_WEIGHT * (distance.abs() - self.spread);
        let is_above = distance > 0.0;
        self.run = match is_far {
            true if is_above == self.run_above => self.run + 1,
            true => 1,
            false => 0,
        };
        self.run_above = is_above;
        if self.run >= RUN {
            self.run = 0;
            self.summed = 0;
        }
    }

    /// Replaces the shift. The means and the median keep what they say about the samples.
    fn set_shift(&mut self, shift: f64) {
        let before = self.shifted;
        self.shifted += shift - self.shift;
        self.shift = shift;
        self.slope = self.actual / self.shifted;
        let median = self.median * before / self.shifted;
        self.median = median.clamp(1.0 / MAX_RATIO, MAX_RATIO);
    }

    fn move_median(&mut self, above: bool) {
        self.step = if above == self.was_above {
            (self.step * 2.0).min(MAX_STEP)
        } else {
            (self.step / 4.0).max(MIN_STEP)
        };
        self.was_above = above;
        let median = if above {
            self.median * (1.0 + self.step)
        } else {
            self.median / (1.0 + self.step)
        };
        self.median = median.clamp(1.0 / MAX_RATIO, MAX_RATIO);
    }
}

/// The running moments of a least-squares line. The variance of a sample is taken to be
/// proportional to its size, so that a large request does not outweigh all others.
#[derive(Clone, Copy, Debug, Default)]
struct Fit {
    weight: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Fit {
    fn learn(&mut self, weight: f64, x: f64, y: f64, size: f64) {
        let of_size = 1.0 / size;
        let move_to = |mean: &mut f64, value: f64| *mean += weight * (value * of_size - *mean);
        move_to(&mut self.weight, 1.0);
        move_to(&mut self.x, x);
        move_to(&mut self.y, y);
        move_to(&mut self.xx, x * x);
        move_to(&mut self.xy, x * y);
    }

    /// Returns the offset of the line in units of `x`, after this number of samples.
    fn shift(&self, samples: u32) -> f64 {
        if samples < 2 {
            return 0.0;
        }
        let scale = 1.0 / self.weight;
        let of = |sum: f64| sum * scale;
        let (x, y) = (of(self.x), of(self.y));
        let variance = (of(self.xx) - x * x).max(0.0);
        let covariance = of(self.xy) - x * y;
        let doubt = DOUBT / f64::from(samples) + LEAST_DOUBT;
        let offset = (y * variance - x * covariance) / (variance + doubt * x * x);
        let least = LEAST_SLOPE * y / x;
        let slope = ((y - offset) / x).max(least);
        let offset = y - slope * x;
        if offset.is_finite() && slope > 0.0 {
            (offset / slope).max(0.0)
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests;
