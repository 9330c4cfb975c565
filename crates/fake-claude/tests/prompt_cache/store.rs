//! The rules of the store, on abstract prompts.

use std::collections::HashMap;

use proptest::prelude::*;
use tower_claude_fake_claude::model::{
    CacheBlock, CacheMarker, CacheTokens, CacheTtl, MarkerError, PromptCache,
};

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const LEAST: u64 = 1_024;

use CacheTtl::{FiveMinutes, OneHour};

/// Returns a conversation of blocks with 100 tokens each, after a first one of 2,000.
fn blocks(length: usize) -> Vec<CacheBlock> {
    let block = |index: usize| CacheBlock {
        prefix: index as u64,
        tokens: 2_000 + 100 * index as u64,
        joins: false,
    };
    (0..length).map(block).collect()
}

fn markers(at: &[(usize, CacheTtl)]) -> Vec<CacheMarker> {
    let marker = |&(block, ttl)| CacheMarker { block, ttl };
    at.iter().map(marker).collect()
}

/// Sends a request whose response begins at once. Returns the tokens that are read, written for
/// five minutes and for one hour.
fn send(
    cache: &mut PromptCache,
    now: u64,
    blocks: &[CacheBlock],
    at: &[(usize, CacheTtl)],
) -> (u64, u64, u64) {
    let (tokens, write) = cache.start(now, blocks, &markers(at), LEAST);
    cache.begin_response(now, write);
    (tokens.read, tokens.written_5m, tokens.written_1h)
}

#[test]
fn prefix_is_written_only_at_a_marker() {
    let mut cache = PromptCache::new();
    let prompt = blocks(10);
    assert_eq!(send(&mut cache, 0, &prompt, &[]), (0, 0, 0));
    assert!(cache.is_empty());
    assert_eq!(
        send(&mut cache, 0, &prompt, &[(4, FiveMinutes)]),
        (0, 2_400, 0)
    );
    assert_eq!(cache.len(), 1);
    // A shorter prefix of the same prompt was not written.
    assert_eq!(
        send(&mut cache, 0, &prompt, &[(3, FiveMinutes)]),
        (0, 2_300, 0)
    );
    assert_eq!(
        send(&mut cache, 0, &prompt, &[(9, FiveMinutes)]),
        (2_400, 500, 0)
    );
    cache.clear();
    assert_eq!(
        send(&mut cache, 0, &prompt, &[(9, FiveMinutes)]),
        (0, 2_900, 0)
    );
}

#[test]
fn entry_is_readable_from_the_beginning_of_the_response_on() {
    let mut cache = PromptCache::new();
    let (prompt, marker) = (blocks(3), markers(&[(2, FiveMinutes)]));
    let (_, first) = cache.start(0, &prompt, &marker, LEAST);
    let (second, lost) = cache.start(SECOND, &prompt, &marker, LEAST);
    assert_eq!((second.read, second.written_5m), (0, 2_200));
    // The second response never begins.
    drop(lost);
    cache.begin_response(2 * SECOND, first);
    let (third, _) = cache.start(2 * SECOND, &prompt, &marker, LEAST);
    assert_eq!(
        third,
        CacheTokens {
            read: 2_200,
            ..CacheTokens::default()
        }
    );
}

#[test]
fn lifetime_counts_from_the_start_of_the_request_and_a_read_renews_it() {
    for (ttl, lifetime) in [(FiveMinutes, 5 * MINUTE), (OneHour, 60 * MINUTE)] {
        let mut cache = PromptCache::new();
        let prompt = blocks(3);
        let (_, write) = cache.start(0, &prompt, &markers(&[(2, ttl)]), LEAST);
        cache.begin_response(4 * MINUTE, write);
        let mut read = |now| send(&mut cache, now, &prompt, &[(2, ttl)]).0;
        assert_eq!(read(lifetime - 1), 2_200, "{ttl:?}");
        assert_eq!(read(2 * lifetime - 2), 2_200, "{ttl:?}");
        assert_eq!(read(3 * lifetime - 2), 0, "{ttl:?}");
    }
}

#[test]
fn late_response_writes_nothing_that_has_expired() {
    let mut cache = PromptCache::new();
    let prompt = blocks(1);
    let (_, write) = cache.start(0, &prompt, &markers(&[(0, FiveMinutes)]), LEAST);
    cache.begin_response(5 * MINUTE, write);
    assert_eq!(
        send(&mut cache, 5 * MINUTE, &prompt, &[(0, FiveMinutes)]).0,
        0
    );
}

