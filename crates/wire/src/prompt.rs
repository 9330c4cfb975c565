//! The blocks of a prompt, in the order of the prompt cache.

use std::hash::Hasher;
use std::time::Duration;

use crate::json::{Elements, Object, find, json_text};

/// The parts of a Messages request that determine its [prompt
/// cache](https://docs.claude.com/en/docs/build-with-claude/prompt-caching) entries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prompt<'a> {
    tools: &'a [u8],
    system: &'a [u8],
    messages: &'a [u8],
    /// Settings whose change invalidates the cached messages, in the order of [`SETTINGS`].
    settings: [&'a [u8]; SETTINGS.len()],
    fast: bool,
    automatic: Option<Duration>,
}

const SETTINGS: [&[u8]; 3] = [b"tool_choice", b"thinking", b"output_config"];

/// The part of a prompt that a block belongs to. A change in one part invalidates all parts after
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PromptPart {
    /// Tool definitions come first.
    Tools,
    /// The system prompt.
    System,
    /// The conversation.
    Messages,
}

/// One block of a prompt: a tool, a text of the system prompt, or a content block of a message.
#[derive(Clone, Copy, Debug)]
pub struct PromptBlock<'a> {
    /// The part of the prompt.
    pub part: PromptPart,
    /// The raw JSON of the message's role. Empty outside of messages.
    pub role: &'a [u8],
    /// The raw JSON of the block.
    pub json: &'a [u8],
    /// Requested lifetime of the cache entry that ends here. `None` without a breakpoint.
    pub breakpoint: Option<Duration>,
}

impl PromptBlock<'_> {
    /// Hashes the block without its breakpoint, because the breakpoint moves with every turn.
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
    /// Reads the top level. Of duplicate keys the last one wins. `None` if `body` is not a JSON
    /// object.
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
                b"speed" => {
                    prompt.fast = json_text(member.value).is_some_and(|speed| speed == "fast");
                }
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

    /// Returns the lifetime that a top-level `cache_control` requests for the whole prompt.
    #[must_use]
    pub const fn automatic(&self) -> Option<Duration> {
        self.automatic
    }

    /// Returns true if `speed` is `"fast"`. Fast and standard requests do not share a cache.
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

    /// Calls `show` with every block in order. An element that is not valid JSON ends its list.
    pub fn blocks(&self, mut show: impl FnMut(PromptBlock<'a>)) {
        let mut list = |part, role: &'a [u8], json: &'a [u8]| {
            let Some(array) = Elements::open(json) else {
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
            for json in array {
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
        let Some(messages) = Elements::open(self.messages) else {
            return;
        };
        for message in messages {
            let role = find(message, b"role").unwrap_or_default();
            let content = find(message, b"content").unwrap_or_default();
            list(PromptPart::Messages, role, content);
        }
    }
}

/// Returns one hour if the marker requests it, else five minutes. `None` for a marker that is
/// `null`.
fn lifetime(marker: &[u8]) -> Option<Duration> {
    Object::open(marker)?;
    let hour = find(marker, b"ttl")
        .and_then(json_text)
        .is_some_and(|ttl| ttl == "1h");
    Some(if hour { ONE_HOUR } else { FIVE_MINUTES })
}
