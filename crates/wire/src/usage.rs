//! Token usage of a message.

mod service;

use std::borrow::Cow;

use memchr::memrchr;

pub use self::service::{ServiceTier, Speed};
use crate::json::{Elements, Object, find, json_text, whole_number};

/// Token counts of a [message](https://docs.claude.com/en/api/messages). Each may be absent or
/// `null`. A count of 2^26 or more is ignored, because no message has so many tokens.
///
/// ```
/// use tower_claude_wire::Usage;
///
/// let body = br#"{"content":[],"usage":{"input_tokens":12,"cache_read_input_tokens":1800,"output_tokens":8}}"#;
/// let usage = Usage::from_message(body).expect("a message with usage");
/// assert_eq!(usage.limited_input(), Some(12)); // cache reads do not count against the limit
/// assert_eq!(usage.output_tokens, Some(8));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Input tokens that were neither read from the prompt cache nor written to it.
    pub input_tokens: Option<u64>,
    /// Input tokens written to the prompt cache.
    pub cache_creation_input_tokens: Option<u64>,
    /// The part of `cache_creation_input_tokens` that is written for 1 hour. The rest is written
    /// for 5 minutes.
    pub cache_creation_1h_input_tokens: Option<u64>,
    /// Input tokens read from the prompt cache.
    pub cache_read_input_tokens: Option<u64>,
    /// Output tokens, thinking included.
    pub output_tokens: Option<u64>,
    /// Thinking tokens, a part of `output_tokens`.
    pub thinking_tokens: Option<u64>,
    /// Sum of input and cache-creation tokens over `iterations` (attempts and compactions), if it
    /// is present.
    pub iterations_input: Option<u64>,
    /// Sum of output tokens over `iterations`, if it is present.
    pub iterations_output: Option<u64>,
    /// The `iterations` themselves. `None` if there are none, or more than 256.
    pub iterations: Option<Box<[Iteration]>>,
    /// Web searches at the server, which have a price of their own.
    pub web_search_requests: Option<u64>,
    /// The speed at which the request ran.
    pub speed: Option<Speed>,
    /// The service tier that served the request.
    pub service_tier: Option<ServiceTier>,
    /// True if the inference was in the US only (`inference_geo`), which has a surcharge.
    pub us_inference: Option<bool>,
    /// True if a fallback credit waives a part of the price.
    pub has_fallback_credit: bool,
}

/// One of several attempts at a message by the server: of a model, of the model after it, or a
/// compaction of the context.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Iteration {
    /// The model. `None` if it is not named, and then it is that of the message.
    pub model: Option<Box<str>>,
    /// The counts of this attempt. Its own `iterations` are ignored.
    pub usage: Usage,
}

impl Usage {
    /// Reads the usage of a complete JSON message. The content is not parsed.
    ///
    /// `None` if `body` is not a JSON object, is cut short, or has no `usage` object. Damage before
    /// the `usage` may remain unnoticed.
    #[must_use]
    pub fn from_message(body: &[u8]) -> Option<Self> {
        if let Some(usage) = usage_from_end(body) {
            return Some(usage);
        }
        // After an error the outer object is read first: only an earlier duplicate of `usage` may
        // be damaged.
        let mut usage = None;
        match Object::open(body).and_then(|object| Self::walk(object, &mut usage)) {
            Some(()) => usage,
            None => Self::from_usage_object(find(body, b"usage")?),
        }
    }

    /// Reads the usage among the members that follow `at`, up to the end of the body, into `usage`.
    /// That is `None` afterwards if there is none or the rest is damaged.
    pub(crate) fn read_rest(body: &[u8], at: usize, usage: &mut Option<Self>) {
        if Self::walk(Object::resume(body, at), usage).is_none() {
            *usage = None;
        }
    }

    /// Reads a message and its usage in one pass, into `usage`, since a copy of the counts takes
    /// time. Of duplicate keys the last one wins. `None` if the message or a usage is damaged.
    fn walk(mut object: Object<'_>, usage: &mut Option<Self>) -> Option<()> {
        /// The members between the content and the usage of most messages.
        const END_TURN: &[u8] = b"\"stop_reason\":\"end_turn\"";
        const STOP_REASON: &[u8] = b"\"stop_reason\":\"";
        const STOP_SEQUENCE: &[u8] = b"\"stop_sequence\":null";
        loop {
            if object.upcoming().get(1) == Some(&b's') {
                if !object.skip(END_TURN) {
                    object.skip_string(STOP_REASON);
                }
                object.skip(STOP_SEQUENCE);
            }
            let upcoming = object.enter_upcoming(b"\"usage\":{");
            let mut inner = if let Some(inner) = upcoming {
                inner
            } else {
                let Some(key) = object.key()? else {
                    return Some(());
                };
                match object.enter() {
                    Some(inner) if key == b"usage" => inner,
                    _ => {
                        let member = object.value(key, &mut ())?;
                        if member.is(b"usage") {
                            *usage = Self::from_usage_object(member.value);
                        }
                        continue;
                    }
                }
            };
            let usage = usage.insert(Self::default());
            usage.read_members(&mut inner, true)?;
            object.leave(&inner);
        }
    }

