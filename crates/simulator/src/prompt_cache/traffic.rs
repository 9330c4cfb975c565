//! Traffic without texts: conversations of blocks with sizes and hashes.

use tower_claude_fake_claude::model::CacheBlock;
use tower_claude_prompt_cache::OutlineBlock;
use tower_claude_wire::{BlockKind, PromptPart};

/// The planner's estimate of the tokens of a block, as a share of the actual ones: the least, and
/// the width of the range. The planner learns the mean of all, and not the share of each block.
const ESTIMATE: (f64, f64) = (0.65, 0.5);

/// A conversation whose prompt grows from step to step.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    /// The time of the first request, in nanoseconds.
    pub(crate) start: u64,
    /// All blocks, for the server.
    pub(crate) blocks: Vec<CacheBlock>,
    /// The same blocks, for the planner.
    pub(crate) outline: Vec<OutlineBlock>,
    pub(crate) steps: Vec<Step>,
}

/// One request of a conversation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// The number of blocks of the prompt.
    pub(crate) end: usize,
    /// The time from the end of the response before to this request.
    pub(crate) gap: u64,
    /// The time to the first content for a prompt of which all is cached.
    pub(crate) first_content: u64,
    /// The time from the first content to the end of the response.
    pub(crate) output: u64,
}

/// Builds a conversation block by block.
#[derive(Clone, Debug)]
pub(crate) struct ConversationBuilder {
    conversation: Conversation,
    prefix: u64,
    tokens: u64,
    estimate: f64,
}

impl ConversationBuilder {
    pub(crate) fn new(start: u64) -> Self {
        Self {
            conversation: Conversation {
                start,
                blocks: Vec::new(),
                outline: Vec::new(),
                steps: Vec::new(),
            },
            prefix: 0,
            tokens: 0,
            estimate: 0.0,
        }
    }

    /// Adds a block. Blocks with the same `content` are equal.
    pub(crate) fn block(&mut self, part: PromptPart, kind: BlockKind, content: u64, tokens: u64) {
        let own = mix(content ^ (part as u64) << 61);
        self.prefix = mix(self.prefix ^ own);
        self.tokens += tokens.max(1);
        let place = (own >> 11) as f64 / (1_u64 << 53) as f64;
        self.estimate += tokens as f64 * (ESTIMATE.0 + ESTIMATE.1 * place);
        let Conversation {
            blocks, outline, ..
        } = &mut self.conversation;
        let is_run = matches!(kind, BlockKind::ToolUse | BlockKind::ToolResult);
        let joins = is_run && outline.last().is_some_and(|block| block.kind == kind);
        blocks.push(CacheBlock {
            prefix: self.prefix,
            tokens: self.tokens,
            joins,
        });
        outline.push(OutlineBlock {
            part,
            kind,
            message: 0,
            own,
            prefix: self.prefix,
            tokens: self.estimate as u64,
            caller_ttl: None,
            takes_marker: true,
            boundary: None,
            range: 0..0,
        });
    }

    pub(crate) fn tool(&mut self, content: u64, tokens: u64) {
        self.block(PromptPart::Tools, BlockKind::Tool, content, tokens);
    }

    pub(crate) fn system(&mut self, content: u64, tokens: u64) {
        self.block(PromptPart::System, BlockKind::Text, content, tokens);
    }

    /// Adds a block to a message.
    pub(crate) fn message(&mut self, message: usize, kind: BlockKind, content: u64, tokens: u64) {
        self.block(PromptPart::Messages, kind, content, tokens);
        if let Some(block) = self.conversation.outline.last_mut() {
            block.message = message;
        }
    }

    /// Adds a request with all blocks so far.
    pub(crate) fn step(&mut self, gap: u64, first_content: u64, output: u64) {
        let end = self.conversation.blocks.len();
        self.conversation.steps.push(Step {
            end,
            gap,
            first_content,
            output,
        });
    }

    pub(crate) fn build(self) -> Conversation {
        self.conversation
    }
}

/// Mixes the bits of a number (splitmix64).
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}
