//! The outline of a prompt: its blocks by hash and size, without their text.

use std::{
    borrow::Cow,
    hash::{BuildHasher, Hash, Hasher},
    ops::Range,
    sync::LazyLock,
};

use foldhash::{SharedSeed, quality::SeedableRandomState};
use memchr::memmem;
use tower_claude_wire::{
    BlockKind, CacheTtl, Effort, Model, Prompt, PromptPart, Tokenizer, estimate_tokens, text_bytes,
    tool_call_id,
};

/// The key of the hashes. It is random for each process, so the content of a prompt cannot be
/// guessed from its hash.
static HASH_KEY: LazyLock<SeedableRandomState> = LazyLock::new(|| {
    let seed = std::hash::RandomState::new().hash_one("outline");
    SeedableRandomState::with_seed(seed, SharedSeed::global_random())
});

/// The most blocks of the system prompt, and the most of the first message, that are considered for
/// a marker. The last ones of the system prompt and the first ones of the message count.
const MAX_CANDIDATES: usize = 6;

/// A place at which a marker may pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Boundary {
    /// The end of the tools.
    Tools,
    /// The end of a block of the system prompt.
    System,
    /// The end of a block in the first message that other blocks follow, such as a document.
    Document,
    /// The end of the prompt.
    Tail,
}

impl Boundary {
    /// Returns the name for snapshots and metrics: `tools`, `system`, `document` or `tail`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::System => "system",
            Self::Document => "document",
            Self::Tail => "tail",
        }
    }
}

/// One block of an outline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutlineBlock {
    /// The part of the prompt.
    pub part: PromptPart,
    /// The kind of the block.
    pub kind: BlockKind,
    /// The index of the message. 0 outside of messages.
    pub message: usize,
    /// A hash of the block alone.
    pub own: u64,
    /// A hash of the prompt up to the end of the block.
    pub prefix: u64,
    /// The estimated tokens of the prompt up to the end of the block.
    pub tokens: u64,
    /// The lifetime that a breakpoint of the caller requests at the end of the block.
    pub caller_ttl: Option<CacheTtl>,
    /// True if the API accepts a marker at the end of the block.
    pub takes_marker: bool,
    /// The kind of place if a marker may pay at the end of the block. Set by [`Outline::new`].
    pub boundary: Option<Boundary>,
    /// The position in the body.
    pub range: Range<usize>,
}

/// The outline of a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The blocks, in the order of the cache: tools, system, messages.
    pub(crate) blocks: Vec<OutlineBlock>,
    /// A hash of what separates caches: model, credential and speed.
    pub(crate) salt: u64,
    /// A hash of the settings that the cached messages depend on.
    pub(crate) settings: u64,
    /// The caller has set breakpoints, or the automatic one.
    pub(crate) is_marked: bool,
    /// The body has breakpoints that the blocks do not show, e.g. in the content of a tool result.
    pub(crate) has_hidden_markers: bool,
    /// The response is a stream, whose first content comes early.
    pub(crate) streams: bool,
    /// The results of tools that run at the server are written to the cache as well.
    pub(crate) has_server_tools: bool,
}

impl Outline {
    /// Creates an outline of these blocks. `salt` identifies the model and the credential, whose
    /// caches are separate.
    #[must_use]
    pub fn new(salt: u64, blocks: Vec<OutlineBlock>) -> Self {
        let mut outline = Self {
            is_marked: blocks.iter().any(|block| block.caller_ttl.is_some()),
            blocks,
            salt,
            settings: 0,
            has_hidden_markers: false,
            streams: true,
            has_server_tools: false,
        };
        outline.find_boundaries();
        outline
    }