    /// Reads the value of `usage`. Unknown fields are ignored. `None` if it is not an object.
    #[must_use]
    pub fn from_usage_object(json: &[u8]) -> Option<Self> {
        Self::read(json, true)
    }

    /// `with_iterations` is false inside `iterations`, so that no input can cause deep recursion.
    fn read(json: &[u8], with_iterations: bool) -> Option<Self> {
        let mut usage = Self::default();
        usage.read_members(&mut Object::open(json)?, with_iterations)?;
        Some(usage)
    }

    /// Reads the members of an object into the default value. `None` if it is damaged.
    fn read_members(&mut self, object: &mut Object<'_>, with_iterations: bool) -> Option<()> {
        loop {
            if object.upcoming().starts_with(b"\"") {
                self.read_usual(object);
            }
            let Some(key) = object.key()? else {
                return Some(());
            };
            if key == b"cache_creation"
                && let Some(mut inner) = object.enter()
                && let Some(created) = created_tokens(&mut inner)
            {
                self.take_created(created);
                object.leave(&inner);
                continue;
            }
            if key == b"output_tokens_details"
                && let Some(mut inner) = object.enter()
                && let Some(tokens) = thinking_tokens(&mut inner)
            {
                self.thinking_tokens = tokens;
                object.leave(&inner);
                continue;
            }
            let member = object.value(key, &mut ())?;
            if !self.take(key, member.value, with_iterations)
                && key.len() >= SHORTEST_ESCAPED
                && let Some(key) = member.unescaped()
            {
                self.take(key.as_bytes(), member.value, with_iterations);
            }
        }
    }

    /// Reads the members of most usages that come next, in the order of the API.
    #[inline(always)]
    fn read_usual(&mut self, object: &mut Object<'_>) {
        const INPUT: &[u8] = b"\"input_tokens\":";
        const CREATION: &[u8] = b"\"cache_creation_input_tokens\":";
        const READ: &[u8] = b"\"cache_read_input_tokens\":";
        const NO_CREATION: &[u8] = b"\"cache_creation\":{\"ephemeral_5m_input_tokens\":0,\
            \"ephemeral_1h_input_tokens\":0}";
        const OUTPUT: &[u8] = b"\"output_tokens\":";
        const THINKING: &[u8] = b"\"output_tokens_details\":{\"thinking_tokens\":";
        const NO_TOOL: &[u8] =
            b"\"server_tool_use\":{\"web_search_requests\":0,\"web_fetch_requests\":0}";
        skip_count(object, INPUT, &mut self.input_tokens);
        skip_count(object, CREATION, &mut self.cache_creation_input_tokens);
        skip_count(object, READ, &mut self.cache_read_input_tokens);
        if object.skip(NO_CREATION) {
            self.take_created(CreatedTokens::NONE);
        }
        skip_count(object, OUTPUT, &mut self.output_tokens);
        if let Some(number) = object.skip_nested_digits(THINKING) {
            self.thinking_tokens = plausible(number);
        }
        if object.skip(b"\"service_tier\":\"standard\"") {
            self.service_tier = Some(ServiceTier::Standard);
        }
        if object.skip(b"\"inference_geo\":\"global\"") {
            self.us_inference = Some(false);
        }
        if object.skip(NO_TOOL) {
            self.web_search_requests = Some(0);
        }
        if object.skip(b"\"speed\":\"standard\"") {
            self.speed = Some(Speed::Standard);
        }
        // Also found here, after the members that it mostly precedes, and as often as it is
        // repeated.
        while object.skip(NO_CREATION) {
            self.take_created(CreatedTokens::NONE);
        }
    }

