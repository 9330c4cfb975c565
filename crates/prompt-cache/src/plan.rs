//! The plan: the places of the markers in a prompt.

use tokio::time::Instant;
use tower_claude_wire::{BlockKind, CacheTtl, PromptPart, insert_breakpoints};

use crate::{
    history::{Cached, ClassKeys, History, key},
    outline::{Boundary, Outline, OutlineBlock},
    reuse::{Chances, expected_uses},
    rules::CacheRules,
};

/// The positions between a cached prefix and the end of the prompt beyond which a marker is set in
/// between. A later request may share only a part of them.
const SPARE_AFTER: u32 = 15;

/// The gain that one hour must promise, as a multiple of what it costs more than five minutes. The
/// chance of a pause is estimated from few counts, and one hour in a conversation without pauses
/// costs much.
const LONG_MARGIN: f64 = 1.5;

/// A marker to insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The index of the block in the outline.
    pub block: usize,
    /// The lifetime that is requested.
    pub ttl: CacheTtl,
}

/// The markers of a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The markers to insert, in the order of the blocks. At most four, with those of the caller.
    pub markers: Vec<Marker>,
}

impl Plan {
    /// Returns the body with the markers, or `None` if there is none to insert. All else stays as
    /// it is, but a text that is written as a string becomes a block.
    #[must_use]
    pub fn apply(&self, outline: &Outline, body: &[u8]) -> Option<Vec<u8>> {
        if self.markers.is_empty() {
            return None;
        }
        let places = self.markers.iter().map(|marker| {
            let block = outline.blocks.get(marker.block)?;
            Some((block.range.clone(), marker.ttl))
        });
        let mut places = places.collect::<Option<Vec<_>>>()?;
        // The body may have its members in another order than the cache.
        places.sort_unstable_by_key(|(range, _)| range.start);
        insert_breakpoints(body, &places)
    }
}

/// Returns the classes of the prefix at this block.
pub(crate) fn classes(outline: &Outline, at: usize) -> Option<ClassKeys> {
    let blocks = &outline.blocks;
    let block = blocks.get(at)?;
    let boundary = block.boundary?;
    let tools = blocks.partition_point(|block| block.part < PromptPart::System);
    let head = blocks.partition_point(|block| block.part < PromptPart::Messages);
    let route = head
        .checked_sub(1)
        .map_or(outline.salt, |last| blocks[last].prefix);
    let head_tokens = head.checked_sub(1).map_or(0, |last| blocks[last].tokens);
    // Conversations go on in another way at their beginning than later.
    let depth = match boundary {
        Boundary::Tail => u64::from(block.message.checked_ilog2().map_or(0, |log| log + 1)),
        _ => 0,
    };
    let kind = key(&[boundary as u64, depth, u64::from(outline.streams)]);
    Some(ClassKeys {
        boundary,
        route: key(&[kind, route]),
        shape: key(&[
            kind,
            outline.salt,
            tools as u64,
            (head - tools) as u64,
            u64::from(quarter_octave(head_tokens)),
        ]),
    })
}

/// Returns the logarithm of a size, in steps of about 19 %.
fn quarter_octave(tokens: u64) -> u32 {
    ((tokens.max(1) as f64).log2() * 4.0) as u32
}

/// The value of a marker at a boundary, as a share of the price of the prefix.
#[derive(Clone, Copy, Debug)]
struct Worth {
    saving: f64,
    ttl: CacheTtl,
}

impl Worth {
    /// Returns the better of both lifetimes. With `keeps_alive`, the shorter one may be renewed in
    /// pauses.
    fn of(chances: &Chances, rules: &CacheRules, keeps_alive: bool) -> Self {
        let (within_5m, within_1h) = (chances.within_5m(), chances.within_1h());
        let gain = 1.0 - rules.read();
        let short = expected_uses(within_5m) * gain - rules.premium_5m();
        let long = expected_uses(within_1h) * gain - rules.premium_1h();
        // An hour avoids a new write in each pause that is longer than five minutes.
        let pauses = (within_1h - within_5m).max(0.0) / (1.0 - within_1h).max(0.05);
        let avoided = pauses * (1.0 + rules.premium_5m() - rules.read());
        let premium = rules.premium_1h() - rules.premium_5m();
        let renewals = rules.renewals(chances).filter(|_| keeps_alive);
        if let Some(renewals) = renewals {
            // The pause after the last use is paid for as well.
            let price = (pauses + 1.0) * renewals.expected * rules.read();
            let renewed = expected_uses(renewals.chance) * gain - rules.premium_5m() - price;
            if renewed > short && renewed > long {
                return Self {
                    saving: renewed,
                    ttl: CacheTtl::FiveMinutes,
                };
            }
        }
        if long > 0.0 && (short <= 0.0 || avoided > premium * LONG_MARGIN) {
            Self {
                saving: long,
                ttl: CacheTtl::OneHour,
            }
        } else {
            Self {
                saving: short,
                ttl: CacheTtl::FiveMinutes,
            }
        }
    }
}

