//! What the prompt cache of the server holds, as far as the answers have shown.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU64,
    time::Duration,
};

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::{Prefix, Prefixes};

/// Blocks at which the server looks for something cached, from each breakpoint back, itself included.
const LOOK_BACK: usize = 20;

/// Breakpoints a request may have.
const BREAKPOINTS: usize = 4;

/// Prefixes kept at once.
const MOST_PREFIXES: usize = 4_096;

/// Requests under way that can still be learned from; older ones are given up. More than wait in a full
/// queue of a limiter as it comes (10,000), so that those are not lost who will be asked about next.
const MOST_UNDER_WAY: usize = 16_384;

/// What will be read from the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheReads {
    /// The request, for [`PrefixMemory::learn`].
    pub id: NonZeroU64,
    /// Tokens that will be read.
    pub tokens: u64,
    /// Length of the prefix that holds them, measured as in [`Prefix::bytes`](super::Prefix::bytes).
    pub bytes: u64,
}

/// What the prompt cache of the server holds, as far as the answers have shown. Bounded; synchronous.
///
/// A prefix is taken to be cached once an answer has begun whose request had a breakpoint at its end, and
/// until its lifetime is over, which each use begins anew. It errs towards nothing being cached.
#[derive(Debug, Default)]
pub struct PrefixMemory {
    cached: HashMap<u64, Cached, RandomState>,
    under_way: BTreeMap<NonZeroU64, UnderWay>,
    /// Requests expected so far.
    requests: u64,
}

#[derive(Clone, Copy, Debug)]
struct Cached {
    tokens: u64,
    until: Instant,
    keep: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Point {
    hash: u64,
    bytes: u64,
    keep: Duration,
}

#[derive(Clone, Debug)]
struct UnderWay {
    /// A lifetime counts from the start of the request, which is no earlier.
    since: Instant,
    points: [Point; BREAKPOINTS],
    count: usize,
    /// Where the server looks for something cached, the longest prefix first.
    reach: Box<[u64]>,
    /// What is expected to be read.
    expected: Option<(u64, u64)>,
}

impl PrefixMemory {
    /// Nothing cached.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Prefixes known to be cached, or to have been lately.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cached.len()
    }

