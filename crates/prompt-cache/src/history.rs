//! The history of prefixes: when they were used, and which of them are cached.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    hash::BuildHasher,
    time::Duration,
};

use foldhash::fast::{FixedState, RandomState};
use tokio::time::Instant;
use tower_claude_wire::{CacheTtl, Money};

use crate::{
    outline::{Boundary, Outline},
    reuse::{COUNT, Chances, INTERVALS, ReuseCounts},
};

/// The most prefixes that are kept. Each takes about 200 bytes.
const MAX_PREFIXES: usize = 65_536;

/// The most classes that are kept.
const MAX_CLASSES: usize = 8_192;

/// The weight of one response in the share of reads that come.
const READ_WEIGHT: f64 = 0.25;

/// The share of reads below which a prefix of the class does not count as cached. Three misses in a
/// row lead below it.
const TRUSTED_SHARE: f64 = 0.5;

/// The time in which half of the distrust in a class is forgotten.
const FORGETS_HALF: Duration = Duration::from_secs(600);

/// The number of requests after which a class that loses money is switched off.
const PROVING_REQUESTS: u32 = 100;

/// The time for which a class is switched off.
const OFF_FOR: Duration = Duration::from_secs(3_600);

/// The classes of a prefix: prefixes of the same route, and prefixes of the same shape on any
/// route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClassKeys {
    pub(crate) boundary: Boundary,
    pub(crate) route: u64,
    pub(crate) shape: u64,
}

/// A prefix at a boundary.
#[derive(Clone, Debug)]
struct Prefix {
    last_used: Instant,
    /// Changes with each use, so that a due time of an earlier use is recognised.
    use_number: u64,
    /// The interval that the prefix is in.
    interval: usize,
    /// The number of running requests with this prefix that have not begun to answer.
    unread: u32,
    classes: ClassKeys,
    counts: ReuseCounts,
    cached: Option<Cached>,
}

/// An entry of the server's cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cached {
    pub(crate) until: Instant,
    pub(crate) ttl: CacheTtl,
    tokens: u64,
    /// The tokens were counted by the server.
    is_counted: bool,
}

/// A prefix that the server is expected to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpectedRead {
    pub(crate) hash: u64,
    pub(crate) tokens: u64,
    /// The tokens as the server has counted them. `None` before a response has shown them.
    pub(crate) counted: Option<u64>,
}

/// The counts of a class, and its balance.
#[derive(Clone, Debug)]
struct ClassCounts {
    boundary: Boundary,
    counts: ReuseCounts,
    last_used: Instant,
    /// The share of the expected reads that came, at the time of the last one.
    read_share: f64,
    read_at: Option<Instant>,
    /// The requests since the balance was last begun.
    requests: u32,
    /// The savings of these requests.
    saved: Money,
    /// The time at which the balance was last begun.
    since: Instant,
    /// The longest lifetime of the markers in the balance. Before it is over, the reads of what was
    /// written first may still come.
    lifetime: CacheTtl,
    off_until: Option<Instant>,
}

/// One use of a prefix: its time, the hash of the prefix, and its number.
type Use = (Instant, u64, u64);

/// The history of the prefixes at boundaries, by their hashes.
#[derive(Debug, Default)]
pub(crate) struct History {
    prefixes: HashMap<u64, Prefix, RandomState>,
    classes: HashMap<u64, ClassCounts, RandomState>,
    /// For each interval the uses that are in it, in the order of their time.
    due: [VecDeque<Use>; COUNT],
    uses: u64,
}

/// The state of a class in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassSnapshot {
    /// The place of the markers.
    pub boundary: Boundary,
    /// The requests that were marked since the balance was begun.
    pub requests: u32,
    /// The savings of these requests, compared with no marker. Negative for a loss.
    pub saved: Money,
    /// True while the class is not marked, because it has lost money.
    pub is_off: bool,
}

