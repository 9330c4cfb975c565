//! The conversation of a request, as hashes of its prompt.

use std::{
    hash::{BuildHasher, Hash, Hasher},
    sync::LazyLock,
    time::Duration,
};

use foldhash::{
    SharedSeed,
    quality::{FixedState, FoldHasher, SeedableRandomState},
};
use tower_claude_core::toolkit::{Prefix, Prefixes};
use tower_claude_wire::{
    BlockKind, Effort, Fields, Model, Prompt, PromptBlock, PromptPart, text_bytes,
};

/// The key of the hashes that are remembered. It is random for each process, so that no caller
/// can make a prompt that is taken for another one.
static HASH_KEY: LazyLock<SeedableRandomState> = LazyLock::new(|| {
    let seed = std::hash::RandomState::new().hash_one("spread");
    SeedableRandomState::with_seed(seed, SharedSeed::global_random())
});

/// The key of the hash by which a conversation is assigned to a target. The same in all processes,
/// so that they agree.
pub(crate) const STABLE: FixedState = FixedState::with_seed(0x5bea_d000);

/// The lifetime of a cached prefix that is assumed where the request names none.
const USUAL_LIFETIME: Duration = Duration::from_secs(300);

/// The most turns with thinking that are looked up, the latest ones.
const MAX_TURNS: usize = 64;

/// The conversation that a request continues or begins.
///
/// It has hashes and lengths only, and no text.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// The hash of tools, system prompt and first message.
    pub(crate) key: u64,
    pub(crate) prefixes: Prefixes,
    /// The hash of the content of the whole prompt.
    pub(crate) content: u64,
    /// The hashes of the prompts that were answered by a turn with thinking, the latest first.
    pub(crate) thinking: Vec<u64>,
    /// True if the caller has set breakpoints.
    pub(crate) is_marked: bool,
}

impl Conversation {
    /// Creates a conversation of the prefixes of its prompt, for simulations and tests.
    ///
    /// `key` identifies the conversation. `thinking` has the hashes of the prefixes that were
    /// answered by a turn with thinking, the latest first.
    #[must_use]
    pub fn new(key: u64, prefixes: Vec<Prefix>, thinking: Vec<u64>) -> Self {
        Self {
            key,
            content: prefixes.last().map_or(0, |last| last.hash),
            prefixes: Prefixes::new(prefixes),
            thinking,
            is_marked: true,
        }
    }

    /// Reads the conversation of a Messages request. `None` if the body is not a JSON object or has
    /// no blocks.
    ///
    /// `salt` separates callers whose prompts must not be taken for each other's.
    #[must_use]
    pub fn of(body: &[u8], model: &Model, salt: u64) -> Option<Self> {
        let prompt = Prompt::parse(body)?;
        let mut chain = Chain::new(&prompt, model, salt);
        let mut keeps = Vec::new();
        let mut prefixes = Vec::new();
        let mut thinking = Vec::new();
        // The ends of the tools, the system prompt and the first message.
        let mut ends: [Option<usize>; 3] = [None; 3];
        let mut last_kind = None;
        // The last message that has a block, and the hash of the prompt before it.
        let (mut message, mut before, mut is_listed) = (0, 0, false);
        let mut is_marked = prompt.automatic().is_some();
        prompt.blocks(|block| {
            is_marked |= block.breakpoint.is_some();
            // After an inner breakpoint the whole block follows.
            if block.inner.is_some() {
                return;
            }
            if block.part == PromptPart::Messages && block.message != message {
                (message, before, is_listed) = (block.message, chain.content, false);
            }
            if block.part == PromptPart::Messages
                && message > 0
                && !is_listed
                && is_thinking(block.json)
            {
                thinking.push(before);
                is_listed = true;
            }
            let kind = block.kind();
            let before_kind = last_kind.replace(kind);
            let is_run = matches!(kind, BlockKind::ToolUse | BlockKind::ToolResult);
            chain.add(&block);
            let place = match block.part {
                PromptPart::Tools => Some(0),
                PromptPart::System => Some(1),
                PromptPart::Messages if block.message == 0 => Some(2),
                PromptPart::Messages => None,
            };
            if let Some(place) = place {
                ends[place] = Some(prefixes.len());
            }
            keeps.push(block.breakpoint);
            prefixes.push(Prefix {
                hash: chain.hash,
                bytes: chain.bytes,
                keep: None,
                joins: is_run && before_kind == Some(kind),
            });
        });
        let last = prefixes.len().checked_sub(1)?;
        // An inner layer may mark the prompt. The usage in the response shows whether it did.
        let longest = keeps.iter().flatten().copied().chain(prompt.automatic());
        let usual = longest.max().unwrap_or(USUAL_LIFETIME);
        for at in ends.into_iter().flatten().chain([last]) {
            prefixes[at].keep = Some(keeps[at].unwrap_or(usual));
        }
        thinking.reverse();
        thinking.truncate(MAX_TURNS);
        let mut prefixes = Prefixes::new(prefixes);
        if prompt.has_server_tools() {
            prefixes = prefixes.with_server_tools();
        }
        Some(Self {
            key: chain.stable.finish(),
            content: chain.content,
            prefixes,
            thinking,
            is_marked,
        })
    }

