//! A table of keys that failed lately, with cool-downs and probes.
//!
//! The table is synchronous and takes the time and the random number as arguments. It holds only
//! keys that failed, so that a healthy call reads one atomic and takes no lock.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tower_claude_core::Class;

/// The most keys in a table.
pub(crate) const MAX_KEYS: usize = 1024;

/// The wait that is reported while a probe is in flight. Probes mostly take seconds.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// A probe that is in flight for longer than this no longer keeps other calls from probing.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(600);

/// A cool-down that ended this long ago, and was not followed by a probe, may be evicted.
const FORGET_AFTER: Duration = Duration::from_secs(300);

/// The time after a failure in which the failures of calls that were under way when the key first
/// failed count as the same failure.
const MOMENT: Duration = Duration::from_secs(1);

/// The longest cool-down that a server can ask for with `retry-after`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The longest cool-down that can be set.
const MAX_COOL_DOWN: Duration = Duration::from_secs(86_400);

/// The most failures that are counted.
const MAX_FAILURES: NonZeroU32 = NonZeroU32::new(1000).expect("not zero");

/// The settings of cool-downs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CoolDown {
    failures: NonZeroU32,
    within: Duration,
    first: Duration,
    longest: Duration,
}

impl Default for CoolDown {
    fn default() -> Self {
        Self {
            failures: const { NonZeroU32::new(3).expect("not zero") },
            within: Duration::from_secs(60),
            first: Duration::from_secs(30),
            longest: Duration::from_secs(300),
        }
    }
}

impl CoolDown {
    pub(crate) fn with_failures(mut self, failures: NonZeroU32, within: Duration) -> Self {
        self.failures = failures.min(MAX_FAILURES);
        self.within = within;
        self
    }

    pub(crate) fn with_cool_down(mut self, first: Duration, longest: Duration) -> Self {
        self.first = first;
        self.longest = longest.min(MAX_COOL_DOWN);
        self
    }

    /// Returns `min(longest, first · 2^(count − 1)) · (0.8 … 1.2)`, and at least `retry_after`.
    fn length(&self, count: u32, retry_after: Option<Duration>, chance: f64) -> Duration {
        let doublings = count.saturating_sub(1).min(31);
        let cool_down = self.first.saturating_mul(1 << doublings).min(self.longest);
        let jittered = cool_down.mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0));
        jittered.max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER))
    }
}

/// The signal that the outcome of a call gives about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The key works. Clears its failures.
    Success,
    /// The key failed.
    Failure {
        /// The wait that the server asks for.
        retry_after: Option<Duration>,
    },
    /// The key is there but has no room: not counted as a failure, and no success of a probe.
    Busy {
        /// The wait that the server asks for.
        retry_after: Option<Duration>,
    },
    /// The key rejected the request: not counted as a failure, and a success of a probe.
    Reachable,
    /// The outcome says nothing about the key.
    None,
}

/// A change that an outcome made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CoolDownChange {
    /// A cool-down started.
    Started {
        /// Its length.
        cool_down: Duration,
        /// The number of cool-downs in a row.
        count: u32,
    },
    /// A probe succeeded and ended the cool-down.
    Cleared,
}

/// The reason why a target is not available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unavailable {
    /// The time at which it may be available again.
    pub(crate) until: Instant,
    /// Its last failure.
    pub(crate) why: Class,
}

/// A table of keys that failed lately.
#[derive(Debug, Default)]
pub(crate) struct CoolDownTable<K> {
    entries: Mutex<HashMap<K, CoolDownEntry>>,
    /// The number of entries, readable without the lock.
    len: AtomicUsize,
    /// The last generation that was given to an entry.
    generation: AtomicU64,
}

/// The state of one key.
#[derive(Debug)]
struct CoolDownEntry {
    /// A permit of another generation has no effect. Changes with each cool-down and each probe.
    generation: u64,
    /// The last failures, at most as many as start a cool-down.
    failures: VecDeque<Instant>,
    /// The first failure since the last success.
    since: Instant,
    /// The failures of calls since then.
    failed: u32,
    /// The calls admitted since then that have no outcome yet.
    pending: u32,
    /// The end of the cool-down. `None` while failures are counted and all calls pass.
    until: Option<Instant>,
    /// The number of cool-downs in a row.
    count: u32,
    /// The start of the probe that is in flight.
    probe: Option<Instant>,
    why: Class,
}

