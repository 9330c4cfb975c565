//! Token usage of a message.

use std::borrow::Cow;

use memchr::memrchr;

use crate::json::{Array, Broken, Object, Step, find as find_byte, integer, text, value_end};

/// Token counts of a [message](https://docs.claude.com/en/api/messages); every one may be absent or `null` on the wire.
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
    /// Input tokens after the last cache breakpoint.
    pub input_tokens: Option<u64>,
    /// Input tokens written to the prompt cache.
    pub cache_creation_input_tokens: Option<u64>,
    /// Input tokens read from the prompt cache.
    pub cache_read_input_tokens: Option<u64>,
    /// Output tokens, thinking included.
    pub output_tokens: Option<u64>,
    /// The part of the output tokens that was thinking.
    pub thinking_tokens: Option<u64>,
    /// Input and cache-creation tokens summed over `iterations` (attempts and compactions), when it is present.
    pub iterations_input: Option<u64>,
    /// Output tokens summed over `iterations`, when it is present.
    pub iterations_output: Option<u64>,
}

impl Usage {
    /// Usage of a whole JSON message. The content is stepped over, not parsed.
    ///
    /// `None` when `body` is not a JSON object, is cut short, or has no `usage` object.
    #[must_use]
    pub fn from_message(body: &[u8]) -> Option<Self> {
        if let Some(usage) = quick(body) {
            return Some(usage);
        }
        // What is damaged is looked at once more, the outer object first: an earlier `usage` may be
        // the damaged one.
        Self::walk(body).unwrap_or_else(|Broken| Self::from_usage_object(find(body, b"usage")?))
    }

    /// One walk over the message and through its usage. Of duplicates the last one stands.
    fn walk(body: &[u8]) -> Result<Option<Self>, Broken> {
        let mut usage = None;
        let mut object = Object::open(body).ok_or(Broken)?;
        let members = |inner: &mut Object<'_>| Self::members(inner, true);
        while let Some(step) = object.next_or_walk(b"usage", members)? {
            match step {
                Step::Into(walked) => usage = Some(walked),
                Step::Over(member) if member.is(b"usage") => {
                    usage = Self::from_usage_object(member.value);
                }
                Step::Over(_) => {}
            }
        }
        Ok(usage)
    }

    /// Reads the value of `usage`; `None` if it is not an object. Unknown fields are ignored.
    #[must_use]
    pub fn from_usage_object(json: &[u8]) -> Option<Self> {
        Self::read(json, true)
    }

    /// `nested` is false inside `iterations`: one level, so that no input can nest calls.
    fn read(json: &[u8], nested: bool) -> Option<Self> {
        Self::members(&mut Object::open(json)?, nested).ok()
    }

    fn members(object: &mut Object<'_>, nested: bool) -> Result<Self, Broken> {
        let mut usage = Self::default();
        while let Some(member) = object.next()? {
            if !usage.take(member.key, member.value, nested)
                && let Some(key) = member.unescaped()
            {
                usage.take(key.as_bytes(), member.value, nested);
            }
        }
        Ok(usage)
    }

    /// Whether the key is one of ours.
    #[inline]
    fn take(&mut self, key: &[u8], value: &[u8], nested: bool) -> bool {
        match key {
            b"input_tokens" => self.input_tokens = integer(value),
            b"cache_creation_input_tokens" => self.cache_creation_input_tokens = integer(value),
            b"cache_read_input_tokens" => self.cache_read_input_tokens = integer(value),
            b"output_tokens" => self.output_tokens = integer(value),
            b"output_tokens_details" => {
                self.thinking_tokens = find(value, b"thinking_tokens").and_then(integer);
            }
            b"iterations" if nested => {
                (self.iterations_input, self.iterations_output) = iterations(value);
            }
            _ => return false,
        }
        true
    }

