//! A model of the prompt cache of the server.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU64,
    time::Duration,
};

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::{Prefix, Prefixes};

/// The number of positions, backwards from and including a breakpoint, at which the server looks
/// for a cached prefix. A [run of tool blocks](Prefix::joins) is one position.
const LOOK_BACK: usize = 20;

/// The greatest number of hashes that are kept for a request. Runs of tool blocks may be long.
const MAX_LOOKUPS: usize = 256;

/// The greatest number of breakpoints in a request.
const BREAKPOINTS: usize = 4;

/// The bytes of text per token that are assumed where the tokens of a prompt are not known.
const LEAST_BYTES_PER_TOKEN: u64 = 3;

/// The greatest number of prefixes in the model.
const MAX_PREFIXES: usize = 4_096;

/// The greatest number of requests in flight. Beyond it the oldest is discarded.
///
/// It is greater than the default queue of a limiter (10,000 requests), so that a full queue loses
/// no request.
const MAX_IN_FLIGHT: usize = 16_384;

/// The prediction of the cache reads of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheReads {
    /// The id of the request, for [`PrefixMemory::learn`].
    pub id: NonZeroU64,
    /// The tokens that will be read.
    pub tokens: u64,
    /// The length of the prefix that will be read, measured as in
    /// [`Prefix::bytes`](super::Prefix::bytes).
    pub bytes: u64,
}

/// A model of the prompt cache of the server, learned from the usage in responses.
///
/// A prefix counts as cached when a response has begun whose request had a breakpoint at the end of
/// the prefix. It counts as cached until its lifetime is over, and each use renews the lifetime. In
/// doubt the model predicts no cache reads. Its size is bounded.
#[derive(Debug, Default)]
pub struct PrefixMemory {
    cached: HashMap<u64, Cached, RandomState>,
    in_flight: BTreeMap<NonZeroU64, PendingPrompt>,
    /// The number of requests so far, for the next id.
    requests: u64,
}

/// A cached prefix.
#[derive(Clone, Copy, Debug)]
struct Cached {
    tokens: u64,
    until: Instant,
    keep: Duration,
}

/// A prefix with a breakpoint at its end.
#[derive(Clone, Copy, Debug, Default)]
struct Breakpoint {
    hash: u64,
    bytes: u64,
    keep: Duration,
}

/// The prefix that is expected to be read.
#[derive(Clone, Copy, Debug)]
struct ExpectedRead {
    hash: u64,
    tokens: u64,
    bytes: u64,
}

/// A request whose cache usage is not known yet.
#[derive(Clone, Debug)]
struct PendingPrompt {
    /// The time at which the request was sent. Lifetimes count from this time.
    since: Instant,
    /// The breakpoints, ordered from the last to the first. Only the first `count` are used.
    breakpoints: [Breakpoint; BREAKPOINTS],
    count: usize,
    /// The hashes at which the server looks for a cached prefix, with the longest prefix first.
    lookups: Box<[u64]>,
    expected: Option<ExpectedRead>,
    /// The usage includes the results of tools that ran at the server.
    has_server_tools: bool,
}