impl History {
    /// Records the intervals that have passed until `now`.
    pub(crate) fn advance(&mut self, now: Instant) {
        for (interval, end) in INTERVALS.into_iter().enumerate() {
            while let Some((since, hash, use_number)) = self.due[interval].front().copied() {
                if now.saturating_duration_since(since) <= end {
                    break;
                }
                self.due[interval].pop_front();
                let Some(prefix) = self.prefixes.get_mut(&hash) else {
                    continue;
                };
                if prefix.use_number != use_number {
                    continue;
                }
                prefix.interval = interval + 1;
                prefix.counts.record(interval, false);
                let classes = prefix.classes;
                self.record(&classes, interval, false);
                if interval + 1 < COUNT {
                    push_due(&mut self.due[interval + 1], (since, hash, use_number));
                }
            }
        }
    }

    /// Records that these prefixes were used again, so far as they are known. `shares_running` is
    /// true if a request waits for another one that writes the same prefix.
    pub(crate) fn observe(&mut self, outline: &Outline, shares_running: bool) {
        for block in &outline.blocks {
            let Some(prefix) = self.prefixes.get_mut(&block.prefix) else {
                continue;
            };
            if prefix.unread > 0 && !shares_running {
                // It could not have been read yet.
                continue;
            }
            let interval = prefix.interval;
            if interval < COUNT {
                prefix.counts.record(interval, true);
                let classes = prefix.classes;
                // The next use begins with `begin`.
                prefix.interval = COUNT;
                prefix.use_number = 0;
                self.record(&classes, interval, true);
            }
        }
    }

    /// Records the use of a prefix at a boundary.
    pub(crate) fn begin(&mut self, hash: u64, classes: ClassKeys, now: Instant) {
        self.uses += 1;
        let use_number = self.uses;
        let prefix = self.prefixes.entry(hash).or_insert_with(|| Prefix {
            last_used: now,
            use_number,
            interval: 0,
            unread: 0,
            classes,
            counts: ReuseCounts::default(),
            cached: None,
        });
        prefix.last_used = now;
        prefix.use_number = use_number;
        prefix.interval = 0;
        prefix.classes = classes;
        prefix.unread += 1;
        push_due(&mut self.due[0], (now, hash, use_number));
        for key in [classes.route, classes.shape] {
            let class = self.classes.entry(key).or_insert_with(|| ClassCounts {
                boundary: classes.boundary,
                counts: ReuseCounts::default(),
                last_used: now,
                read_share: 1.0,
                read_at: None,
                requests: 0,
                saved: Money::ZERO,
                since: now,
                lifetime: CacheTtl::FiveMinutes,
                off_until: None,
            });
            class.last_used = now;
        }
        evict_oldest(&mut self.prefixes, MAX_PREFIXES, |prefix| prefix.last_used);
        evict_oldest(&mut self.classes, MAX_CLASSES, |class| class.last_used);
    }

    /// Records that a request with this prefix has begun to answer, or has ended.
    pub(crate) fn end_unread(&mut self, hash: u64) {
        if let Some(prefix) = self.prefixes.get_mut(&hash) {
            prefix.unread = prefix.unread.saturating_sub(1);
        }
    }

    /// Records that the last use of a prefix did not reach the server.
    pub(crate) fn cancel(&mut self, hash: u64) {
        if let Some(prefix) = self.prefixes.get_mut(&hash) {
            prefix.interval = COUNT;
            prefix.use_number = 0;
        }
    }

    /// Returns true if this prefix is known.
    pub(crate) fn knows(&self, hash: u64) -> bool {
        self.prefixes.contains_key(&hash)
    }

    /// Sets the tokens of a cached prefix, as the server has counted them.
    pub(crate) fn set_tokens(&mut self, hash: u64, tokens: u64) {
        let prefix = self.prefixes.get_mut(&hash);
        if let Some(cached) = prefix.and_then(|prefix| prefix.cached.as_mut()) {
            cached.tokens = tokens;
            cached.is_counted = true;
        }
    }

    fn record(&mut self, classes: &ClassKeys, interval: usize, again: bool) {
        for key in [classes.route, classes.shape] {
            if let Some(class) = self.classes.get_mut(&key) {
                class.counts.record(interval, again);
            }
        }
    }