impl CoolDownEntry {
    const fn new(generation: u64, why: Class, now: Instant) -> Self {
        Self {
            generation,
            failures: VecDeque::new(),
            since: now,
            failed: 0,
            pending: 0,
            until: None,
            count: 0,
            probe: None,
            why,
        }
    }

    fn has_probe(&self, now: Instant) -> bool {
        self.probe
            .is_some_and(|since| now.saturating_duration_since(since) <= PROBE_TIMEOUT)
    }

    /// Returns true if nothing is lost when this entry is evicted.
    fn is_idle(&self, within: Duration, now: Instant) -> bool {
        let is_older = |at: Instant, age| now.saturating_duration_since(at) > age;
        match (self.until, self.failures.back()) {
            (Some(until), _) => !self.has_probe(now) && is_older(until, FORGET_AFTER),
            (None, Some(last)) => is_older(*last, within),
            (None, None) => true,
        }
    }

    /// Counts a failure. Returns true if a cool-down must start. `is_early` if the call was under
    /// way when the key first failed.
    ///
    /// While more than a third of the calls are pending, the key stays. From a sixth of `within` on
    /// without a success, this share grows with time.
    fn count_failure(&mut self, config: &CoolDown, now: Instant, is_early: bool) -> bool {
        let limit = config.failures.get() as usize;
        let since = |at: Instant| now.saturating_duration_since(at);
        let is_same = is_early && self.failures.back().is_some_and(|at| since(*at) < MOMENT);
        if !is_same {
            if self.failures.len() >= limit {
                self.failures.pop_front();
            }
            self.failures.push_back(now);
        }
        self.failed = self.failed.saturating_add(1);
        let within = config.within.as_nanos();
        let patience = within.max(since(self.since).as_nanos().saturating_mul(6));
        let of = |calls: u32, time: u128| time.saturating_mul(u128::from(calls));
        let is_credible = of(self.pending, 2 * within) <= of(self.failed, patience);
        let first = self.failures.front();
        is_credible
            && self.failures.len() >= limit
            && first.is_some_and(|at| since(*at) <= config.within)
    }

    fn start_cool_down(&mut self, cool_down: Duration, generation: u64, now: Instant) {
        self.generation = generation;
        self.failures.clear();
        self.probe = None;
        // An instant that overflows ends the cool-down at once, so that the key is not stuck.
        self.until = Some(now.checked_add(cool_down).unwrap_or(now));
    }
}

impl<K: Clone + Eq + Hash> CoolDownTable<K> {
    /// Returns true if no key failed lately.
    pub(crate) fn is_empty(&self) -> bool {
        self.len.load(Ordering::Acquire) == 0
    }

    /// Admits a call to this key, as a probe if its cool-down is over and no other probe is in
    /// flight.
    pub(crate) fn admit(self: &Arc<Self>, key: &K, now: Instant) -> Result<Permit<K>, Unavailable> {
        if self.is_empty() {
            return Ok(self.permit(key));
        }
        let mut permit = self.permit(key);
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(key) else {
            return Ok(permit);
        };
        if let Some(until) = entry.until {
            let why = entry.why;
            if now < until {
                return Err(Unavailable { until, why });
            }
            if entry.has_probe(now) {
                let until = now.checked_add(PROBE_WAIT).unwrap_or(now);
                return Err(Unavailable { until, why });
            }
            permit.is_probe = true;
            entry.probe = Some(now);
            entry.generation = self.next_generation();
        } else {
            entry.pending = entry.pending.saturating_add(1);
        }
        permit.generation = Some(entry.generation);
        Ok(permit)
    }

    /// Returns a permit for a call that is made whatever the state of the key. Its success changes
    /// nothing, and its failure counts unless the key is cooling down.
    pub(crate) fn permit(self: &Arc<Self>, key: &K) -> Permit<K> {
        Permit {
            table: self.clone(),
            key: key.clone(),
            generation: None,
            is_probe: false,
        }
    }

