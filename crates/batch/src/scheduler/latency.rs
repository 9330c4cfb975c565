//! The latency of batches, learned for each model.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// The latencies that are assumed before any is known, in minutes. Most batches end within one
/// hour. Each measured latency replaces one of them, beginning with the shortest.
const ASSUMED: [u64; 8] = [1, 2, 4, 8, 15, 30, 45, 60];

/// The number of latencies that are remembered for each model.
const MOST: usize = 64;

/// The number of models with latencies of their own.
const MODELS: usize = 64;

/// The latencies of batches by model.
#[derive(Clone, Debug, Default)]
pub(super) struct Latencies(BTreeMap<Arc<str>, VecDeque<Duration>>);

impl Latencies {
    /// Records the latency of a batch with calls of this model.
    pub(super) fn record(&mut self, model: &Arc<str>, latency: Duration) {
        if !self.0.contains_key(model) && self.0.len() >= MODELS {
            return;
        }
        let known = self.0.entry(model.clone()).or_default();
        if known.len() >= MOST {
            known.pop_front();
        }
        known.push_back(latency);
    }

    /// Returns the latency that this percentage of batches does not exceed.
    pub(super) fn quantile(&self, model: &str, percent: usize) -> Duration {
        let known = self.0.get(model);
        let known = known.into_iter().flatten().copied();
        let mut all: Vec<Duration> = known.collect();
        let assumed = ASSUMED.iter().skip(all.len());
        all.extend(assumed.map(|minutes| Duration::from_secs(60 * minutes)));
        all.sort_unstable();
        let rank = (all.len() * percent).div_ceil(100).clamp(1, all.len());
        all[rank - 1]
    }

    /// Returns the models with the number of their latencies.
    pub(super) fn models(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.0.iter().map(|(model, known)| (model, known.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(60 * minutes)
    }

    #[test]
    fn latency_before_any_batch_is_an_hour_at_most() {
        let latencies = Latencies::default();
        assert_eq!(latencies.quantile("a", 95), minutes(60));
        assert_eq!(latencies.quantile("a", 50), minutes(8));
        assert_eq!(latencies.quantile("a", 0), minutes(1));
    }

    #[test]
    fn measured_latencies_replace_the_assumed_ones() {
        let (mut latencies, model) = (Latencies::default(), Arc::from("a"));
        for _ in 0..7 {
            latencies.record(&model, minutes(3));
        }
        assert_eq!(latencies.quantile("a", 95), minutes(60));
        latencies.record(&model, minutes(3));
        assert_eq!(latencies.quantile("a", 95), minutes(3));
        assert_eq!(latencies.quantile("b", 95), minutes(60));
    }

    #[test]
    fn old_latencies_are_forgotten_and_models_are_bounded() {
        let (mut latencies, model) = (Latencies::default(), Arc::from("a"));
        latencies.record(&model, minutes(600));
        for _ in 0..MOST {
            latencies.record(&model, minutes(2));
        }
        assert_eq!(latencies.quantile("a", 100), minutes(2));
        for number in 0..2 * MODELS {
            latencies.record(&number.to_string().into(), minutes(1));
        }
        assert_eq!(latencies.models().count(), MODELS);
    }
}
