//! Running means, ratios and errors of token counts, and a bounded table of them.

// The weights of a new sample. The first samples weigh their share of all samples.
const OUTPUT_WEIGHT: f64 = 0.02;
const INPUT_WEIGHT: f64 = 0.02;
const ERROR_WEIGHT: f64 = 0.01;

/// The number of samples from which on their share is below each of the weights.
const MANY: u32 = 100;

/// The number of samples from which on a mean is not blended with that of the whole scope.
const ENOUGH: u32 = 16;

/// The factor from the median from which on a sample is clipped. For the first sample, it is the
/// factor from the estimate.
const CLIP: f64 = 5.0;
const FIRST_CLIP: f64 = 2.0;

/// The clipped samples in a row from which on the sums begin anew.
const CLIPPED_RESTARTS: u32 = 3;

/// The relative steps of a median.
const FIRST_STEP: f64 = 0.1;
const MIN_STEP: f64 = 0.02;
const MAX_STEP: f64 = 2.0;

/// The bound of a median, so that no product overflows.
const MAX_RATIO: f64 = 1e6;

/// Running mean and variance of the output tokens of a response.
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
        let weight = weight(&mut self.samples, OUTPUT_WEIGHT);
        let error = sample - self.mean;
        self.mean += weight * error;
        self.variance = (1.0 - weight) * (self.variance + weight * error * error);
    }

    /// Returns true if this mean is used without blending in that of the scope.
    pub(crate) const fn has_enough_samples(&self) -> bool {
        self.samples >= ENOUGH
    }

    /// Returns this mean, blended with that of the scope while it has few samples.
    pub(crate) fn mean_within(&self, all: &Self) -> Option<f64> {
        Some(blend(self.samples, self.mean, all.mean()?))
    }

    /// Returns the variance, blended likewise.
    pub(crate) fn variance_within(&self, all: &Self) -> f64 {
        blend(self.samples, self.variance, all.variance)
    }
}

/// Running ratio of actual to estimated tokens, weighted by size.
///
/// A sample counts as at most five times or a fifth of the running median of the samples, and then
/// with a quarter of its weight, so that one odd response changes little. The median moves by steps
/// that do not depend on the size of a sample. The steps grow while the samples are on one side of
/// it, so that a ratio that is wrong by a hundred times is corrected within ten samples.
#[derive(Clone, Debug)]
pub(crate) struct Ratio {
    samples: u32,
    median: f64,
    /// The relative size of the next step of the median.
    step: f64,
    was_above: bool,
    /// Samples in a row that were clipped.
    clipped: u32,
    /// The samples in the two sums below.
    summed: u32,
    actual: f64,
    estimated: f64,
    /// The quotient of the two above, since it is read more often than they change.
    ratio: f64,
}

impl Default for Ratio {
    fn default() -> Self {
        Self {
            samples: 0,
            median: 1.0,
            step: FIRST_STEP,
            was_above: false,
            clipped: 0,
            summed: 0,
            actual: 0.0,
            estimated: 0.0,
            ratio: 1.0,
        }
    }
}

impl Ratio {
    /// Returns the ratio, 1 before the first sample.
    pub(crate) const fn ratio(&self) -> f64 {
        self.ratio
    }

    /// Returns this ratio, blended with that of the scope while it has few samples.
    pub(crate) fn ratio_within(&self, all: &Self) -> f64 {
        blend(self.samples, self.ratio(), all.ratio())
    }

