//! The causes of cache misses.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use tokio::time::Instant;
use tower_claude_wire::PromptPart;

use crate::{
    history::{History, evict_oldest, key},
    outline::Outline,
};

/// The most conversations whose last prompt is kept for comparison.
const MAX_CONVERSATIONS: usize = 1_024;

/// The most blocks of a prompt that are kept.
const MAX_BLOCKS: usize = 1_024;

/// The cause of a cache miss: a prefix of the conversation was cached, and was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MissCause {
    /// A block of the cached prefix has changed.
    Changed {
        /// The part of the prompt.
        part: PromptPart,
        /// The index of the first block that differs, over tools, system prompt and messages.
        block: usize,
    },
    /// The tools are the same, in another order.
    ToolOrder,
    /// The blocks are the same, but `tool_choice`, `thinking` or `output_config` has changed.
    Settings,
    /// The lifetime of the entry was over.
    Expired,
    /// The server cached nothing, because the prefix is too short for the model.
    TooShort,
    /// The prompt is the same and the entry should be alive, but the server has not read it.
    Server,
}

impl MissCause {
    /// Returns the name for events and metrics: `tools_changed`, `system_changed`,
    /// `messages_changed`, `tool_order`, `settings`, `expired`, `too_short` or `server`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed { part, .. } => match part {
                PromptPart::Tools => "tools_changed",
                PromptPart::System => "system_changed",
                PromptPart::Messages => "messages_changed",
            },
            Self::ToolOrder => "tool_order",
            Self::Settings => "settings",
            Self::Expired => "expired",
            Self::TooShort => "too_short",
            Self::Server => "server",
        }
    }
}

impl MissCause {
    /// Returns the index of the block that has changed, if that is the cause.
    pub(crate) const fn block(&self) -> Option<usize> {
        match self {
            Self::Changed { block, .. } => Some(*block),
            _ => None,
        }
    }
}

/// The last marked prompt of a conversation.
#[derive(Debug)]
struct Conversation {
    /// The hashes of the blocks up to the last marker.
    own: Box<[u64]>,
    /// The number of tools.
    tools: usize,
    /// The message of the last marker.
    message: usize,
    /// The hash of the prefix up to the last marker.
    prefix: u64,
    last_used: Instant,
}

/// The last marked prompts of conversations, which are recognised by the first block of their first
/// message.
#[derive(Debug, Default)]
pub(crate) struct Conversations {
    map: HashMap<u64, Conversation, RandomState>,
}

impl Conversations {
    /// Returns the cause for which a prompt does not read the prefix that the last prompt of its
    /// conversation has written. `None` if it reads it, or if there is no such prefix.
    pub(crate) fn cause(
        &self,
        outline: &Outline,
        history: &History,
        now: Instant,
    ) -> Option<MissCause> {
        let last = self.map.get(&conversation(outline)?)?;
        let blocks = &outline.blocks;
        let differs = |(at, own): (usize, &u64)| blocks.get(at).is_none_or(|it| it.own != *own);
        let was_cached = history.cached(last.prefix, now).is_some();
        let Some(block) = last.own.iter().enumerate().position(differs) else {
            let same = blocks.get(last.own.len().wrapping_sub(1));
            return if same.is_none_or(|block| block.prefix != last.prefix) {
                was_cached.then_some(MissCause::Settings)
            } else {
                history
                    .has_expired(last.prefix, now)
                    .then_some(MissCause::Expired)
            };
        };
        // A prompt that is no longer is another branch, or another question about a document.
        let goes_on = blocks
            .last()
            .is_some_and(|block| block.message > last.message);
        if !was_cached || !goes_on {
            return None;
        }
        let changed = blocks.get(block)?;
        let tools = |own: &mut dyn Iterator<Item = u64>| {
            let mut tools: Vec<_> = own.collect();
            tools.sort_unstable();
            tools
        };
        if changed.part == PromptPart::Tools {
            let new = blocks.iter().filter(|it| it.part == PromptPart::Tools);
            let new = tools(&mut new.map(|block| block.own));
            if new == tools(&mut last.own.iter().take(last.tools).copied()) {
                return Some(MissCause::ToolOrder);
            }
        }
        Some(MissCause::Changed {
            part: changed.part,
            block,
        })
    }

    /// Keeps the prompt up to the block of its last marker.
    pub(crate) fn keep(&mut self, outline: &Outline, last: usize, now: Instant) {
        let (Some(key), true) = (conversation(outline), last < MAX_BLOCKS) else {
            return;
        };
        let blocks = &outline.blocks;
        let conversation = Conversation {
            own: blocks[..=last].iter().map(|block| block.own).collect(),
            tools: blocks.partition_point(|block| block.part < PromptPart::System),
            message: blocks[last].message,
            prefix: blocks[last].prefix,
            last_used: now,
        };
        self.map.insert(key, conversation);
        evict_oldest(&mut self.map, MAX_CONVERSATIONS, |it| it.last_used);
    }
}

/// Returns a key of the conversation of a prompt.
fn conversation(outline: &Outline) -> Option<u64> {
    let mut blocks = outline.blocks.iter();
    let first = blocks.find(|block| block.part == PromptPart::Messages)?;
    Some(key(&[outline.salt, first.own]))
}