    /// Stores the value of a known key. Returns false for any other key.
    #[inline]
    fn take(&mut self, key: &[u8], value: &[u8], with_iterations: bool) -> bool {
        match key {
            b"input_tokens" => self.input_tokens = count(value),
            b"cache_creation_input_tokens" => self.cache_creation_input_tokens = count(value),
            b"cache_read_input_tokens" => self.cache_read_input_tokens = count(value),
            b"output_tokens" => self.output_tokens = count(value),
            b"output_tokens_details" => {
                let inner = Object::open(value);
                self.thinking_tokens = inner.and_then(|mut inner| thinking_tokens(&mut inner)?);
            }
            b"iterations" if with_iterations => self.take_iterations(value),
            b"cache_creation" => {
                let inner = Object::open(value);
                let created = inner.and_then(|mut inner| created_tokens(&mut inner));
                self.take_created(created.unwrap_or_default());
            }
            b"server_tool_use" => {
                self.web_search_requests = find(value, b"web_search_requests").and_then(count);
            }
            b"service_tier" => self.service_tier = ServiceTier::read(value),
            b"speed" => self.speed = Speed::read(value),
            b"inference_geo" => {
                self.us_inference = value.starts_with(b"\"").then_some(value == b"\"us\"");
            }
            b"fallback_credit" => self.has_fallback_credit = value != b"null",
            _ => return false,
        }
        true
    }

    /// Stores the split of the cache writes by their lifetime.
    fn take_created(&mut self, created: CreatedTokens) {
        self.cache_creation_1h_input_tokens = created.hour;
        if self.cache_creation_input_tokens.is_none() {
            self.cache_creation_input_tokens = add(created.hour, created.five_minutes);
        }
    }

    #[cold]
    fn take_iterations(&mut self, json: &[u8]) {
        let (mut input, mut output) = (None, None);
        let mut list = Vec::new();
        let mut is_whole = true;
        for element in Elements::open(json).into_iter().flatten() {
            let Some(usage) = Self::read(element, false) else {
                continue;
            };
            input = add(
                input,
                add(usage.input_tokens, usage.cache_creation_input_tokens),
            );
            output = add(output, usage.output_tokens);
            is_whole = list.len() < MAX_ITERATIONS;
            if is_whole && !usage.is_empty() {
                let model = find(element, b"model").and_then(json_text);
                let model = model.map(|model| Box::from(&*model));
                list.push(Iteration { model, usage });
            }
        }
        (self.iterations_input, self.iterations_output) = (input, output);
        self.iterations = (is_whole && !list.is_empty()).then(|| list.into());
    }

    /// Raises every count to that in `later`. Counts in a stream are cumulative, so a smaller one
    /// is no news.
    pub fn merge(&mut self, later: &Usage) {
        let take = |count: &mut Option<u64>, later: Option<u64>| *count = later.max(*count);
        take(&mut self.input_tokens, later.input_tokens);
        take(
            &mut self.cache_creation_input_tokens,
            later.cache_creation_input_tokens,
        );
        take(
            &mut self.cache_read_input_tokens,
            later.cache_read_input_tokens,
        );
        take(&mut self.output_tokens, later.output_tokens);
        take(
            &mut self.cache_creation_1h_input_tokens,
            later.cache_creation_1h_input_tokens,
        );
        take(&mut self.thinking_tokens, later.thinking_tokens);
        take(&mut self.iterations_input, later.iterations_input);
        take(&mut self.iterations_output, later.iterations_output);
        take(&mut self.web_search_requests, later.web_search_requests);
        if later.iterations_input.or(later.iterations_output).is_some() {
            self.iterations.clone_from(&later.iterations);
        }
        self.speed = later.speed.or(self.speed);
        self.service_tier = later.service_tier.or(self.service_tier);
        self.us_inference = later.us_inference.or(self.us_inference);
        self.has_fallback_credit |= later.has_fallback_credit;
    }

    /// Returns the input tokens that count against the rate limit: uncached and cache-creation
    /// tokens. The sum over all iterations is used if they are listed, because the top-level counts
    /// do not include a compaction.
    #[must_use]
    pub fn limited_input(&self) -> Option<u64> {
        // The maximum, because an older `iterations` may have been merged with newer top-level
        // counts.
        add(self.input_tokens, self.cache_creation_input_tokens).max(self.iterations_input)
    }

    /// Returns all input tokens: those that count against the rate limit, and cache reads. 0 if
    /// none is known.
    #[must_use]
    pub fn total_input(&self) -> u64 {
        let read = self.cache_read_input_tokens.unwrap_or(0);
        self.limited_input().unwrap_or(0).saturating_add(read)
    }

    /// Returns the output tokens that count against the rate limit, of all iterations if they are
    /// listed.
    #[must_use]
    pub fn limited_output(&self) -> Option<u64> {
        self.output_tokens.max(self.iterations_output)
    }

    /// Returns true if no count is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let counts = [
            self.input_tokens,
            self.cache_creation_input_tokens,
            self.cache_read_input_tokens,
            self.output_tokens,
            self.thinking_tokens,
            self.iterations_input,
            self.iterations_output,
        ];
        counts.iter().all(Option::is_none)
    }
}

