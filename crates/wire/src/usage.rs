//! Token usage of a message.

use std::borrow::Cow;

use crate::json::{Array, Broken, Object, Step, integer, text};

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
