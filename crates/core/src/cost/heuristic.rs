//! The default cost estimator.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Request;
use tokio::time::Instant;
use tower_claude_wire::{ModelCatalog, Usage, estimate_tokens};

use super::{Cost, EstimateCost, UsageListener};
use crate::{
    credential::credential,
    prefix::{CacheReads, PrefixMemory, Prefixes},
    request::{listed_model, requested_model},
    request_body::RequestBody,
};

/// The default cost estimator.
///
/// It estimates the tokens of text by its bytes and the tokenizer of the model, and the tokens of
/// images and documents by the size of their data. Tokens that will be read from the prompt cache
/// are left out.
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

    fn cache_reads(&self, request: &Request<RequestBody>) -> Option<CacheReads> {
        let cache = self.cache.as_ref()?;
        let body = request.body();
        if !body.peek()?.mentions_cache_control() {
            return None;
        }
        let (bytes, model) = (body.bytes()?, requested_model(request)?);
        let prefixes = Prefixes::of(bytes, &model, credential(request))?;
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
        let tokenizer = match listed_model(request) {
            Some(listed) => listed.tokenizer,
            None => match requested_model(request) {
                Some(model) => ModelCatalog::builtin().lookup(&model).tokenizer,
                None => return Cost::default(),
            },
        };
        let bytes = (peek.system_bytes() + peek.tools_bytes() + peek.messages_bytes()) as u64;
        let bytes = bytes.saturating_sub(peek.non_text_bytes());
        let expected = peek
            .max_tokens()
            .map_or(self.expected_output, |max| max.min(self.expected_output));
        let reads = self.cache_reads(request);
        let rest = bytes.saturating_sub(reads.map_or(0, |reads| reads.bytes));
        let cost = Cost::new(estimate_tokens(rest, tokenizer), expected)
            .with_max_output_tokens(peek.max_tokens());
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