/// Finds the usage of a message by a search from the end of the body, where the API writes it.
///
/// Returns `None` where that is not possible: the body must then be walked from its beginning. This
/// saves more than half of the time, because the content is not walked.
///
/// `"usage":{` after a comma or a brace is a key, as the quotes would be escaped inside a string.
/// It is a top-level key if the members that follow its value end with the object and the body.
/// Only a body that is cut off exactly there could have it deeper.
fn usage_from_end(body: &[u8]) -> Option<Usage> {
    const KEY: &[u8; 8] = b"\"usage\":";
    if body.first() != Some(&b'{') {
        return None;
    }
    let mut end = body.len();
    loop {
        let from = end.saturating_sub(MAX_GAP);
        let brace = from + memrchr(b'{', &body[from..end])?;
        let key = brace.checked_sub(KEY.len())?;
        if body[key..brace] == *KEY && matches!(body[key.checked_sub(1)?], b',' | b'{') {
            let mut object = Object::nested(body, brace);
            let mut usage = Usage::default();
            usage.read_members(&mut object, true)?;
            let mut rest = Object::resume(body, object.at());
            while let Some(member) = rest.next().ok()? {
                if member.is(b"usage") {
                    return None;
                }
            }
            return Some(usage);
        }
        end = brace;
    }
}

/// The length of the shortest known key with an escape, which takes six bytes.
const SHORTEST_ESCAPED: usize = b"speed".len() + 5;

/// The most iterations that are kept, so that a body of empty ones takes no more memory.
const MAX_ITERATIONS: usize = 256;

/// Longest distance between two braces inside a `usage` object, or after it.
const MAX_GAP: usize = 1_024;

/// The least number that is an underflow of the server and no count.
const LEAST_ABSURD: u64 = 1 << 26;

/// Parses a count of tokens. `None` if it is absurd.
fn count(value: &[u8]) -> Option<u64> {
    whole_number(value).and_then(plausible)
}

/// Reads the next member if its text begins with `key`, which has a colon. See
/// [`Object::skip_digits`].
#[inline(always)]
fn skip_count(object: &mut Object<'_>, key: &[u8], count: &mut Option<u64>) {
    if let Some(number) = object.skip_digits(key) {
        *count = plausible(number);
    }
}

/// Returns the count of tokens, or `None` if it is absurd.
fn plausible(count: u64) -> Option<u64> {
    (count < LEAST_ABSURD).then_some(count)
}

/// Reads the member of `output_tokens_details`. `None` if the object is damaged.
fn thinking_tokens(object: &mut Object<'_>) -> Option<Option<u64>> {
    const KEY: &[u8] = b"\"thinking_tokens\":";
    let mut tokens = None;
    loop {
        skip_count(object, KEY, &mut tokens);
        match object.next().ok()? {
            Some(member) if member.is(b"thinking_tokens") => tokens = count(member.value),
            Some(_) => {}
            None => return Some(tokens),
        }
    }
}

/// The tokens written to the cache, by their lifetime.
#[derive(Clone, Copy, Default)]
struct CreatedTokens {
    five_minutes: Option<u64>,
    hour: Option<u64>,
}

impl CreatedTokens {
    const NONE: Self = Self {
        five_minutes: Some(0),
        hour: Some(0),
    };
}

/// Reads the members of `cache_creation`. `None` if the object is damaged.
fn created_tokens(object: &mut Object<'_>) -> Option<CreatedTokens> {
    const FIVE_MINUTES: &[u8] = b"\"ephemeral_5m_input_tokens\":";
    const HOUR: &[u8] = b"\"ephemeral_1h_input_tokens\":";
    let mut created = CreatedTokens::default();
    loop {
        skip_count(object, FIVE_MINUTES, &mut created.five_minutes);
        skip_count(object, HOUR, &mut created.hour);
        let Some(member) = object.next().ok()? else {
            return Some(created);
        };
        if member.is(b"ephemeral_5m_input_tokens") {
            created.five_minutes = count(member.value);
        } else if member.is(b"ephemeral_1h_input_tokens") {
            created.hour = count(member.value);
        }
    }
}

/// Returns the top-level `stop_reason` of a complete JSON message (`"refusal"`, `"end_turn"`, …).
/// `None` if it is absent or `null`.
///
/// The content is not parsed.
#[must_use]
pub fn stop_reason(body: &[u8]) -> Option<Cow<'_, str>> {
    find(body, b"stop_reason").and_then(json_text)
}

/// Returns the sum of the known counts. `None` only if both are unknown.
fn add(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.saturating_add(b)),
        (a, b) => a.or(b),
    }
}