    /// Returns the chances that a prefix of these classes comes again and is read.
    pub(crate) fn chances(&self, hash: u64, classes: &ClassKeys, now: Instant) -> Chances {
        let none = ReuseCounts::default();
        let prefix = self.prefixes.get(&hash);
        let own = prefix.map_or(&none, |prefix| &prefix.counts);
        let class = |key| self.classes.get(&key).map_or(&none, |class| &class.counts);
        let chances = Chances::of(own, class(classes.route), class(classes.shape));
        chances.times(self.read_share(classes, now))
    }

    /// Returns the share of reads of these classes that come.
    fn read_share(&self, classes: &ClassKeys, now: Instant) -> f64 {
        let share = |key| {
            self.classes
                .get(key)
                .map_or(1.0, |class| class.read_share(now))
        };
        share(&classes.route).min(share(&classes.shape))
    }

    /// Returns the chances that a known prefix comes again.
    pub(crate) fn known_chances(&self, hash: u64, now: Instant) -> Option<Chances> {
        let classes = self.prefixes.get(&hash)?.classes;
        Some(self.chances(hash, &classes, now))
    }

    /// Returns true if markers of these classes have lost money.
    pub(crate) fn is_off(&self, classes: &ClassKeys, now: Instant) -> bool {
        [classes.route, classes.shape].iter().any(|key| {
            let class = self.classes.get(key);
            class.is_some_and(|class| class.is_off(now))
        })
    }

    /// Returns the cached entry of this prefix at `now`, unless reads of its class did not come.
    pub(crate) fn trusted(&self, hash: u64, now: Instant) -> Option<Cached> {
        let classes = self.prefixes.get(&hash)?.classes;
        let is_doubted =
            self.read_share(&classes, now) < TRUSTED_SHARE || self.is_off(&classes, now);
        self.cached(hash, now).filter(|_| !is_doubted)
    }

    /// Returns the cached entry of this prefix at `now`.
    pub(crate) fn cached(&self, hash: u64, now: Instant) -> Option<Cached> {
        let cached = self.prefixes.get(&hash)?.cached?;
        (now < cached.until).then_some(cached)
    }

    /// Returns the read that is expected of this prefix, if it is cached.
    pub(crate) fn expected(&self, hash: u64, now: Instant) -> Option<ExpectedRead> {
        let Cached {
            tokens, is_counted, ..
        } = self.cached(hash, now)?;
        Some(ExpectedRead {
            hash,
            tokens,
            counted: is_counted.then_some(tokens),
        })
    }

    /// Returns true if this prefix was cached, but is not any more.
    pub(crate) fn has_expired(&self, hash: u64, now: Instant) -> bool {
        let cached = self.prefixes.get(&hash).and_then(|prefix| prefix.cached);
        cached.is_some_and(|cached| cached.until <= now)
    }

    /// Records that a prefix is cached, by a request that was sent at `since`.
    pub(crate) fn set_cached(&mut self, hash: u64, ttl: CacheTtl, tokens: u64, since: Instant) {
        if let Some(prefix) = self.prefixes.get_mut(&hash) {
            let until = since + ttl.duration();
            prefix.cached = Some(match prefix.cached {
                // A read renews an entry and keeps its lifetime.
                Some(cached) if cached.until > since && cached.ttl >= ttl => Cached {
                    until: cached.until.max(since + cached.ttl.duration()),
                    ..cached
                },
                _ => Cached {
                    until,
                    ttl,
                    tokens,
                    is_counted: false,
                },
            });
        }
    }

    /// Records whether the server has read this prefix, which should be cached. If not, the request
    /// has written it again.
    pub(crate) fn record_read(&mut self, hash: u64, came: bool, now: Instant) {
        let Some(classes) = self.prefixes.get(&hash).map(|prefix| prefix.classes) else {
            return;
        };
        for key in [classes.route, classes.shape] {
            if let Some(class) = self.classes.get_mut(&key) {
                let share = class.read_share(now);
                let one = if came { 1.0 } else { 0.0 };
                class.read_share = share + (one - share) * READ_WEIGHT;
                class.read_at = Some(now);
            }
        }
    }

