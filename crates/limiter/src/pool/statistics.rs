//! Running means and errors of token counts, and a bounded table of them.

// The weights of a new sample. The first samples weigh their share of all samples.
const OUTPUT_WEIGHT: f64 = 0.02;
const ERROR_WEIGHT: f64 = 0.01;

/// The number of samples from which on their share is below each of the weights.
const MANY: u32 = 100;

/// The number of samples from which on a mean is not blended with that of the whole scope.
const ENOUGH: u32 = 16;

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

/// Running error of estimates, relative to their size.
#[derive(Clone, Debug, Default)]
pub(crate) struct RelativeError {
    samples: u32,
    error: f64,
    size: f64,
}

impl RelativeError {
    pub(crate) const fn samples(&self) -> u32 {
        self.samples
    }

    /// Returns the standard error of one estimate relative to its size, or `None` before the first
    /// estimate that is not zero.
    pub(crate) fn error(&self) -> Option<f64> {
        (self.size > 0.0).then(|| (self.error / self.size).sqrt().min(1.0))
    }

    /// Learns from one estimate. It counts as wrong by at most its size, so that one odd response
    /// does not hide all other errors.
    pub(crate) fn learn(&mut self, expected: f64, actual: f64) {
        let most = 2.0 * expected;
        let actual = if actual > most { most } else { actual };
        // With a heavier weight a few requests would change the error much.
        let weight = weight(&mut self.samples, ERROR_WEIGHT);
        let error = actual - expected;
        // Samples count by their size. Counted by its square, a few large ones would dominate.
        self.error += weight * (error * error / expected.max(1.0) - self.error);
        self.size += weight * (expected - self.size);
    }
}

/// The ratios of actual to expected tokens of the latest requests, for the quantiles of the error.
#[derive(Clone, Debug, Default)]
pub(crate) struct LatestErrors {
    ratios: Vec<f32>,
    /// The place of the oldest ratio, once there are as many as are kept.
    oldest: usize,
}

impl LatestErrors {
    /// The ratios that are kept.
    const KEPT: usize = 64;

    pub(crate) fn learn(&mut self, expected: f64, actual: f64) {
        if expected <= 0.0 {
            return;
        }
        let ratio = (actual / expected) as f32;
        if self.ratios.len() < Self::KEPT {
            self.ratios.push(ratio);
        } else {
            self.ratios[self.oldest] = ratio;
            self.oldest = (self.oldest + 1) % Self::KEPT;
        }
    }

    /// Returns the ratios in ascending order.
    pub(crate) fn sorted(&self) -> Vec<f32> {
        let mut sorted = self.ratios.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        sorted
    }
}

/// Returns the ratio that this share of further requests does not exceed. `None` without a ratio.
///
/// It is the order statistic that covers the share on average, which is one more than that of the
/// ratios themselves.
pub(crate) fn quantile(sorted: &[f32], share: f64) -> Option<f64> {
    let rank = ((sorted.len() + 1) as f64 * share).ceil() as usize;
    let last = sorted.len().checked_sub(1)?;
    Some(f64::from(sorted[rank.saturating_sub(1).min(last)]))
}

/// Returns a value between that of one key and that of the scope.
pub(crate) fn blend(samples: u32, own: f64, all: f64) -> f64 {
    if samples >= ENOUGH {
        return own;
    }
    all + (own - all) * f64::from(samples) / f64::from(ENOUGH)
}

/// Counts a sample and returns its weight.
pub(crate) fn weight(samples: &mut u32, least: f64) -> f64 {
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

    /// Returns the values in no particular order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.iter().map(|entry| &entry.value)
    }

    pub(crate) fn at(&mut self, slot: usize) -> Option<&mut V> {
        Some(&mut self.entries.get_mut(slot)?.value)
    }
}