impl PrefixMemory {
    /// Creates a model of an empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of prefixes that are, or recently were, cached.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cached.len()
    }

    /// Returns true if no prefix is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cached.is_empty()
    }

    /// Returns the tokens that a prompt would read from the cache if it were sent at `now`. Records
    /// nothing. 0 for a prompt without a breakpoint.
    #[must_use]
    pub fn predict(&self, prompt: &Prefixes, now: Instant) -> u64 {
        let prefixes = prompt.as_slice();
        let marked = prefixes.iter().enumerate().rev();
        let marked = marked.filter(|(_, prefix)| prefix.keep.is_some());
        let lookups = lookups(prefixes, marked.take(BREAKPOINTS).map(|(at, _)| at));
        self.longest(&lookups, now).map_or(0, |(_, tokens)| tokens)
    }

    /// Predicts the cache reads of a prompt that is sent at `now`, and records the request.
    ///
    /// Returns `None` if the prompt has no breakpoint, because the server then does not use its
    /// cache.
    pub fn expect(&mut self, prompt: &Prefixes, now: Instant) -> Option<CacheReads> {
        let prefixes = prompt.as_slice();
        let marked = || {
            prefixes
                .iter()
                .enumerate()
                .rev()
                .filter_map(|(at, p)| Some((at, p, p.keep?)))
        };
        let mut breakpoints = [Breakpoint::default(); BREAKPOINTS];
        let mut count = 0;
        for ((_, prefix, keep), breakpoint) in marked().zip(&mut breakpoints) {
            *breakpoint = Breakpoint {
                hash: prefix.hash,
                bytes: prefix.bytes,
                keep,
            };
            count += 1;
        }
        if count == 0 {
            return None;
        }
        let lookups = lookups(prefixes, marked().take(BREAKPOINTS).map(|(at, ..)| at));
        let expected = self.longest(&lookups, now).map(|(hash, tokens)| {
            let found = prefixes.iter().rev().find(|prefix| prefix.hash == hash);
            ExpectedRead {
                hash,
                tokens,
                bytes: found.map_or(0, |prefix| prefix.bytes),
            }
        });
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            self.in_flight.pop_first();
        }
        let id = NonZeroU64::MIN.saturating_add(self.requests);
        self.requests += 1;
        let request = PendingPrompt {
            since: now,
            breakpoints,
            count,
            lookups,
            expected,
            has_server_tools: prompt.has_server_tools(),
        };
        self.in_flight.insert(id, request);
        Some(CacheReads {
            id,
            tokens: expected.map_or(0, |expected| expected.tokens),
            bytes: expected.map_or(0, |expected| expected.bytes),
        })
    }

    /// Predicts the cache reads of a recorded request that is sent only at `now`, without its
    /// prompt.
    ///
    /// Returns `None` if the prediction would use another prefix than before, or if the request was
    /// discarded. Its prompt must then be passed to [`expect`](Self::expect) again.
    pub fn renew(&mut self, id: NonZeroU64, now: Instant) -> Option<u64> {
        let found = self.longest(&self.in_flight.get(&id)?.lookups, now);
        let request = self.in_flight.get_mut(&id)?;
        if found.map(|(hash, _)| hash) != request.expected.map(|expected| expected.hash) {
            return None;
        }
        request.since = now;
        let tokens = found.map_or(0, |(_, tokens)| tokens);
        if let Some(expected) = &mut request.expected {
            expected.tokens = tokens;
        }
        Some(tokens)
    }

    /// Records the tokens of a request that were read from the cache and written to it.
    ///
    /// A second call for the same request has no effect.
    pub fn learn(&mut self, id: NonZeroU64, read: u64, written: u64) {
        let Some(request) = self.in_flight.remove(&id) else {
            return;
        };
        // The prefix that was read, with its lifetime.
        let confirmed = request.expected.and_then(|expected| {
            let keep = self.confirm(&expected, read, request.since)?;
            Some((expected, keep))
        });
        let breakpoints = &request.breakpoints[..request.count];
        let total = read.saturating_add(written);
        if total == 0 {
            // The prompt is too short to be cached, or the model has no cache.
            for breakpoint in breakpoints {
                self.cached.remove(&breakpoint.hash);
            }
            return;
        }
        // The last breakpoint comes first, and the tokens that were read or written end there. The
        // tokens of the others are estimated by their share of the bytes.
        let longest = breakpoints[0].bytes.max(1);
        // The writes of server tools lie behind the prompt, and their share is not known.
        let total = match request.has_server_tools {
            true => total.min(longest / LEAST_BYTES_PER_TOKEN),
            false => total,
        };
        for breakpoint in breakpoints {
            let share = u128::from(total) * u128::from(breakpoint.bytes) / u128::from(longest);
            let share = u64::try_from(share).unwrap_or(total);
            let known = self.cached.get(&breakpoint.hash);
            let is_read = match &confirmed {
                Some((expected, _)) => breakpoint.bytes <= expected.bytes,
                None => share <= read,
            };
            // The API does not document that a breakpoint in the part that is read lengthens a
            // lifetime.
            let live = known.filter(|known| request.since < known.until);
            let keep = match (live, &confirmed) {
                (Some(live), _) if is_read => live.keep,
                (None, Some((_, keep))) if is_read => breakpoint.keep.min(*keep),
                _ => breakpoint.keep,
            };
            let breakpoint = Breakpoint {
                keep,
                ..*breakpoint
            };
            let tokens = match known.filter(|_| request.has_server_tools) {
                Some(known) => known.tokens,
                None => share,
            };
            self.insert(&breakpoint, tokens, request.since);
        }
        self.evict(request.since);
    }

    /// Discards a request whose usage will not be known.
    pub fn forget(&mut self, id: NonZeroU64) {
        self.in_flight.remove(&id);
    }

    /// Returns the first of these hashes that is cached, with its tokens.
    fn longest(&self, lookups: &[u64], now: Instant) -> Option<(u64, u64)> {
        lookups.iter().find_map(|hash| {
            let cached = self.cached.get(hash)?;
            (now < cached.until).then_some((*hash, cached.tokens))
        })
    }

    /// Renews the prefix that was expected to be read and returns its lifetime, or removes it if it
    /// was not read.
    fn confirm(&mut self, expected: &ExpectedRead, read: u64, since: Instant) -> Option<Duration> {
        let cached = self.cached.get_mut(&expected.hash)?;
        let tokens = expected.tokens;
        if read < tokens - tokens / 4 {
            self.cached.remove(&expected.hash);
            return None;
        }
        if read <= tokens.saturating_add(tokens / 4) {
            cached.tokens = read;
        }
        cached.until = cached.until.max(since + cached.keep);
        Some(cached.keep)
    }

    /// Inserts a prefix, or renews it.
    fn insert(&mut self, breakpoint: &Breakpoint, tokens: u64, since: Instant) {
        let until = since + breakpoint.keep;
        let fresh = Cached {
            tokens,
            until,
            keep: breakpoint.keep,
        };
        let cached = self.cached.entry(breakpoint.hash).or_insert(fresh);
        *cached = Cached {
            until: until.max(cached.until),
            ..fresh
        };
    }

    /// Removes expired prefixes if the model is full, and then the quarter that expires first.
    fn evict(&mut self, now: Instant) {
        if self.cached.len() <= MAX_PREFIXES {
            return;
        }
        self.cached.retain(|_, cached| now < cached.until);
        if self.cached.len() <= MAX_PREFIXES {
            return;
        }
        let mut ends: Vec<_> = self.cached.values().map(|cached| cached.until).collect();
        let quarter = ends.len() / 4;
        let (_, end, _) = ends.select_nth_unstable(quarter);
        self.cached.retain(|_, cached| cached.until > *end);
    }
}

/// Returns the hashes at which the server looks for a cached prefix. `marked` holds the positions
/// of the breakpoints, with the last one first.
fn lookups(prefixes: &[Prefix], marked: impl Iterator<Item = usize>) -> Box<[u64]> {
    let mut hashes = Vec::new();
    let mut end = prefixes.len();
    for at in marked {
        let mut positions = 0;
        let reached = prefixes[..=at].iter().enumerate().rev();
        for (index, prefix) in reached {
            // The ranges of two breakpoints may overlap.
            if index < end {
                hashes.push(prefix.hash);
                end = index;
            }
            positions += usize::from(!prefix.joins);
            if positions == LOOK_BACK {
                break;
            }
        }
    }
    hashes.truncate(MAX_LOOKUPS);
    hashes.into()
}
