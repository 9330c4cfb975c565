//! The prompt cache of the server.

use std::collections::HashMap;
use std::fmt;

use tower_claude_wire::CacheTtl;

/// The number of positions at which a marker looks for a cached prefix, its own included.
const LOOK_BACK: usize = 20;

/// The greatest number of markers in a request.
pub(crate) const MAX_MARKERS: usize = 4;

/// The number of entries from which on expired ones are removed.
const PRUNE_AT: usize = 1_024;

/// A block of a prompt, with the prefix that ends there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheBlock {
    /// A hash of the whole prefix and of all that separates caches: the credential, the model and
    /// the settings on which the prefix depends.
    pub prefix: u64,
    /// The tokens of the whole prefix.
    pub tokens: u64,
    /// True if the block takes the position of the block before it, as the later blocks of a run of
    /// `tool_use` or of `tool_result` do.
    pub joins: bool,
}

/// A marker (`cache_control`) on a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheMarker {
    /// The index of the block.
    pub block: usize,
    /// The requested lifetime.
    pub ttl: CacheTtl,
}

impl CacheMarker {
    /// Checks the number of the markers of a request and the order of their lifetimes. The markers
    /// must be in the order of their blocks.
    ///
    /// # Errors
    /// Returns the first rule of the API that they break.
    pub fn check(markers: &[Self]) -> Result<(), MarkerError> {
        if markers.len() > MAX_MARKERS {
            return Err(MarkerError::TooMany(markers.len()));
        }
        let grows = |pair: &[Self]| pair[0].ttl < pair[1].ttl;
        match markers.windows(2).position(grows) {
            Some(index) => Err(MarkerError::LongAfterShort(index + 1)),
            None => Ok(()),
        }
    }
}

/// A rule that the markers of a request break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MarkerError {
    /// There are so many markers, more than four.
    TooMany(usize),
    /// The marker with this index asks for one hour after a marker that asks for five minutes.
    LongAfterShort(usize),
}

impl fmt::Display for MarkerError {
    /// Writes the text of the API, without the path of the block.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany(found) => write!(
                f,
                "A maximum of {MAX_MARKERS} blocks with cache_control may be provided. Found {found}."
            ),
            Self::LongAfterShort(_) => f.write_str(
                "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. \
                 Note that blocks are processed in the following order: `tools`, `system`, `messages`.",
            ),
        }
    }
}

impl std::error::Error for MarkerError {}

/// The tokens of a prompt that were read from the cache and written to it. The rest of the prompt
/// is neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheTokens {
    /// Tokens that were read.
    pub read: u64,
    /// Tokens that were written for five minutes.
    pub written_5m: u64,
    /// Tokens that were written for one hour.
    pub written_1h: u64,
}

impl CacheTokens {
    /// Returns the tokens that were written.
    #[must_use]
    pub const fn written(self) -> u64 {
        self.written_5m + self.written_1h
    }
}

/// The entries that a request writes. No request can read them before the response begins.
#[derive(Clone, Debug, Default)]
#[must_use = "the entries are lost unless they are passed to `PromptCache::begin_response`"]
pub struct CacheWrite {
    start: u64,
    entries: Vec<(u64, CacheTtl)>,
}

