//! The blocks of a prompt in the order in which the prompt cache takes them.

use std::hash::Hasher;
use std::sync::LazyLock;
use std::time::Duration;

use memchr::memmem::Finder;

use crate::json::{Array, Object, text};
use crate::usage::find;

static MARKER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"cache_control\""));

/// Whether a body asks for prompt caching anywhere. One fast search; a prompt that only quotes the words is
/// taken for one that does.
#[must_use]
pub fn mentions_cache_control(body: &[u8]) -> bool {
    MARKER.find(body).is_some()
}

/// What of a [Messages request](https://docs.claude.com/en/docs/build-with-claude/prompt-caching) the prompt
/// cache looks at, read without a DOM.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prompt<'a> {
    tools: &'a [u8],
    system: &'a [u8],
    messages: &'a [u8],
    /// What, when it changes, makes the cached messages worthless: in order of [`SETTINGS`].
    settings: [&'a [u8]; SETTINGS.len()],
    fast: bool,
    automatic: Option<Duration>,
}

const SETTINGS: [&[u8]; 3] = [b"tool_choice", b"thinking", b"output_config"];

/// The part of a prompt that a block belongs to. A change in one makes all after it worthless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PromptPart {
    /// Tool definitions come first.
    Tools,
    /// The system prompt.
    System,
    /// The conversation.
    Messages,
}

/// One block: a tool, a text of the system prompt, a content block of a message.
#[derive(Clone, Copy, Debug)]
pub struct PromptBlock<'a> {
    /// Where it stands.
    pub part: PromptPart,
    /// The raw JSON of the role it speaks in; empty outside of messages.
    pub role: &'a [u8],
    /// The raw JSON of the block.
    pub json: &'a [u8],
    /// How long the cache is asked to keep the prompt up to here; `None` without a breakpoint.
    pub breakpoint: Option<Duration>,
}

impl PromptBlock<'_> {
    /// Hashes what the model reads of the block: all but its breakpoint, which moves on from turn to turn.
    pub fn hash_into(&self, hasher: &mut impl Hasher) {
        let mut feed = |bytes: &[u8]| {
            hasher.write_usize(bytes.len());
            hasher.write(bytes);
        };
        feed(self.role);
        let Some(mut object) = Object::open(self.json) else {
            feed(self.json);
            return;
        };
        while let Ok(Some(member)) = object.next() {
            if member.key != CACHE_CONTROL {
                feed(member.key);
                feed(member.value);
            }
        }
    }
}

const CACHE_CONTROL: &[u8] = b"cache_control";
const FIVE_MINUTES: Duration = Duration::from_secs(300);
const ONE_HOUR: Duration = Duration::from_secs(3_600);

impl<'a> Prompt<'a> {
    /// Reads the top level; of duplicate keys the last one wins. `None` when `body` is not a JSON object.
    #[must_use]
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let mut prompt = Self::default();
        let mut object = Object::open(body)?;
        while let Some(member) = object.next().ok()? {
            match member.key {
                b"tools" => prompt.tools = member.value,
                b"system" => prompt.system = member.value,
                b"messages" => prompt.messages = member.value,
                CACHE_CONTROL => prompt.automatic = lifetime(member.value),
                b"speed" => prompt.fast = text(member.value).is_some_and(|speed| speed == "fast"),
                key => {
                    let place = SETTINGS.iter().position(|name| *name == key);
                    if let Some(place) = place {
                        prompt.settings[place] = member.value;
                    }
                }
            }
        }
        Some(prompt)
    }

    /// How long automatic caching, asked for at the top level, keeps the whole prompt.
    #[must_use]
    pub const fn automatic(&self) -> Option<Duration> {
        self.automatic
    }

    /// Whether `speed` is `"fast"`: fast and standard requests share no cache.
    #[must_use]
    pub const fn is_fast(&self) -> bool {
        self.fast
    }

    /// Hashes the settings that the cached messages depend on.
    pub fn hash_settings_into(&self, hasher: &mut impl Hasher) {
        for value in self.settings {
            hasher.write_usize(value.len());
            hasher.write(value);
        }
    }

    /// Shows every block in order. What does not parse ends it.
    pub fn blocks(&self, mut show: impl FnMut(PromptBlock<'a>)) {
        let mut list = |part, role: &'a [u8], json: &'a [u8]| {
            let Some(mut array) = Array::open(json) else {
                // A plain string is one block.
                if !json.is_empty() {
                    show(PromptBlock {
                        part,
                        role,
                        json,
                        breakpoint: None,
                    });
                }
                return;
            };
            while let Some(json) = array.next() {
                show(PromptBlock {
                    part,
                    role,
                    json,
                    breakpoint: find(json, CACHE_CONTROL).and_then(lifetime),
                });
            }
        };
        list(PromptPart::Tools, &[], self.tools);
        list(PromptPart::System, &[], self.system);
        let Some(mut messages) = Array::open(self.messages) else {
            return;
        };
        while let Some(message) = messages.next() {
            let role = find(message, b"role").unwrap_or_default();
            let content = find(message, b"content").unwrap_or_default();
            list(PromptPart::Messages, role, content);
        }
    }
}

/// Five minutes, unless an hour is asked for; `None` for a marker that is `null`.
fn lifetime(marker: &[u8]) -> Option<Duration> {
    Object::open(marker)?;
    let hour = find(marker, b"ttl")
        .and_then(text)
        .is_some_and(|ttl| ttl == "1h");
    Some(if hour { ONE_HOUR } else { FIVE_MINUTES })
}