    /// Takes over every count that `later` knows: counts in a stream are cumulative, not increments.
    pub fn merge(&mut self, later: &Usage) {
        let take = |count: &mut Option<u64>, later: Option<u64>| *count = later.or(*count);
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

    /// Input tokens that count against the input rate limit: uncached and cache-creation tokens, of all iterations
    /// where they are listed (a compaction is not in the top-level counts).
    #[must_use]
    pub fn limited_input(&self) -> Option<u64> {
        // An older `iterations` may have been merged with a newer top level, and either holds the final attempt.
        add(self.input_tokens, self.cache_creation_input_tokens).max(self.iterations_input)
    }

    /// Output tokens that count against the output rate limit, of all iterations where they are listed.
    #[must_use]
    pub fn limited_output(&self) -> Option<u64> {
        self.output_tokens.max(self.iterations_output)
    }

    /// Whether no count is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The usage of a message as the API writes it: near the end, and without white space. `None` means no more than that the
/// message must be walked through.
///
/// Looked for from the end. Inside of a string the quotes of `"usage":` would be escaped, so what is found is a key; it
/// is one of the top level when what follows its value closes one brace and no more.
fn quick(body: &[u8]) -> Option<Usage> {
    const KEY: &[u8; 8] = b"\"usage\":";
    if body.first() != Some(&b'{') {
        return None;
    }
    let mut end = body.len();
    loop {
        let brace = memrchr(b'{', &body[end.saturating_sub(FAR)..end])? + end.saturating_sub(FAR);
        let key = brace.checked_sub(KEY.len())?;
        if body[key..brace] == *KEY && matches!(body[key.checked_sub(1)?], b',' | b'{') {
            let (usage, after) = quick_members(body, brace + 1)?;
            if body.get(after) == Some(&b'}') && after + 1 == body.len() {
                return Some(usage);
            }
            let mut rest = Object::rest(body, after);
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

/// A brace that is further from the next than this is not in a usage.
const FAR: usize = 1_024;

/// The members of a usage, and where it ends.
fn quick_members(json: &[u8], mut at: usize) -> Option<(Usage, usize)> {
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
                let (number, end) = quick_number(json, value)?;
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

/// A count or `null`, and where it ends.
#[inline]
fn quick_number(json: &[u8], at: usize) -> Option<(Option<u64>, usize)> {
    let rest = &json[at..];
    let mut sum = 0_u64;
    for (length, byte) in rest.iter().enumerate().take(19) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            if length > 0 {
                return Some((Some(sum), at + length));
            }
            return rest.starts_with(b"null").then_some((None, at + 4));
        }
        sum = sum * 10 + u64::from(digit);
    }
    None
}

/// Top-level `stop_reason` of a whole JSON message (`"refusal"`, `"end_turn"`, …); `None` if absent or `null`.
///
/// The content is stepped over, not parsed.
#[must_use]
pub fn stop_reason(body: &[u8]) -> Option<Cow<'_, str>> {
    find(body, b"stop_reason").and_then(text)
}

/// The raw value of a top-level key, the last one of duplicates; `None` if absent or the object is not whole.
pub(crate) fn find<'a>(json: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let mut object = Object::open(json)?;
    let mut found = None;
    while let Some(member) = object.next().ok()? {
        if member.is(key) {
            found = Some(member.value);
        }
    }
    found
}

fn iterations(json: &[u8]) -> (Option<u64>, Option<u64>) {
    let (mut input, mut output) = (None, None);
    let Some(mut array) = Array::open(json) else {
        return (None, None);
    };
    while let Some(element) = array.next() {
        let Some(one) = Usage::read(element, false) else {
            continue;
        };
        input = add(
            input,
            add(one.input_tokens, one.cache_creation_input_tokens),
        );
        output = add(output, one.output_tokens);
    }
    (input, output)
}

/// Sum of what is known; `None` only if nothing is.
fn add(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.saturating_add(b)),
        (a, b) => a.or(b),
    }
}
