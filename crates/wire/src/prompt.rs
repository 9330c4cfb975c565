//! The blocks of a prompt, in the order of the prompt cache.

mod breakpoint;
mod canonical;
mod plain;

use std::hash::Hasher;
use std::time::Duration;

use crate::json::{Elements, Object, find, json_text};

pub use self::breakpoint::{BlockKind, CacheTtl, insert_breakpoints, tool_call_id};
pub use self::plain::PlainBlock;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PromptPart {
    /// Tool definitions come first.
    #[default]
    Tools,
    /// The system prompt.
    System,
    /// The conversation.
    Messages,
}

/// One block of a prompt: a tool, a text of the system prompt, or a content block of a message.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PromptBlock<'a> {
    /// The part of the prompt.
    pub part: PromptPart,
    /// The index of the message. 0 outside of messages.
    pub message: usize,
    /// The raw JSON of the message's role. Empty outside of messages.
    pub role: &'a [u8],
    /// The raw JSON of the block.
    pub json: &'a [u8],
    /// Requested lifetime of the cache entry that ends here. `None` without a breakpoint.
    pub breakpoint: Option<Duration>,
    /// The end of the prefix within the block, if the breakpoint is in the content of a tool result
    /// and not at its end. The whole block follows.
    pub inner: Option<InnerBreakpoint>,
}

/// A breakpoint inside of the content of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerBreakpoint {
    /// The number of elements of the content before the breakpoint.
    pub elements: usize,
    /// The number of bytes of the block before the breakpoint.
    pub bytes: usize,
}

impl PromptBlock<'_> {
    /// Returns the length in bytes of the role and the block, up to its end or its inner
    /// breakpoint.
    #[must_use]
    pub fn len(&self) -> usize {
        self.role.len() + self.inner.map_or(self.json.len(), |inner| inner.bytes)
    }

    /// Returns true if the block has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hashes the block as the API reads it.
    ///
    /// These do not change the hash: a breakpoint (which moves with every turn), white space
    /// between tokens, escapes, the order of the members of a block, members that are `null` or
    /// have their default, and a text that is written as a string or as one block. Order, `null`
    /// and defaults do count inside of tool input and schemas, which the model reads as they are
    /// written.
    ///
    /// Of the line with which Claude Code attributes a request (`x-anthropic-billing-header: …`)
    /// the value `cch` does not count. It differs in every request of a conversation, whose prefix
    /// the API nevertheless reads from the cache.
    pub fn hash_into(&self, hasher: &mut impl Hasher) {
        canonical::tokens(self.role, hasher);
        let elements = self.inner.map_or(usize::MAX, |inner| inner.elements);
        canonical::block(self.json, elements, hasher);
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
            let unescaped = member.unescaped();
            match unescaped.as_deref().map_or(member.key, str::as_bytes) {
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

    /// Returns true if the messages have an image. The first image invalidates the cached messages.
    ///
    /// The string `"image"` in the input of a tool counts as well.
    #[must_use]
    pub fn has_images(&self) -> bool {
        memchr::memmem::find(self.messages, b"\"image\"").is_some()
    }

    /// Returns true if a tool runs at the server. It writes to the cache by itself.
    #[must_use]
    pub fn has_server_tools(&self) -> bool {
        const CLIENT: [&str; 5] = ["custom", "bash_", "text_editor_", "computer_", "memory_"];
        let is_server = |tool: &[u8]| {
            let kind = find(tool, b"type").and_then(json_text);
            kind.is_some_and(|kind| !CLIENT.iter().any(|client| kind.starts_with(client)))
        };
        Elements::open(self.tools).is_some_and(|mut tools| tools.any(is_server))
    }

    /// Hashes the settings that the cached messages depend on. A setting that is `null` or empty, a
    /// `tool_choice` of `auto`, and an effort that is the default count as absent.
    pub fn hash_settings_into(&self, default_effort: Option<&str>, hasher: &mut impl Hasher) {
        for value in self.settings {
            canonical::setting(value, default_effort, hasher);
        }
    }

    /// Calls `show` with every block in order. An element that is not valid JSON ends its list.
    pub fn blocks(&self, mut show: impl FnMut(PromptBlock<'a>)) {
        let mut list = |part, message, role: &'a [u8], json: &'a [u8]| {
            let block = |json| PromptBlock {
                part,
                message,
                role,
                json,
                breakpoint: find(json, CACHE_CONTROL).and_then(lifetime),
                inner: None,
            };
            let Some(array) = Elements::open(json) else {
                // A plain string is one block.
                if json.len() > 2 && json[0] == b'"' {
                    show(block(json));
                }
                return;
            };
            for json in array {
                let mut block = block(json);
                if part == PromptPart::Messages {
                    inner_breakpoints(&mut block, &mut show);
                }
                show(block);
            }
        };
        list(PromptPart::Tools, 0, &[], self.tools);
        list(PromptPart::System, 0, &[], self.system);
        let Some(messages) = Elements::open(self.messages) else {
            return;
        };
        for (index, message) in messages.enumerate() {
            let role = find(message, b"role").unwrap_or_default();
            let content = find(message, b"content").unwrap_or_default();
            list(PromptPart::Messages, index, role, content);
        }
    }
}

/// Shows the breakpoints in the content of a tool result. A breakpoint at the end of the content is
/// that of the block.
fn inner_breakpoints<'a>(block: &mut PromptBlock<'a>, show: &mut impl FnMut(PromptBlock<'a>)) {
    let Some(content) = find(block.json, b"content").and_then(Elements::open) else {
        return;
    };
    let begin = block.json.as_ptr().addr();
    let mut content = content.enumerate().peekable();
    while let Some((index, element)) = content.next() {
        let Some(keep) = find(element, CACHE_CONTROL).and_then(lifetime) else {
            continue;
        };
        if content.peek().is_none() {
            block.breakpoint.get_or_insert(keep);
            return;
        }
        let inner = InnerBreakpoint {
            elements: index + 1,
            bytes: element.as_ptr().addr() - begin + element.len(),
        };
        show(PromptBlock {
            breakpoint: Some(keep),
            inner: Some(inner),
            ..*block
        });
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