    /// Returns all keys with their state and their last failure.
    pub(crate) fn snapshot(&self, now: Instant) -> Vec<(K, CoolDownSnapshot, Class)> {
        let entries = self.lock();
        let all = entries.iter().map(|(key, entry)| {
            let snapshot = CoolDownSnapshot {
                failures: entry.failures.len(),
                cool_downs: entry.count,
                remaining: entry
                    .until
                    .map(|until| until.saturating_duration_since(now)),
                is_probed: entry.has_probe(now),
            };
            (key.clone(), snapshot, entry.why)
        });
        all.collect()
    }

    fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, CoolDownEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of a model or rate group that failed lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CoolDownSnapshot {
    /// The failures since the last success. Zero during a cool-down.
    pub failures: usize,
    /// The number of cool-downs in a row.
    pub cool_downs: u32,
    /// The remaining time of the cool-down. Zero if the next request may probe, and `None` if
    /// failures are only counted.
    pub remaining: Option<Duration>,
    /// True while a probe is in flight.
    pub is_probed: bool,
}

/// A permit for one call to a key. A probe that is dropped before it is settled is given back, so
/// that the next call may probe, and another call is not pending any more.
#[derive(Debug)]
#[must_use]
pub(crate) struct Permit<K: Clone + Eq + Hash> {
    table: Arc<CoolDownTable<K>>,
    key: K,
    /// The generation of the entry. Absent if the key had not failed when the call was admitted.
    generation: Option<u64>,
    is_probe: bool,
}

impl<K: Clone + Eq + Hash> Permit<K> {
    pub(crate) const fn key(&self) -> &K {
        &self.key
    }

    /// Returns true if the call finds out whether the key works again.
    pub(crate) const fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// Records the outcome of the call. `why` is kept as the last failure, and `chance` in
    /// `0.0..1.0` varies the cool-down.
    pub(crate) fn settle(
        mut self,
        signal: Signal,
        why: Class,
        config: &CoolDown,
        now: Instant,
        chance: f64,
    ) -> Option<CoolDownChange> {
        let held = self.generation.take();
        let failed = matches!(signal, Signal::Failure { .. });
        if held.is_none() && !failed {
            return None;
        }
        let table = &*self.table;
        let mut entries = table.lock();
        if held.is_none() && !entries.contains_key(&self.key) {
            if entries.len() >= MAX_KEYS {
                entries.retain(|_, entry| !entry.is_idle(config.within, now));
            }
            // So many keys in a minute are noise. A key that is not in the table is never cooled
            // down.
            if entries.len() < MAX_KEYS {
                let entry = CoolDownEntry::new(table.next_generation(), why, now);
                entries.insert(self.key.clone(), entry);
            }
        }
        let entry = entries.get_mut(&self.key)?;
        if held.map_or(entry.until.is_some(), |held| held != entry.generation) {
            return None;
        }
        let is_cooling = entry.until.is_some();
        if held.is_some() && !is_cooling {
            entry.pending = entry.pending.saturating_sub(1);
        }
        let retry_after = match signal {
            Signal::Failure { retry_after } | Signal::Busy { retry_after } => retry_after,
            _ => None,
        };
        if failed {
            entry.why = why;
        }
        let (change, keep) = match signal {
            Signal::Success => (is_cooling.then_some(CoolDownChange::Cleared), false),
            Signal::Reachable if is_cooling => (Some(CoolDownChange::Cleared), false),
            Signal::None if is_cooling => {
                entry.probe = None;
                (None, true)
            }
            Signal::Busy { .. } | Signal::Reachable | Signal::None if !is_cooling => {
                (None, !entry.is_idle(config.within, now))
            }
            _ if is_cooling || entry.count_failure(config, now, held.is_none()) => {
                entry.count = entry.count.saturating_add(1);
                let cool_down = config.length(entry.count, retry_after, chance);
                entry.start_cool_down(cool_down, table.next_generation(), now);
                let count = entry.count;
                (Some(CoolDownChange::Started { cool_down, count }), true)
            }
            _ => (None, true),
        };
        if !keep {
            entries.remove(&self.key);
        }
        table.len.store(entries.len(), Ordering::Release);
        change
    }
}

impl<K: Clone + Eq + Hash> Drop for Permit<K> {
    fn drop(&mut self) {
        let Some(held) = self.generation else {
            return;
        };
        if let Some(entry) = self.table.lock().get_mut(&self.key)
            && entry.generation == held
        {
            if self.is_probe {
                entry.probe = None;
            } else {
                entry.pending = entry.pending.saturating_sub(1);
            }
        }
    }
}