    /// Learns from an estimate over 0.
    pub(crate) fn learn(&mut self, estimate: f64, actual: f64) {
        let clip = if self.samples == 0 { FIRST_CLIP } else { CLIP };
        let expected = self.median * estimate;
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
            self.median = within / estimate;
            self.was_above = is_above;
        } else {
            self.move_median(is_above);
        }
        self.samples = self.samples.saturating_add(1);
        let mut weight = weight(&mut self.summed, INPUT_WEIGHT);
        if self.clipped > 0 && self.summed > 1 {
            weight /= 4.0;
        }
        self.actual += weight * (within - self.actual);
        self.estimated += weight * (estimate - self.estimated);
        self.ratio = self.actual / self.estimated;
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

/// Running error of estimates, relative to their size.
#[derive(Clone, Debug, Default)]
pub(crate) struct RelativeError {
    samples: u32,
    error: f64,
    size: f64,
    /// The root of the quotient of the two above.
    relative: Option<f64>,
}

impl RelativeError {
    pub(crate) const fn samples(&self) -> u32 {
        self.samples
    }

    /// Returns the standard error of one estimate relative to its size, or `None` before the first
    /// estimate that is not zero.
    pub(crate) const fn error(&self) -> Option<f64> {
        self.relative
    }

    /// Learns from one estimate. It counts as wrong by at most its size, so that one odd response
    /// does not hide all other errors.
    pub(crate) fn learn(&mut self, expected: f64, actual: f64) {
        let actual = actual.min(2.0 * expected);
        // With a heavier weight a few requests would change the error much.
        let weight = weight(&mut self.samples, ERROR_WEIGHT);
        let error = actual - expected;
        // Samples count by their size. Counted by its square, a few large ones would dominate.
        self.error += weight * (error * error / expected.max(1.0) - self.error);
        self.size += weight * (expected - self.size);
        self.relative = (self.size > 0.0).then(|| (self.error / self.size).sqrt().min(1.0));
    }
}

/// Returns a value between that of one key and that of the scope.
fn blend(samples: u32, own: f64, all: f64) -> f64 {
    if samples >= ENOUGH {
        return own;
    }
    all + (own - all) * f64::from(samples) / f64::from(ENOUGH)
}

/// Counts a sample and returns its weight.
fn weight(samples: &mut u32, least: f64) -> f64 {
    *samples = samples.saturating_add(1);
    if *samples >= MANY {
        return least;
    }
    (1.0 / f64::from(*samples)).max(least)
}

/// The most entries.
const MAX_ENTRIES: usize = 64;

/// A table of values by key. It is scanned, not hashed, since it usually has one entry.
#[derive(Debug)]
pub(crate) struct LruTable<V> {
    entries: Vec<LruEntry<V>>,
    uses: u64,
}

#[derive(Debug)]
struct LruEntry<V> {
    key: u64,
    last_used: u64,
    value: V,
}

impl<V> Default for LruTable<V> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            uses: 0,
        }
    }
}

impl<V: Default> LruTable<V> {
    pub(crate) fn get(&self, key: u64) -> Option<&V> {
        let mut entries = self.entries.iter();
        Some(&entries.find(|entry| entry.key == key)?.value)
    }

    /// Returns the slot of this key, which is added if it is missing. Returns `None` if the table
    /// is full of values that may not be evicted.
    pub(crate) fn claim(&mut self, key: u64, may_evict: impl Fn(&V) -> bool) -> Option<usize> {
        self.uses += 1;
        let last_used = self.uses;
        if let Some(slot) = self.entries.iter().position(|entry| entry.key == key) {
            self.entries[slot].last_used = last_used;
            return Some(slot);
        }
        let entry = LruEntry {
            key,
            last_used,
            value: V::default(),
        };
        if self.entries.len() < MAX_ENTRIES {
            self.entries.push(entry);
            return Some(self.entries.len() - 1);
        }
        let entries = self.entries.iter().enumerate();
        let (oldest, _) = entries
            .filter(|(_, entry)| may_evict(&entry.value))
            .min_by_key(|(_, entry)| entry.last_used)?;
        self.entries[oldest] = entry;
        Some(oldest)
    }

    pub(crate) fn at(&mut self, slot: usize) -> Option<&mut V> {
        Some(&mut self.entries.get_mut(slot)?.value)
    }
}