#[test]
fn marker_reaches_20_positions_with_its_own() {
    for (distance, read) in [(19, 2_000), (20, 0)] {
        let mut cache = PromptCache::new();
        let prompt = blocks(30);
        send(&mut cache, 0, &prompt, &[(0, FiveMinutes)]);
        let seen = send(&mut cache, 0, &prompt, &[(distance, FiveMinutes)]);
        assert_eq!(seen.0, read, "{distance}");
    }
    // A marker in between reaches further.
    let mut cache = PromptCache::new();
    let prompt = blocks(40);
    send(&mut cache, 0, &prompt, &[(0, FiveMinutes)]);
    let both = [(15, FiveMinutes), (30, FiveMinutes)];
    assert_eq!(send(&mut cache, 0, &prompt, &both), (2_000, 3_000, 0));
}

#[test]
fn run_of_tool_blocks_is_one_position() {
    let mut cache = PromptCache::new();
    let mut prompt = blocks(61);
    // Block 1 begins a run that ends with block 41.
    for block in &mut prompt[2..=41] {
        block.joins = true;
    }
    // From block 59 back to block 42 there are 18 positions. The run is the 19th, and block 0 the
    // 20th.
    send(&mut cache, 0, &prompt, &[(0, FiveMinutes)]);
    assert_eq!(send(&mut cache, 0, &prompt, &[(60, FiveMinutes)]).0, 0);
    cache.clear();
    send(&mut cache, 0, &prompt, &[(0, FiveMinutes)]);
    assert_eq!(send(&mut cache, 0, &prompt, &[(59, FiveMinutes)]).0, 2_000);
    // Any prefix within the run is in reach.
    cache.clear();
    send(&mut cache, 0, &prompt, &[(20, FiveMinutes)]);
    let read = send(&mut cache, 0, &prompt, &[(60, FiveMinutes)]).0;
    assert_eq!(read, prompt[20].tokens);
}

#[test]
fn prefix_below_the_minimum_is_not_cached() {
    let mut cache = PromptCache::new();
    let prompt = [(1, 1_023), (2, 1_024)].map(|(prefix, tokens)| CacheBlock {
        prefix,
        tokens,
        joins: false,
    });
    assert_eq!(send(&mut cache, 0, &prompt, &[(0, FiveMinutes)]), (0, 0, 0));
    let both = [(0, FiveMinutes), (1, FiveMinutes)];
    assert_eq!(send(&mut cache, 0, &prompt, &both), (0, 1_024, 0));
    assert_eq!(cache.len(), 1);
}

#[test]
fn written_tokens_are_split_by_their_lifetime() {
    let mut cache = PromptCache::new();
    let prompt = blocks(10);
    let at = [(0, OneHour), (2, OneHour), (9, FiveMinutes)];
    assert_eq!(send(&mut cache, 0, &prompt, &at), (0, 700, 2_200));
    // After ten minutes only the first two are left.
    assert_eq!(send(&mut cache, 10 * MINUTE, &prompt, &at), (2_200, 700, 0));
    // A marker of one hour behind the part that is read is written for one hour.
    let at = [(2, OneHour), (5, OneHour), (9, OneHour)];
    assert_eq!(send(&mut cache, 20 * MINUTE, &prompt, &at), (2_200, 0, 700));
}

#[test]
fn marker_in_the_part_that_is_read_costs_nothing_and_lives_no_longer() {
    let mut cache = PromptCache::new();
    let prompt = blocks(10);
    send(&mut cache, 0, &prompt, &[(9, FiveMinutes)]);
    let at = [(3, OneHour), (9, FiveMinutes)];
    assert_eq!(send(&mut cache, MINUTE, &prompt, &at), (2_900, 0, 0));
    let mut read = |now| send(&mut cache, now, &prompt[..4], &[(3, FiveMinutes)]).0;
    assert_eq!(read(6 * MINUTE - 1), 2_300);
    assert_eq!(read(11 * MINUTE), 0);
}

#[test]
fn markers_are_limited_in_number_and_order() {
    let check = |at: &[(usize, CacheTtl)]| CacheMarker::check(&markers(at));
    let four = [
        (0, OneHour),
        (1, OneHour),
        (2, FiveMinutes),
        (3, FiveMinutes),
    ];
    assert_eq!(check(&four), Ok(()));
    assert_eq!(check(&[]), Ok(()));
    let five = [four.as_slice(), &[(4, FiveMinutes)]].concat();
    let error = check(&five).unwrap_err();
    assert_eq!(error, MarkerError::TooMany(5));
    assert_eq!(
        error.to_string(),
        "A maximum of 4 blocks with cache_control may be provided. Found 5."
    );
    let error = check(&[(0, FiveMinutes), (1, FiveMinutes), (2, OneHour)]);
    assert_eq!(error, Err(MarkerError::LongAfterShort(2)));
}