/// Returns a lifetime in nanoseconds.
fn nanos(ttl: CacheTtl) -> u64 {
    u64::try_from(ttl.duration().as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    ttl: CacheTtl,
    until: u64,
}

/// The prompt cache of one server, by the documented rules.
///
/// * A prefix is written only where a marker is, if it has the least number of tokens of the model.
/// * A marker reads the longest cached prefix within 20 positions, its own included.
/// * An entry can be read once the response of its request has begun. Its lifetime counts from the
///   start of that request, and each read renews it.
/// * A prefix is billed once: the tokens up to the longest cached prefix are read, those up to the
///   last marker of one hour are written for one hour, and those up to the last marker for five
///   minutes.
///
/// The API does not document what a marker inside of the part that is read does. Here it renews
/// its entry, or makes one that lives no longer than the entry that is read, at no cost.
///
/// ```
/// use tower_claude_fake_claude::model::{CacheBlock, CacheMarker, CacheTtl, PromptCache};
///
/// let mut cache = PromptCache::new();
/// let block = |prefix, tokens| CacheBlock { prefix, tokens, joins: false };
/// let marker = |block| [CacheMarker { block, ttl: CacheTtl::FiveMinutes }];
/// let (first, write) = cache.start(0, &[block(1, 3_000)], &marker(0), 1_024);
/// assert_eq!((first.read, first.written_5m), (0, 3_000));
/// cache.begin_response(1_000_000_000, write);
/// let longer = [block(1, 3_000), block(2, 3_500)];
/// let (second, _) = cache.start(60_000_000_000, &longer, &marker(1), 1_024);
/// assert_eq!((second.read, second.written_5m), (3_000, 500));
/// ```
#[derive(Clone, Debug, Default)]
pub struct PromptCache {
    entries: HashMap<u64, Entry>,
    now: u64,
    prune_at: usize,
}

impl PromptCache {
    /// Creates an empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of entries that are, or recently were, alive.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns true if there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Starts a request: returns its tokens, renews the entries that it reads, and returns those
    /// that it writes. The markers must be in the order of their blocks. Prefixes of fewer than
    /// `least` tokens are not cached.
    pub fn start(
        &mut self,
        now: u64,
        blocks: &[CacheBlock],
        markers: &[CacheMarker],
        least: u64,
    ) -> (CacheTokens, CacheWrite) {
        self.now = self.now.max(now);
        let now = self.now;
        let marked = |marker: &CacheMarker| {
            let block = blocks.get(marker.block)?;
            (block.tokens >= least).then_some((marker.block, block, marker.ttl))
        };
        let markers: Vec<_> = markers.iter().filter_map(marked).collect();
        let Some(&(_, last, _)) = markers.last() else {
            return (CacheTokens::default(), CacheWrite::default());
        };
        let found = self.find(blocks, markers.iter().map(|(at, ..)| *at));
        let read = found.map_or(0, |(at, _)| blocks[at].tokens);
        let mut entries = Vec::with_capacity(markers.len());
        let mut until_1h = read;
        for (at, block, ttl) in &markers {
            match found {
                Some((end, entry)) if *at <= end => {
                    if !self.renew(block.prefix) {
                        entries.push((block.prefix, (*ttl).min(entry.ttl)));
                    }
                }
                _ => {
                    if *ttl == CacheTtl::OneHour {
                        until_1h = until_1h.max(block.tokens);
                    }
                    entries.push((block.prefix, *ttl));
                }
            }
        }
        if let Some((end, _)) = found {
            self.renew(blocks[end].prefix);
        }
        let tokens = CacheTokens {
            read,
            written_1h: until_1h - read,
            written_5m: last.tokens.saturating_sub(until_1h),
        };
        (
            tokens,
            CacheWrite {
                start: now,
                entries,
            },
        )
    }

    /// Makes the entries of a request readable, because its response begins. If it never begins,
    /// nothing is written.
    pub fn begin_response(&mut self, now: u64, write: CacheWrite) {
        self.now = self.now.max(now);
        for (prefix, ttl) in write.entries {
            let until = write.start.saturating_add(nanos(ttl));
            let fresh = Entry { ttl, until };
            let now = self.now;
            let entry = self.entries.entry(prefix).or_insert(fresh);
            *entry = if entry.until > now {
                Entry {
                    ttl: entry.ttl.max(ttl),
                    until: entry.until.max(until),
                }
            } else {
                fresh
            };
        }
        if self.entries.len() >= self.prune_at.max(PRUNE_AT) {
            let now = self.now;
            self.entries.retain(|_, entry| entry.until > now);
            self.prune_at = 2 * self.entries.len();
        }
    }

    /// Returns the longest cached prefix in reach of the markers at these blocks.
    fn find(
        &self,
        blocks: &[CacheBlock],
        markers: impl DoubleEndedIterator<Item = usize>,
    ) -> Option<(usize, Entry)> {
        markers.rev().find_map(|marker| {
            let mut positions = 1;
            for at in (0..=marker).rev() {
                if let Some(entry) = self.live(blocks[at].prefix) {
                    return Some((at, entry));
                }
                positions += usize::from(!blocks[at].joins);
                if positions > LOOK_BACK {
                    break;
                }
            }
            None
        })
    }

    fn live(&self, prefix: u64) -> Option<Entry> {
        let entry = self.entries.get(&prefix).copied()?;
        (entry.until > self.now).then_some(entry)
    }

    /// Renews a live entry. Returns false if there is none.
    fn renew(&mut self, prefix: u64) -> bool {
        let now = self.now;
        match self.entries.get_mut(&prefix) {
            Some(entry) if entry.until > now => {
                entry.until = entry.until.max(now.saturating_add(nanos(entry.ttl)));
                true
            }
            _ => false,
        }
    }
}
