//! The conversations. They are invented: agents with long prompts that grow, and chats with pauses.

use tower_claude_fake_claude::model::CacheBlock;

use crate::{
    random::{Purpose, exponential, lognormal, stream},
    units::{SECOND, nanos},
};

/// The mean time between two conversations, in seconds.
const INTERVAL: f64 = 7.0;
/// The share of the conversations whose thinking is bound to the account.
const BOUND: f64 = 0.4;
/// The share of the conversations that are chats with pauses.
const CHATS: f64 = 0.3;
/// The tokens that the server reads a second, up to the first content.
pub(crate) const PREFILL: f64 = 25_000.0;

/// One request of a conversation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// The number of blocks of the prompt.
    pub(crate) blocks: usize,
    /// The time since the end of the last response.
    pub(crate) gap: u64,
    /// The time to the first content, without that of reading the prompt.
    pub(crate) first_content: u64,
    pub(crate) output: u64,
}

/// A conversation, whose requests follow each other.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    pub(crate) start: u64,
    pub(crate) key: u64,
    /// The thinking is bound to the account.
    pub(crate) is_bound: bool,
    pub(crate) blocks: Vec<CacheBlock>,
    pub(crate) turns: Vec<Turn>,
    /// The factor by which the client's estimate of tokens is wrong.
    pub(crate) estimate: f64,
}

impl Conversation {
    /// Returns the blocks of the prompt of a turn.
    pub(crate) fn prompt(&self, turn: usize) -> &[CacheBlock] {
        &self.blocks[..self.turns[turn].blocks]
    }
}

/// Returns a number that looks random.
pub(crate) const fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// Returns the conversations that begin before `end`.
pub(crate) fn conversations(seed: u64, end: u64) -> Vec<Conversation> {
    let mut rng = stream(seed, Purpose::Arrivals, 0);
    let mut all = Vec::new();
    let mut at = exponential(&mut rng, INTERVAL);
    while nanos(at) < end {
        let key = mix(seed << 32 | all.len() as u64);
        all.push(conversation(&mut rng, nanos(at), key));
        at += exponential(&mut rng, INTERVAL);
    }
    all
}

fn conversation(rng: &mut fastrand::Rng, start: u64, key: u64) -> Conversation {
    let is_chat = rng.f64() < CHATS;
    let mut blocks: Vec<CacheBlock> = Vec::new();
    let mut add = |hash: u64, tokens: u64| {
        let (before, sum) = blocks.last().map_or((1, 0), |it| (it.prefix, it.tokens));
        blocks.push(CacheBlock {
            prefix: mix(before ^ mix(hash)),
            tokens: sum + tokens,
            joins: false,
        });
        blocks.len()
    };
    // Three kinds of agents and one of chats share their tools and system prompts.
    let kind = if is_chat { 3 } else { rng.u64(0..3) };
    add(100 + kind, 4_000 + 500 * kind);
    let first = lognormal(rng, 1_200.0, 0.8) as u64 + 1;
    let mut count = add(key, first);
    let mean = if is_chat { 5.0 } else { 14.0 };
    let turns = 2 + (exponential(rng, mean) as usize).min(50);
    let turns = (0..turns).map(|turn| {
        let gap = match turn {
            0 => 0,
            _ if is_chat => nanos(lognormal(rng, 120.0, 1.0)).max(5 * SECOND),
            _ => nanos(exponential(rng, 5.0)),
        };
        let output = lognormal(rng, 350.0, 0.8) as u64 + 1;
        let result = Turn {
            blocks: count,
            gap,
            first_content: nanos(0.4 + exponential(rng, 0.3)),
            output,
        };
        // The answer, and the next message or the results of tools.
        add(mix(key ^ (turn as u64 * 2 + 1)), output);
        let next = lognormal(rng, if is_chat { 200.0 } else { 900.0 }, 1.0) as u64 + 1;
        count = add(mix(key ^ (turn as u64 * 2 + 2)), next);
        result
    });
    let turns = turns.collect();
    Conversation {
        start,
        key,
        is_bound: rng.f64() < BOUND,
        turns,
        estimate: 0.8 + 0.4 * rng.f64(),
        blocks,
    }
}
