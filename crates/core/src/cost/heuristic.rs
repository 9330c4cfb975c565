//! The default cost estimator.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Request;
use tokio::time::Instant;
use tower_claude_wire::{ModelCatalog, Peek, Platform, Tokenizer, Usage};

use super::{Cost, EstimateCost, UsageBound, UsageListener};
use crate::{
    credential::credential_or_host,
    prefix::{CacheReads, PrefixMemory, Prefixes},
    request::{listed_model, requested_model},
    request_body::RequestBody,
};

/// The default cost estimator.
///
/// It estimates the tokens of text by its [bytes](tower_claude_wire::text_bytes), its
/// [structure](tower_claude_wire::Peek::estimate_tokens) and the tokenizer of the model, the tokens
/// of images and documents by the size of their data, and adds the system prompt that the API
/// writes for tools. Tokens that will be read from the prompt cache are left out.
///
/// A body that is not a JSON object, or that names no model, has the cost [`Cost::default`], which
/// is one request. Clones share their model of the prompt cache. It is used only for requests that
/// ask for caching.
///
/// Sources: <https://platform.claude.com/docs/en/about-claude/models/overview> (characters per
/// token), <https://platform.claude.com/docs/en/api/rate-limits> (what counts).
#[derive(Clone, Debug)]
pub struct HeuristicCost {
    expected_output: u64,
    cache: Option<Arc<PromptCache>>,
}

/// The tokens of the system prompt that the API adds for tools, by model.
///
/// Source: <https://platform.claude.com/docs/en/agents-and-tools/tool-use/overview> (`tool_choice`
/// `auto`).
const TOOL_PROMPTS: [(&str, u64); 9] = [
    ("claude-opus-5-5", 286),
    ("claude-opus-5", 286),
    ("claude-opus-4-8", 290),
    ("claude-opus-4-7", 675),
    ("claude-opus-4-6", 497),
    ("claude-sonnet-5-5", 286),
    ("claude-sonnet-5", 354),
    ("claude-sonnet-4-6", 497),
    ("claude-haiku-5-5", 286),
];

/// The same for a model that is not in the table, most of which are older.
const OTHER_TOOL_PROMPT: u64 = 496;

fn tool_prompt(model: &str) -> u64 {
    let known = TOOL_PROMPTS.iter().find(|(id, _)| *id == model);
    known.map_or(OTHER_TOOL_PROMPT, |(_, tokens)| *tokens)
}

/// The model of the prompt cache that all clones share.
#[derive(Debug, Default)]
struct PromptCache(Mutex<PrefixMemory>);

impl HeuristicCost {
    /// The expected output tokens of a request before a mean of responses is known.
    pub const DEFAULT_EXPECTED_OUTPUT: u64 = 512;

    /// Creates an estimator that expects this number of output tokens until a mean is known.
    ///
    /// The default is [`DEFAULT_EXPECTED_OUTPUT`](Self::DEFAULT_EXPECTED_OUTPUT).
    #[must_use]
    pub fn new(expected_output: u64) -> Self {
        Self {
            expected_output,
            cache: Some(Arc::default()),
        }
    }

    /// Disables the prediction of cache reads, for limits that count them.
    #[must_use]
    pub fn without_cache_reads(mut self) -> Self {
        self.cache = None;
        self
    }

    fn cache_reads(&self, request: &Request<RequestBody>, peek: &Peek) -> Option<CacheReads> {
        let cache = self.cache.as_ref()?;
        if !peek.mentions_cache_control() {
            return None;
        }
        let (bytes, model) = (request.body().bytes()?, requested_model(request)?);
        let mut prefixes = Prefixes::of(bytes, &model, credential_or_host(request))?;
        let uri = request.uri();
        if Platform::of(uri.host().unwrap_or_default(), uri.path()) != Platform::ClaudeApi {
            prefixes = prefixes.without_runs();
        }
        cache.memory().expect(&prefixes, Instant::now())
    }
}

impl Default for HeuristicCost {
    fn default() -> Self {
        Self::new(Self::DEFAULT_EXPECTED_OUTPUT)
    }
}

impl EstimateCost for HeuristicCost {
    fn estimate(&self, request: &Request<RequestBody>) -> Cost {
        let body = request.body();
        let Some(peek) = body.peek() else {
            return Cost::default();
        };
        let unlisted;
        let model = match listed_model(request) {
            Some(listed) => listed,
            None => match requested_model(request) {
                Some(name) => {
                    unlisted = ModelCatalog::builtin().lookup(&name);
                    &unlisted
                }
                None => return Cost::default(),
            },
        };
        let tokenizer = model.tokenizer;
        let expected = peek
            .max_tokens()
            .map_or(self.expected_output, |max| max.min(self.expected_output));
        let reads = self.cache_reads(request, peek);
        let rest = peek
            .text_bytes()
            .saturating_sub(reads.map_or(0, |reads| reads.bytes));
        let mut tokens = peek.estimate_tokens(rest, tokenizer);
        // The system prompt for tools is before the tools, so it is read from the cache with them.
        if peek.has_tools() && reads.is_none_or(|reads| reads.bytes == 0) {
            tokens += tool_prompt(&model.id);
        }
        let variant = 1 + u8::from(tokenizer == Tokenizer::Old) + 2 * u8::from(peek.has_media());
        let bytes = body.bytes().map_or(0, bytes::Bytes::len);
        let cost = Cost::new(tokens, expected)
            .with_max_output_tokens(peek.max_tokens())
            .with_variant(variant)
            .with_bound(UsageBound::of_parts(bytes, peek, model));
        match reads {
            Some(reads) => cost.with_cache_reads(reads),
            None => cost,
        }
    }

    fn learner(&self, cost: &Cost) -> Option<Arc<dyn UsageListener>> {
        cost.estimate_id?;
        let cache: Arc<dyn UsageListener> = self.cache.clone()?;
        Some(cache)
    }
}

impl PromptCache {
    fn memory(&self) -> MutexGuard<'_, PrefixMemory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UsageListener for PromptCache {
    fn learn(&self, cost: &Cost, usage: &Usage, _now: Instant) {
        let counts = [
            usage.cache_read_input_tokens,
            usage.cache_creation_input_tokens,
        ];
        // A usage without cache fields is no evidence about the cache.
        if let (Some(id), [read, written]) = (cost.estimate_id, counts)
            && read.or(written).is_some()
        {
            let [read, written] = counts.map(Option::unwrap_or_default);
            self.memory().learn(id, read, written);
        } else {
            self.forget(cost);
        }
    }

    fn revise(&self, cost: &Cost, now: Instant) -> Option<Cost> {
        let tokens = self.memory().renew(cost.estimate_id?, now)?;
        Some(Cost {
            cached_tokens: Some(tokens),
            ..*cost
        })
    }

    fn forget(&self, cost: &Cost) {
        if let Some(id) = cost.estimate_id {
            self.memory().forget(id);
        }
    }
}