    /// Records that the server does not cache this prefix, because it is too short.
    pub(crate) fn set_uncached(&mut self, hash: u64) {
        if let Some(prefix) = self.prefixes.get_mut(&hash) {
            prefix.cached = None;
        }
    }

    /// Adds savings, or a loss, to the class of a prefix. Returns the boundary of a class that is
    /// switched off by it, and its loss. `marked` is the lifetime of the last marker of a request,
    /// which counts once.
    pub(crate) fn add_saving(
        &mut self,
        hash: u64,
        saving: Money,
        marked: Option<CacheTtl>,
        now: Instant,
    ) -> Option<(Boundary, Money)> {
        let classes = self.prefixes.get(&hash)?.classes;
        let mut switched_off = None;
        for key in [classes.route, classes.shape] {
            let Some(class) = self.classes.get_mut(&key) else {
                continue;
            };
            class.saved += saving;
            if let Some(ttl) = marked {
                if class.requests == 0 {
                    (class.since, class.lifetime) = (now, ttl);
                }
                class.lifetime = class.lifetime.max(ttl);
                class.requests += 1;
            }
            let is_over = now.saturating_duration_since(class.since) >= class.lifetime.duration();
            if class.requests < PROVING_REQUESTS || !is_over {
                continue;
            }
            if class.saved.is_negative() && !class.is_off(now) {
                class.off_until = Some(now + OFF_FOR);
                switched_off = Some((class.boundary, class.saved));
            }
            class.requests = 0;
            class.saved = Money::ZERO;
        }
        switched_off
    }

    /// Returns the number of prefixes that are known.
    pub(crate) fn len(&self) -> usize {
        self.prefixes.len()
    }

    /// Returns the classes with marked requests, those with the greatest savings or losses first.
    pub(crate) fn classes(&self, now: Instant) -> Vec<ClassSnapshot> {
        let mut classes: Vec<_> = self
            .classes
            .values()
            .filter(|class| class.requests > 0 || class.is_off(now))
            .map(|class| ClassSnapshot {
                boundary: class.boundary,
                requests: class.requests,
                saved: class.saved,
                is_off: class.is_off(now),
            })
            .collect();
        classes.sort_unstable_by_key(|class| Reverse(class.saved.picos().abs()));
        classes
    }
}

impl ClassCounts {
    /// Returns the share of reads that come. Distrust is forgotten with time, because an unmarked
    /// class has no reads that could prove it wrong.
    fn read_share(&self, now: Instant) -> f64 {
        let Some(at) = self.read_at else {
            return self.read_share;
        };
        let halves = now.saturating_duration_since(at).as_secs_f64() / FORGETS_HALF.as_secs_f64();
        1.0 - (1.0 - self.read_share) * 0.5_f64.powf(halves)
    }

    fn is_off(&self, now: Instant) -> bool {
        self.off_until.is_some_and(|until| now < until)
    }
}

/// Adds a use, in place of the oldest one if there are too many.
fn push_due(due: &mut VecDeque<Use>, entry: Use) {
    if due.len() >= MAX_PREFIXES {
        due.pop_front();
    }
    due.push_back(entry);
}

/// Returns a key that combines these numbers.
pub(crate) fn key(parts: &[u64]) -> u64 {
    FixedState::default().hash_one(parts)
}

/// Removes the quarter of a full map that was used longest ago.
pub(crate) fn evict_oldest<V, S: BuildHasher>(
    map: &mut HashMap<u64, V, S>,
    most: usize,
    last_used: impl Fn(&V) -> Instant,
) {
    if map.len() <= most {
        return;
    }
    let mut times: Vec<_> = map.values().map(&last_used).collect();
    let quarter = times.len() / 4;
    let (_, end, _) = times.select_nth_unstable(quarter);
    let end = *end;
    map.retain(|_, value| last_used(value) > end);
}
