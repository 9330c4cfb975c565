//! The prefixes of one prompt, each known by a hash of all it holds.

use std::{
    hash::{BuildHasher, Hash, Hasher},
    sync::LazyLock,
    time::Duration,
};

use foldhash::{SharedSeed, quality::SeedableRandomState};
use tower_claude_wire::{Prompt, PromptPart, non_text_bytes};

/// The key is the system's randomness: what a prompt holds cannot be guessed from its hash.
static HASH_KEY: LazyLock<SeedableRandomState> = LazyLock::new(|| {
    let seed = std::hash::RandomState::new().hash_one("prefix");
    SeedableRandomState::with_seed(seed, SharedSeed::global_random())
});

/// The part of a prompt up to the end of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// A hash of all it holds; different in every process.
    pub hash: u64,
    /// Bytes of its blocks as JSON, less [surplus](tower_claude_wire::non_text_bytes): a measure of its length.
    pub bytes: u64,
    /// How long the cache is asked to keep it; `None` where there is no breakpoint.
    pub keep: Option<Duration>,
}

/// All prefixes of one prompt, the shortest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes(Vec<Prefix>);

impl Prefixes {
    /// The prefixes of a Messages request, for this model and this credential. Their caches are their own,
    /// and so is that of fast requests (`speed`). `None` when the body is no JSON object.
    #[must_use]
    pub fn of(body: &[u8], model: &str, credential: u64) -> Option<Self> {
        let prompt = Prompt::parse(body)?;
        let mut hash = HASH_KEY.hash_one((model, credential, prompt.is_fast()));
        let mut part = PromptPart::Tools;
        let mut bytes = 0;
        let mut prefixes = Vec::new();
        prompt.blocks(|block| {
            let mut hasher = HASH_KEY.build_hasher();
            hasher.write_u64(hash);
            if block.part != part {
                part = block.part;
                part.hash(&mut hasher);
                if part == PromptPart::Messages {
                    prompt.hash_settings_into(&mut hasher);
                }
            }
            block.hash_into(&mut hasher);
            hash = hasher.finish();
            bytes += (block.role.len() + block.json.len()) as u64 - non_text_bytes(block.json);
            prefixes.push(Prefix {
                hash,
                bytes,
                keep: block.breakpoint,
            });
        });
        if let (Some(keep), Some(last)) = (prompt.automatic(), prefixes.last_mut()) {
            last.keep.get_or_insert(keep);
        }
        Some(Self(prefixes))
    }

    /// Prefixes made elsewhere, the shortest first.
    #[must_use]
    pub const fn new(prefixes: Vec<Prefix>) -> Self {
        Self(prefixes)
    }

    /// The prefixes, the shortest first.
    #[must_use]
    pub fn as_slice(&self) -> &[Prefix] {
        &self.0
    }
}