    /// Returns the hash of tools, system prompt and first message. It is the same in all processes
    /// of one version of this program.
    #[must_use]
    pub const fn key(&self) -> u64 {
        self.key
    }

    /// Returns the prefixes of the prompt, ordered from the shortest to the longest.
    #[must_use]
    pub fn prefixes(&self) -> &[Prefix] {
        self.prefixes.as_slice()
    }

    /// Returns true if an earlier turn has thinking.
    #[must_use]
    pub const fn has_thinking(&self) -> bool {
        !self.thinking.is_empty()
    }
}

/// Returns true for a block of thinking, readable or not.
fn is_thinking(block: &[u8]) -> bool {
    Fields::open(block).is_some_and(|fields| {
        fields.flatten().any(|field| {
            field.name == "type"
                && matches!(
                    field.value_in(block),
                    b"\"thinking\"" | b"\"redacted_thinking\""
                )
        })
    })
}

/// The hashes of a prompt up to its blocks so far.
struct Chain<'a> {
    prompt: &'a Prompt<'a>,
    effort: Option<&'static str>,
    part: PromptPart,
    /// The hash of all that the server's cache distinguishes: model, speed, settings and content.
    hash: u64,
    /// The content alone. A changed setting makes no other conversation.
    content: u64,
    bytes: u64,
    /// The content up to the end of the first message.
    stable: FoldHasher<'static>,
}

impl<'a> Chain<'a> {
    fn new(prompt: &'a Prompt<'a>, model: &Model, salt: u64) -> Self {
        Self {
            effort: model.capabilities.default_effort.map(Effort::as_str),
            part: PromptPart::Tools,
            hash: HASH_KEY.hash_one((&*model.id, salt, prompt.is_fast())),
            content: HASH_KEY.hash_one(salt),
            bytes: 0,
            stable: STABLE.build_hasher(),
            prompt,
        }
    }

    fn add(&mut self, block: &PromptBlock<'_>) {
        let mut own = HASH_KEY.build_hasher();
        block.part.hash(&mut own);
        if block.part < PromptPart::Messages || block.message == 0 {
            block.hash_into(&mut Both(&mut own, &mut self.stable));
        } else {
            block.hash_into(&mut own);
        }
        let own = own.finish();
        if block.part != self.part {
            self.part = block.part;
            if self.part == PromptPart::Messages {
                let mut settings = HASH_KEY.build_hasher();
                settings.write_u64(self.hash);
                self.prompt.hash_settings_into(self.effort, &mut settings);
                self.prompt.has_images().hash(&mut settings);
                self.hash = settings.finish();
            }
        }
        self.hash = HASH_KEY.hash_one((self.hash, own));
        self.content = HASH_KEY.hash_one((self.content, own));
        self.bytes += block.role.len() as u64 + text_bytes(block.json);
    }
}

/// A hasher that passes all it gets to two others.
struct Both<'a, A, B>(&'a mut A, &'a mut B);

impl<A: Hasher, B: Hasher> Hasher for Both<'_, A, B> {
    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
        self.1.write(bytes);
    }

    fn write_u8(&mut self, number: u8) {
        self.0.write_u8(number);
        self.1.write_u8(number);
    }

    fn write_u64(&mut self, number: u64) {
        self.0.write_u64(number);
        self.1.write_u64(number);
    }

    fn finish(&self) -> u64 {
        self.0.finish()
    }
}