    /// Whether nothing is known to be cached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cached.is_empty()
    }

    /// What will be read of this prompt when it is sent now. `None` when it has no breakpoint: then it
    /// neither reads nor writes.
    pub fn expect(&mut self, prompt: &Prefixes, now: Instant) -> Option<CacheReads> {
        let prefixes = prompt.as_slice();
        let marked = || {
            prefixes
                .iter()
                .enumerate()
                .rev()
                .filter_map(|(at, p)| Some((at, p, p.keep?)))
        };
        let mut points = [Point::default(); BREAKPOINTS];
        let mut count = 0;
        for ((_, prefix, keep), point) in marked().zip(&mut points) {
            *point = Point {
                hash: prefix.hash,
                bytes: prefix.bytes,
                keep,
            };
            count += 1;
        }
        if count == 0 {
            return None;
        }
        let reach = reach(prefixes, marked().take(BREAKPOINTS).map(|(at, ..)| at));
        let expected = self.longest(&reach, now);
        let bytes = expected.and_then(|(hash, _)| {
            let found = prefixes.iter().rev().find(|prefix| prefix.hash == hash);
            found.map(|prefix| prefix.bytes)
        });
        if self.under_way.len() >= MOST_UNDER_WAY {
            self.under_way.pop_first();
        }
        let id = NonZeroU64::MIN.saturating_add(self.requests);
        self.requests += 1;
        let request = UnderWay {
            since: now,
            points,
            count,
            reach,
            expected,
        };
        self.under_way.insert(id, request);
        Some(CacheReads {
            id,
            tokens: expected.map_or(0, |(_, tokens)| tokens),
            bytes: bytes.unwrap_or(0),
        })
    }

    /// Tokens that will be read when a request that was expected is sent only now, without its prompt: from
    /// the same prefix as before, or from none as before. `None` when another prefix is cached by now, the
    /// one of before is no more, or the request was given up: then its prompt is to be
    /// [expected](Self::expect) anew.
    pub fn renew(&mut self, id: NonZeroU64, now: Instant) -> Option<u64> {
        let found = self.longest(&self.under_way.get(&id)?.reach, now);
        let request = self.under_way.get_mut(&id)?;
        if found.map(|(hash, _)| hash) != request.expected.map(|(hash, _)| hash) {
            return None;
        }
        request.since = now;
        request.expected = found;
        Some(found.map_or(0, |(_, tokens)| tokens))
    }

    /// The answer to a request has begun: so many tokens of it were read from the cache and so many
    /// written to it. Once for each request; a second time changes nothing.
    pub fn learn(&mut self, id: NonZeroU64, read: u64, written: u64) {
        let Some(request) = self.under_way.remove(&id) else {
            return;
        };
        if let Some((hash, tokens)) = request.expected {
            self.confirm(hash, tokens, read, request.since);
        }
        let points = &request.points[..request.count];
        let total = read.saturating_add(written);
        if total == 0 {
            // Too short to be cached, or a model that does not.
            for point in points {
                self.cached.remove(&point.hash);
            }
            return;
        }
        // The last breakpoint comes first, and all that was read or written ends there.
        let longest = points[0].bytes.max(1);
        for point in points {
            let share = u128::from(total) * u128::from(point.bytes) / u128::from(longest);
            self.keep(point, u64::try_from(share).unwrap_or(total), request.since);
        }
        self.make_room(request.since);
    }

    /// Nothing will be learned of a request.
    pub fn forget(&mut self, id: NonZeroU64) {
        self.under_way.remove(&id);
    }

    /// The first of these that is cached, and its tokens.
    fn longest(&self, reach: &[u64], now: Instant) -> Option<(u64, u64)> {
        reach.iter().find_map(|hash| {
            let cached = self.cached.get(hash)?;
            (now < cached.until).then_some((*hash, cached.tokens))
        })
    }

    /// What was expected came, and lives longer now; or it did not come, so that it is gone.
    fn confirm(&mut self, hash: u64, expected: u64, read: u64, since: Instant) {
        let Some(cached) = self.cached.get_mut(&hash) else {
            return;
        };
        if read < expected - expected / 4 {
            self.cached.remove(&hash);
            return;
        }
        if read <= expected.saturating_add(expected / 4) {
            cached.tokens = read;
        }
        cached.until = cached.until.max(since + cached.keep);
    }

    fn keep(&mut self, point: &Point, tokens: u64, since: Instant) {
        let until = since + point.keep;
        let fresh = Cached {
            tokens,
            until,
            keep: point.keep,
        };
        let cached = self.cached.entry(point.hash).or_insert(fresh);
        *cached = Cached {
            until: until.max(cached.until),
            ..fresh
        };
    }

    /// Forgets what is over, and if that is not enough, the quarter that is over first.
    fn make_room(&mut self, now: Instant) {
        if self.cached.len() <= MOST_PREFIXES {
            return;
        }
        self.cached.retain(|_, cached| now < cached.until);
        if self.cached.len() <= MOST_PREFIXES {
            return;
        }
        let mut ends: Vec<_> = self.cached.values().map(|cached| cached.until).collect();
        let quarter = ends.len() / 4;
        let (_, end, _) = ends.select_nth_unstable(quarter);
        self.cached.retain(|_, cached| cached.until > *end);
    }
}

/// The hashes of what is within reach of these breakpoints, of which the last comes first.
fn reach(prefixes: &[Prefix], marked: impl Iterator<Item = usize>) -> Box<[u64]> {
    let mut hashes = Vec::new();
    let mut end = prefixes.len();
    for at in marked {
        let start = (at + 1).saturating_sub(LOOK_BACK);
        // What is within reach of two is looked at once.
        let fresh = prefixes.get(start..end.min(at + 1)).unwrap_or_default();
        hashes.extend(fresh.iter().rev().map(|prefix| prefix.hash));
        end = end.min(start);
    }
    hashes.into()
}
