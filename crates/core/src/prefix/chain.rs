//! The prefixes of a prompt, identified by the hashes of their content.

use std::{
    hash::{BuildHasher, Hash, Hasher},
    sync::LazyLock,
    time::Duration,
};

use foldhash::{SharedSeed, quality::SeedableRandomState};
use tower_claude_wire::{BlockKind, Effort, ModelCatalog, Prompt, PromptPart, text_bytes};

/// The key of the hashes. It is random for each process, so the content of a prompt cannot be
/// guessed from its hash.
static HASH_KEY: LazyLock<SeedableRandomState> = LazyLock::new(|| {
    let seed = std::hash::RandomState::new().hash_one("prefix");
    SeedableRandomState::with_seed(seed, SharedSeed::global_random())
});

/// The part of a prompt up to the end of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// A hash of the content, which differs in every process.
    pub hash: u64,
    /// The length in [bytes of text](tower_claude_wire::text_bytes), to which the data of media
    /// counts by its size.
    pub bytes: u64,
    /// The requested lifetime in the cache. `None` if there is no breakpoint at the end.
    pub keep: Option<Duration>,
    /// True if the last block is in the same position as the block before it. The Claude API
    /// counts a run of `tool_use` blocks, or of `tool_result` blocks, as one position.
    pub joins: bool,
}

/// The list of prefixes of a prompt, ordered from the shortest to the longest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    list: Vec<Prefix>,
    has_server_tools: bool,
}

impl Prefixes {
    /// Returns the prefixes of a Messages request, or `None` if the body is not a JSON object.
    ///
    /// The hashes include the model, the credential and the speed, because the server has separate
    /// caches for them. Prompts that the API reads as equal have equal hashes: see
    /// [`PromptBlock::hash_into`](tower_claude_wire::PromptBlock::hash_into).
    #[must_use]
    pub fn of(body: &[u8], model: &str, credential: u64) -> Option<Self> {
        let prompt = Prompt::parse(body)?;
        let mut hash = HASH_KEY.hash_one((model, credential, prompt.is_fast()));
        let mut part = PromptPart::Tools;
        let mut bytes = 0;
        let mut prefixes = Vec::new();
        let mut last_kind = None;
        prompt.blocks(|block| {
            let mut hasher = HASH_KEY.build_hasher();
            hasher.write_u64(hash);
            if block.part != part {
                part = block.part;
                part.hash(&mut hasher);
                if part == PromptPart::Messages {
                    let listed = ModelCatalog::builtin().get(model);
                    let effort = listed.and_then(|model| model.capabilities.default_effort);
                    prompt.hash_settings_into(effort.map(Effort::as_str), &mut hasher);
                    prompt.has_images().hash(&mut hasher);
                }
            }
            block.hash_into(&mut hasher);
            let length = block.len() - block.role.len();
            let text = block.role.len() as u64 + text_bytes(&block.json[..length]);
            let prefix = Prefix {
                hash: hasher.finish(),
                bytes: bytes + text,
                keep: block.breakpoint,
                joins: {
                    let kind = block.kind();
                    let before = last_kind.replace(kind);
                    matches!(kind, BlockKind::ToolUse | BlockKind::ToolResult)
                        && before == Some(kind)
                },
            };
            prefixes.push(prefix);
            // After an inner breakpoint the whole block follows.
            if block.inner.is_none() {
                Prefix { hash, bytes, .. } = prefix;
            }
        });
        if let (Some(keep), Some(last)) = (prompt.automatic(), prefixes.last_mut()) {
            last.keep.get_or_insert(keep);
        }
        Some(Self {
            list: prefixes,
            has_server_tools: prompt.has_server_tools(),
        })
    }

    /// Counts each block as a position of its own, as other platforms than the Claude API may do.
    #[must_use]
    pub fn without_runs(mut self) -> Self {
        for prefix in &mut self.list {
            prefix.joins = false;
        }
        self
    }

    /// Creates a list of prefixes, which must be ordered from the shortest to the longest.
    #[must_use]
    pub const fn new(prefixes: Vec<Prefix>) -> Self {
        Self {
            list: prefixes,
            has_server_tools: false,
        }
    }

    /// Marks the request as one with tools that run at the server.
    #[must_use]
    pub const fn with_server_tools(mut self) -> Self {
        self.has_server_tools = true;
        self
    }

    /// Returns the prefixes, ordered from the shortest to the longest.
    #[must_use]
    pub fn as_slice(&self) -> &[Prefix] {
        &self.list
    }

    /// Returns true if the request has tools that run at the server. Their results are written to
    /// the cache as well.
    #[must_use]
    pub const fn has_server_tools(&self) -> bool {
        self.has_server_tools
    }
}
