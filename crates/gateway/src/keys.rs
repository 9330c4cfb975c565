//! The table of gateway keys: their hashes, quotas and upstreams.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use blake3::Hash;
use tokio::time::Instant;
use tower_claude::{Priority, Tenant, Workload};

use crate::{
    config::{Config, KeyConfig},
    key_text::parse_hash,
};

/// A key that callers use.
#[derive(Debug)]
pub(crate) struct GatewayKey {
    pub(crate) name: Arc<str>,
    hash: Hash,
    /// The index of the upstream.
    pub(crate) upstream: usize,
    pub(crate) tenant: Tenant,
    pub(crate) priority: Priority,
    pub(crate) workload: Workload,
    quota: Option<Quota>,
}

impl GatewayKey {
    /// Counts a request.
    ///
    /// # Errors
    /// Returns the time until the quota allows the next request.
    pub(crate) fn count(&self, now: Instant) -> Result<(), Duration> {
        self.quota.as_ref().map_or(Ok(()), |quota| quota.take(now))
    }
}

/// The requests per minute of a key, as a bucket that holds the requests of one minute.
#[derive(Debug)]
struct Quota {
    per_minute: u32,
    level: Mutex<(f64, Instant)>,
}

impl Quota {
    fn new(per_minute: u32, now: Instant) -> Self {
        Self {
            per_minute,
            level: Mutex::new((f64::from(per_minute), now)),
        }
    }

    fn take(&self, now: Instant) -> Result<(), Duration> {
        let capacity = f64::from(self.per_minute);
        let per_second = capacity / 60.0;
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, since) = *level;
        let passed = now.saturating_duration_since(since).as_secs_f64();
        let left = (left + passed * per_second).min(capacity);
        // The sum of many small additions may miss a whole request by an error of rounding.
        let taken = if left > 1.0 - 1e-9 { 1.0 } else { 0.0 };
        *level = (left - taken, now.max(since));
        if taken > 0.0 {
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - left) / per_second))
    }
}

/// All gateway keys.
#[derive(Debug, Default)]
pub(crate) struct KeyTable {
    keys: Vec<Arc<GatewayKey>>,
}

impl KeyTable {
    /// Creates the table of a valid configuration. A key that is in the old table with the same
    /// quota keeps the state of its quota.
    pub(crate) fn new(config: &Config, old: Option<&Self>, now: Instant) -> Self {
        let keys = config.keys.iter();
        let keys = keys.filter_map(|key| Some(Arc::new(Self::entry(config, key, old, now)?)));
        Self {
            keys: keys.collect(),
        }
    }

    fn entry(
        config: &Config,
        key: &KeyConfig,
        old: Option<&Self>,
        now: Instant,
    ) -> Option<GatewayKey> {
        let hash = parse_hash(&key.hash)?;
        let upstream = match &key.upstream {
            None => 0,
            Some(name) => config
                .upstreams
                .iter()
                .position(|entry| entry.name == *name)?,
        };
        let known = old.and_then(|old| old.keys.iter().find(|entry| entry.hash == hash));
        let level = known.and_then(|known| known.quota.as_ref());
        let quota = key.requests_per_minute.map(|limit| {
            let quota = Quota::new(limit.get(), now);
            match level.filter(|level| level.per_minute == limit.get()) {
                None => quota,
                Some(level) => {
                    let level = level.level.lock().unwrap_or_else(PoisonError::into_inner);
                    Quota {
                        level: Mutex::new(*level),
                        ..quota
                    }
                }
            }
        });
        Some(GatewayKey {
            name: key.name.as_str().into(),
            hash,
            upstream,
            tenant: Tenant(key.tenant.as_deref().unwrap_or(&key.name).into()),
            priority: key.priority.into(),
            workload: Workload::named(key.workload.as_deref().unwrap_or_default()),
            quota,
        })
    }

    /// Returns true without any key.
    pub(crate) const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the key with this text. All hashes are compared, each in constant time.
    pub(crate) fn find(&self, key: &[u8]) -> Option<Arc<GatewayKey>> {
        let hash = blake3::hash(key);
        let mut found = None;
        for entry in &self.keys {
            if entry.hash == hash {
                found = Some(entry.clone());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quota_allows_a_minute_at_once_and_then_the_rate() {
        let start = Instant::now();
        let quota = Quota::new(60, start);
        for _ in 0..60 {
            assert_eq!(quota.take(start), Ok(()));
        }
        assert_eq!(quota.take(start), Err(Duration::from_secs(1)));
        let mut at = start;
        for _ in 0..600 {
            at += Duration::from_secs(1);
            assert_eq!(quota.take(at), Ok(()));
            assert!(quota.take(at).is_err());
        }
    }
}