    /// Returns the outline of a Messages request for this model. `None` if the body is not a JSON
    /// object or has no blocks.
    #[must_use]
    pub fn of(body: &[u8], model: &Model, credential: u64, streams: bool) -> Option<Self> {
        let prompt = Prompt::parse(body)?;
        let salt = HASH_KEY.hash_one((&*model.id, credential, prompt.is_fast()));
        let settings = {
            let mut hasher = HASH_KEY.build_hasher();
            let effort = model.capabilities.default_effort.map(Effort::as_str);
            prompt.hash_settings_into(effort, &mut hasher);
            prompt.has_images().hash(&mut hasher);
            hasher.finish()
        };
        let mut chain = Chain {
            blocks: Vec::with_capacity(64),
            prefix: salt,
            part: PromptPart::Tools,
            settings,
            bytes: 0,
            tokenizer: model.tokenizer,
            called_by_code: Vec::new(),
        };
        // A text may mention breakpoints as well. It does not change the hashes.
        let automatic = prompt.automatic().map(CacheTtl::of);
        let written = written_breakpoints(body);
        let mut has_breakpoint = written > usize::from(automatic.is_some());
        if !has_breakpoint && may_escape_name(body) {
            prompt.blocks(|block| has_breakpoint |= block.breakpoint.is_some());
        }
        if has_breakpoint {
            prompt.blocks(|block| {
                // After an inner breakpoint the whole block follows.
                let Some(range) = block.range_in(body).filter(|_| block.inner.is_none()) else {
                    return;
                };
                let mut hasher = HASH_KEY.build_hasher();
                block.hash_into(&mut hasher);
                chain.add(
                    OutlineBlock {
                        part: block.part,
                        kind: block.kind(),
                        message: block.message,
                        own: hasher.finish(),
                        caller_ttl: block.breakpoint.map(CacheTtl::of),
                        takes_marker: block.takes_breakpoint(),
                        range,
                        ..OutlineBlock::default()
                    },
                    block.json,
                );
            });
        } else {
            prompt.plain_blocks(|block| {
                let Some(range) = block.range_in(body) else {
                    return;
                };
                // Without a breakpoint that moves, the bytes count as they are written.
                let mut hasher = HASH_KEY.build_hasher();
                hasher.write(block.role);
                hasher.write(block.json);
                chain.add(
                    OutlineBlock {
                        part: block.part,
                        kind: block.kind,
                        message: block.message,
                        own: hasher.finish(),
                        takes_marker: block.takes_breakpoint,
                        range,
                        ..OutlineBlock::default()
                    },
                    block.json,
                );
            });
        }
        let mut blocks = chain.blocks;
        let shown = blocks.iter().filter(|block| block.caller_ttl.is_some());
        let shown = shown.count() + usize::from(automatic.is_some());
        if let Some(automatic) = automatic {
            // It is at the last block that takes one.
            let takes = |block: &OutlineBlock| block.takes_marker || block.caller_ttl.is_some();
            let at = blocks.iter().rposition(takes);
            let at = at.unwrap_or(blocks.len().checked_sub(1)?);
            blocks[at].caller_ttl.get_or_insert(automatic);
        }
        if blocks.is_empty() {
            return None;
        }
        let mut outline = Self {
            is_marked: has_breakpoint || automatic.is_some(),
            blocks,
            salt,
            settings,
            has_hidden_markers: shown != written,
            streams,
            has_server_tools: prompt.has_server_tools(),
        };
        outline.find_boundaries();
        Some(outline)
    }

    /// Sets that tools run at the server. Their results are written to the cache behind the prompt.
    #[must_use]
    pub const fn with_server_tools(mut self) -> Self {
        self.has_server_tools = true;
        self
    }

    /// Returns the blocks.
    #[must_use]
    pub fn blocks(&self) -> &[OutlineBlock] {
        &self.blocks
    }