#[test]
fn expired_entries_are_removed() {
    let mut cache = PromptCache::new();
    for index in 0..50_000_u64 {
        let block = CacheBlock {
            prefix: index,
            tokens: 2_000,
            joins: false,
        };
        send(&mut cache, index * SECOND, &[block], &[(0, FiveMinutes)]);
        assert!(cache.len() <= 1_024, "{}", cache.len());
    }
}

/// A slow, obvious model: every entry that was ever written, searched position by position.
#[derive(Default)]
struct Model {
    until: HashMap<u64, (u64, CacheTtl)>,
}

impl Model {
    fn send(&mut self, now: u64, blocks: &[CacheBlock], at: &[CacheMarker]) -> CacheTokens {
        let alive = |until: &HashMap<u64, (u64, CacheTtl)>, prefix: u64| {
            until.get(&prefix).is_some_and(|(until, _)| now < *until)
        };
        let position = |index: usize| blocks[..=index].iter().filter(|block| !block.joins).count();
        let at: Vec<_> = at
            .iter()
            .filter(|marker| blocks[marker.block].tokens >= LEAST)
            .collect();
        let in_reach = |index: usize| {
            at.iter().any(|marker| {
                index <= marker.block && position(marker.block) - position(index) < 20
            })
        };
        let read = (0..blocks.len())
            .rev()
            .find(|index| alive(&self.until, blocks[*index].prefix) && in_reach(*index));
        let read_tokens = read.map_or(0, |index| blocks[index].tokens);
        let most = read.map(|index| self.until[&blocks[index].prefix].1);
        let mut tokens = CacheTokens {
            read: read_tokens,
            ..CacheTokens::default()
        };
        let mut done = read_tokens;
        for marker in &at {
            let block = blocks[marker.block];
            if block.tokens <= done {
                continue;
            }
            match marker.ttl {
                CacheTtl::OneHour => tokens.written_1h += block.tokens - done,
                CacheTtl::FiveMinutes => tokens.written_5m += block.tokens - done,
            }
            done = block.tokens;
        }
        let used = at.iter().map(|marker| (marker.block, marker.ttl));
        for (index, ttl) in used.chain(read.zip(most)) {
            let ttl = match (read, most) {
                (Some(read), Some(most)) if index <= read => ttl.min(most),
                _ => ttl,
            };
            let prefix = blocks[index].prefix;
            let ttl = match alive(&self.until, prefix) {
                true => self.until[&prefix].1,
                false => ttl,
            };
            let until = now + u64::try_from(ttl.duration().as_nanos()).unwrap();
            self.until.insert(prefix, (until, ttl));
        }
        tokens
    }
}

proptest! {
    /// The markers of one request never grow in lifetime, as the API demands.
    #[test]
    fn store_agrees_with_a_slow_model(
        steps in prop::collection::vec(
            (0_u64..3, 1_usize..60, prop::collection::vec(0_usize..60, 0..5), 0_usize..5, 0_u64..900),
            1..60,
        ),
        joins in prop::collection::vec(any::<bool>(), 60),
    ) {
        let (mut cache, mut model) = (PromptCache::new(), Model::default());
        let mut now = 0;
        for (conversation, length, mut at, hours, seconds) in steps {
            now += seconds * SECOND;
            at.retain(|index| *index < length);
            at.sort_unstable();
            at.dedup();
            let block = |index: usize| CacheBlock {
                // The first three blocks are the same in all conversations.
                prefix: if index < 3 { 0 } else { conversation << 32 } + index as u64,
                tokens: (index as u64 + 1) * 400,
                joins: index > 0 && joins[index],
            };
            let blocks: Vec<_> = (0..length).map(block).collect();
            let marker = |(order, block): (usize, &usize)| CacheMarker {
                block: *block,
                ttl: if order < hours { OneHour } else { FiveMinutes },
            };
            let markers: Vec<_> = at.iter().enumerate().map(marker).collect();
            let (tokens, write) = cache.start(now, &blocks, &markers, LEAST);
            cache.begin_response(now, write);
            prop_assert_eq!(tokens, model.send(now, &blocks, &markers));
        }
    }
}