/// Plans the markers of a prompt. Changes nothing.
///
/// A marker pays where the prefix comes again often enough. The deepest such boundary decides what
/// is written. Markers before it cost nothing more, so they are set as well, where other prompts
/// may share a part of the prefix. Markers of the caller stay, and take their slots.
pub(crate) fn plan(
    outline: &Outline,
    rules: &CacheRules,
    history: &History,
    keeps_alive: bool,
    now: Instant,
) -> Plan {
    let blocks = &outline.blocks;
    let is_free = |at: usize| {
        let block = &blocks[at];
        block.takes_marker && block.caller_ttl.is_none() && block.tokens >= rules.min_tokens
    };
    let callers = blocks.iter().filter(|block| block.caller_ttl.is_some());
    let mut slots = CacheRules::MAX_MARKERS.saturating_sub(callers.count());
    let mut markers: Vec<Marker> = Vec::with_capacity(slots);
    let mut mark = |block: usize, ttl| {
        let is_new = markers.iter().all(|marker| marker.block != block);
        if slots > 0 && is_new && is_free(block) {
            slots -= 1;
            markers.push(Marker { block, ttl });
        }
    };
    let boundaries = (0..blocks.len()).filter_map(|at| {
        let classes = classes(outline, at).filter(|_| is_free(at))?;
        let chances = history.chances(blocks[at].prefix, &classes, now);
        Some((
            at,
            classes,
            chances,
            Worth::of(&chances, rules, keeps_alive),
        ))
    });
    let boundaries: Vec<_> = boundaries.collect();
    let warm = warmest(outline, history, now);
    let deepest = boundaries
        .iter()
        .rev()
        .find(|(_, classes, _, worth)| worth.saving > 0.0 && !history.is_off(classes, now));
    if let Some((at, .., worth)) = deepest {
        mark(*at, worth.ttl);
    }
    if let Some((at, cached)) = warm {
        mark(at, cached.ttl);
    }
    if let Some((deepest, .., worth)) = deepest {
        let from = warm.map_or(0, |(at, _)| at);
        if let Some(at) = spare(outline, from, *deepest) {
            mark(at, worth.ttl);
        }
        // The boundaries before it, those with the greatest loss first if the deeper ones change.
        let loss = |(at, _, chances, _): &(usize, _, Chances, _)| {
            chances.within_1h() * blocks[*at].tokens as f64
        };
        let mut outer: Vec<_> = boundaries.iter().filter(|it| it.0 < *deepest).collect();
        outer.sort_by(|one, other| loss(other).total_cmp(&loss(one)));
        for (at, .., worth) in outer {
            mark(*at, worth.ttl);
        }
    }
    markers.sort_by_key(|marker| marker.block);
    order_lifetimes(blocks, &mut markers);
    Plan { markers }
}

/// Changes the lifetimes so that none is longer than one before it, which the API rejects.
fn order_lifetimes(blocks: &[OutlineBlock], markers: &mut [Marker]) {
    let callers = |blocks: &[OutlineBlock]| {
        let ttls: Vec<_> = blocks.iter().filter_map(|block| block.caller_ttl).collect();
        ttls
    };
    let mut longest = CacheTtl::FiveMinutes;
    for marker in markers.iter_mut().rev() {
        let later = callers(&blocks[marker.block + 1..]).into_iter().max();
        longest = longest.max(marker.ttl).max(later.unwrap_or(longest));
        marker.ttl = longest;
    }
    for marker in markers {
        let earlier = callers(&blocks[..marker.block]).into_iter().min();
        marker.ttl = marker.ttl.min(earlier.unwrap_or(marker.ttl));
    }
}

/// Returns the last block whose prefix is cached, and will probably be read.
fn warmest(outline: &Outline, history: &History, now: Instant) -> Option<(usize, Cached)> {
    let mut blocks = outline.blocks.iter().enumerate().rev();
    blocks.find_map(|(at, block)| Some((at, history.trusted(block.prefix, now)?)))
}

/// Returns the first result of `read` for a block at which the server looks for a cached prefix. It
/// looks back from each marker, the last one first.
pub(crate) fn readable<T>(
    outline: &Outline,
    is_marked: impl Fn(&OutlineBlock) -> bool,
    read: impl Fn(&OutlineBlock) -> Option<T>,
) -> Option<T> {
    let blocks = &outline.blocks;
    // The positions that are left of the look-back of the last marker.
    let mut left = 0;
    for at in (0..blocks.len()).rev() {
        if is_marked(&blocks[at]) {
            left = CacheRules::LOOK_BACK;
        }
        if left > 0 {
            let found = read(&blocks[at]);
            if found.is_some() {
                return found;
            }
            left -= u32::from(!continues_run(blocks, at));
        }
    }
    None
}

/// Returns true if the block has the position of the one before it.
fn continues_run(blocks: &[OutlineBlock], at: usize) -> bool {
    let kind = blocks[at].kind;
    let previous = at.checked_sub(1).map(|before| blocks[before].kind);
    matches!(kind, BlockKind::ToolUse | BlockKind::ToolResult) && previous == Some(kind)
}

/// Returns a block at most [`SPARE_AFTER`] positions before the last one, if the first one is
/// further away.
fn spare(outline: &Outline, first: usize, last: usize) -> Option<usize> {
    let blocks = &outline.blocks;
    let mut positions = 0;
    for at in (first + 1..=last).rev() {
        positions += u32::from(!continues_run(blocks, at));
        if positions >= SPARE_AFTER && at - 1 > first {
            let mut before = (first + 1..at).rev();
            return before.find(|at| blocks[*at].takes_marker);
        }
    }
    None
}