    /// Returns the estimated tokens of the whole prompt.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.blocks.last().map_or(0, |block| block.tokens)
    }

    /// Finds the boundaries among the blocks that take a marker or have one.
    fn find_boundaries(&mut self) {
        let blocks = &mut self.blocks;
        let system = blocks.partition_point(|block| block.part < PromptPart::System);
        let messages = blocks.partition_point(|block| block.part < PromptPart::Messages);
        let first_message = blocks[messages..].partition_point(|block| block.message == 0);
        let end = blocks.len();
        let mut set = |at: usize, boundary| {
            let block: &mut OutlineBlock = &mut blocks[at];
            // A block with a breakpoint of the caller takes no other marker, but its prefix is
            // learned.
            let is_marked = block.takes_marker || block.caller_ttl.is_some();
            let is_set = is_marked && block.boundary.is_none();
            if is_set {
                block.boundary = Some(boundary);
            }
            is_set
        };
        let _ = (0..system).rev().find(|at| set(*at, Boundary::Tools));
        for at in messages.saturating_sub(MAX_CANDIDATES).max(system)..messages {
            set(at, Boundary::System);
        }
        let _ = (messages..end).rev().find(|at| set(*at, Boundary::Tail));
        // A block that others follow in its message.
        let leading = first_message.saturating_sub(1).min(MAX_CANDIDATES);
        for at in messages..messages + leading {
            set(at, Boundary::Document);
        }
    }
}

/// Returns true if the name of a breakpoint may be written with escapes, which no serializer does.
fn may_escape_name(body: &[u8]) -> bool {
    let is_of_name = |at: usize| match body.get(at + 4..at + 6) {
        Some([b'5', b'f' | b'F']) => true,
        Some([b'6' | b'7', low]) => low.is_ascii_hexdigit(),
        _ => false,
    };
    memmem::find_iter(body, b"\\u00").any(is_of_name)
}

/// Returns the number of breakpoints that are written in a body, wherever they are.
fn written_breakpoints(body: &[u8]) -> usize {
    const KEY: &[u8] = b"\"cache_control\"";
    /// The greatest length of a value, with white space.
    const LONGEST: usize = 256;
    let is_breakpoint = |at: &usize| {
        let rest = &body[at + KEY.len()..];
        let rest = &rest[..rest.len().min(LONGEST)];
        // A schema may have a property of this name.
        let end = memchr::memchr(b'}', rest).unwrap_or(0);
        memmem::find(&rest[..end], b"\"ephemeral\"").is_some()
    };
    memmem::find_iter(body, KEY).filter(is_breakpoint).count()
}

/// The blocks so far, with the hash and the size of the prefix.
struct Chain<'a> {
    blocks: Vec<OutlineBlock>,
    prefix: u64,
    part: PromptPart,
    settings: u64,
    bytes: u64,
    tokenizer: Tokenizer,
    /// The ids of calls that code of the model has made. Their results take no marker.
    called_by_code: Vec<Cow<'a, str>>,
}

impl<'a> Chain<'a> {
    fn add(&mut self, mut block: OutlineBlock, json: &'a [u8]) {
        if block.kind == BlockKind::ToolUse && !block.takes_marker {
            self.called_by_code.extend(tool_call_id(block.kind, json));
        } else if block.kind == BlockKind::ToolResult && !self.called_by_code.is_empty() {
            let id = tool_call_id(block.kind, json);
            block.takes_marker &= id.is_some_and(|id| !self.called_by_code.contains(&id));
        }
        let mut hasher = HASH_KEY.build_hasher();
        hasher.write_u64(self.prefix);
        if block.part != self.part {
            self.part = block.part;
            self.part.hash(&mut hasher);
            if self.part == PromptPart::Messages {
                hasher.write_u64(self.settings);
            }
        }
        hasher.write_u64(block.own);
        self.prefix = hasher.finish();
        self.bytes += match block.kind {
            // The data of media counts by its size in pixels or pages.
            BlockKind::Image | BlockKind::Document => text_bytes(json),
            _ => json.len() as u64,
        };
        block.prefix = self.prefix;
        block.tokens = estimate_tokens(self.bytes, self.tokenizer);
        self.blocks.push(block);
    }
}
