//! Token usage of a message.

use std::borrow::Cow;

use memchr::memrchr;

use crate::json::{
    Elements, InvalidJson, Object, Step, find, find_byte, json_text, value_end, whole_number,
};

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
        Self::walk(body)
            .unwrap_or_else(|InvalidJson| Self::from_usage_object(find(body, b"usage")?))
    }

    /// Reads the message and its usage in one pass. Of duplicate keys the last one wins.
    fn walk(body: &[u8]) -> Result<Option<Self>, InvalidJson> {
        let mut usage = None;
        let mut object = Object::open(body).ok_or(InvalidJson)?;
        let members = |inner: &mut Object<'_>| Self::members(inner, true);
        while let Some(step) = object.next_or_walk(b"usage", members)? {
            match step {
                Step::Walked(walked) => usage = Some(walked),
                Step::Member(member) if member.is(b"usage") => {
                    usage = Self::from_usage_object(member.value);
                }
                Step::Member(_) => {}
            }
        }
        Ok(usage)
    }

    /// Reads the usage among the members that follow `at`, up to the end of the body. `None` if it
    /// is not there or the members are not plain.
    pub(crate) fn in_rest(body: &[u8], at: usize) -> Option<Self> {
        let mut usage = None;
        let mut object = Object::resume(body, at);
        while let Some(key) = object.key()? {
            if key == b"usage" && object.value_begins_with(b'{') {
                let (read, end) = dense_members(body, object.at() + 1)?;
                usage = Some(read);
                object = Object::resume(body, end);
            } else if object.value(key, &mut ())?.is(b"usage") {
                return None;
            }
        }
        usage
    }

    /// Reads the value of `usage`. Unknown fields are ignored. `None` if it is not an object.
    #[must_use]
    pub fn from_usage_object(json: &[u8]) -> Option<Self> {
        Self::read(json, true)
    }

    /// `with_iterations` is false inside `iterations`, so that no input can cause deep recursion.
    fn read(json: &[u8], with_iterations: bool) -> Option<Self> {
        Self::members(&mut Object::open(json)?, with_iterations).ok()
    }

    fn members(object: &mut Object<'_>, with_iterations: bool) -> Result<Self, InvalidJson> {
        let mut usage = Self::default();
        while let Some(member) = object.next()? {
            if !usage.take(member.key, member.value, with_iterations)
                && let Some(key) = member.unescaped()
            {
                usage.take(key.as_bytes(), member.value, with_iterations);
            }
        }
        Ok(usage)
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
                self.thinking_tokens = find(value, b"thinking_tokens").and_then(count);
            }
            b"iterations" if with_iterations => {
                (self.iterations_input, self.iterations_output) = iterations(value);
            }
            _ => return false,
        }
        true
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
        take(&mut self.thinking_tokens, later.thinking_tokens);
        take(&mut self.iterations_input, later.iterations_input);
        take(&mut self.iterations_output, later.iterations_output);
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

    /// Returns the output tokens that count against the rate limit, of all iterations if they are
    /// listed.
    #[must_use]
    pub fn limited_output(&self) -> Option<u64> {
        self.output_tokens.max(self.iterations_output)
    }

    /// Returns true if no count is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
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
            let (usage, after) = dense_members(body, brace + 1)?;
            if body[after..] == *b"}" {
                return Some(usage);
            }
            let mut rest = Object::resume(body, after);
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

/// Longest distance between two braces inside a `usage` object, or after it.
const MAX_GAP: usize = 1_024;

/// Reads the members of a `usage` object without white space, and returns the index after its end.
///
/// Like [`Usage::members`], which takes twice the time because it allows white space and checks
/// each number twice.
fn dense_members(json: &[u8], mut at: usize) -> Option<(Usage, usize)> {
    let mut usage = Usage::default();
    loop {
        let text = json.get(at..)?.strip_prefix(b"\"")?;
        let key = &text[..find_byte(text, b'"')?];
        let value = at + key.len() + 3;
        if *json.get(value - 1)? != b':' {
            return None;
        }
        let count = match key {
            b"input_tokens" => Some(&mut usage.input_tokens),
            b"cache_creation_input_tokens" => Some(&mut usage.cache_creation_input_tokens),
            b"cache_read_input_tokens" => Some(&mut usage.cache_read_input_tokens),
            b"output_tokens" => Some(&mut usage.output_tokens),
            _ => None,
        };
        let end = match count {
            Some(count) => {
                let (number, end) = dense_count(json, value)?;
                *count = number;
                end
            }
            None => {
                let end = value_end(json, value)?;
                let known = usage.take(key, &json[value..end], true);
                if !known && find_byte(key, b'\\').is_some() {
                    return None;
                }
                end
            }
        };
        match json.get(end)? {
            b',' => at = end + 1,
            b'}' => return Some((usage, end + 1)),
            _ => return None,
        }
    }
}

/// The least number that is an underflow of the server and no count.
const LEAST_ABSURD: u64 = 1 << 26;

/// Parses a count of tokens. `None` if it is absurd.
fn count(value: &[u8]) -> Option<u64> {
    whole_number(value).filter(|count| *count < LEAST_ABSURD)
}

/// Reads a count or `null`, and returns the index after its end.
#[inline]
fn dense_count(json: &[u8], at: usize) -> Option<(Option<u64>, usize)> {
    let rest = &json[at..];
    let mut sum = 0_u64;
    for (length, byte) in rest.iter().enumerate().take(19) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            if length > 0 {
                return Some(((sum < LEAST_ABSURD).then_some(sum), at + length));
            }
            return rest.starts_with(b"null").then_some((None, at + 4));
        }
        sum = sum * 10 + u64::from(digit);
    }
    None
}

/// Returns the top-level `stop_reason` of a complete JSON message (`"refusal"`, `"end_turn"`, …).
/// `None` if it is absent or `null`.
///
/// The content is not parsed.
#[must_use]
pub fn stop_reason(body: &[u8]) -> Option<Cow<'_, str>> {
    find(body, b"stop_reason").and_then(json_text)
}

fn iterations(json: &[u8]) -> (Option<u64>, Option<u64>) {
    let (mut input, mut output) = (None, None);
    let Some(array) = Elements::open(json) else {
        return (None, None);
    };
    for element in array {
        let Some(usage) = Usage::read(element, false) else {
            continue;
        };
        input = add(
            input,
            add(usage.input_tokens, usage.cache_creation_input_tokens),
        );
        output = add(output, usage.output_tokens);
    }
    (input, output)
}

/// Returns the sum of the known counts. `None` only if both are unknown.
fn add(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.saturating_add(b)),
        (a, b) => a.or(b),
    }
}
