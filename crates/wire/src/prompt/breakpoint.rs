//! Breakpoints of the prompt cache: the blocks that take one, and their insertion.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use super::{CACHE_CONTROL, FIVE_MINUTES, ONE_HOUR, PromptBlock, PromptPart};
use crate::json::{Member, Object, find, json_text};

/// The lifetime of an entry of the prompt cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CacheTtl {
    /// Five minutes, the default of the API.
    FiveMinutes,
    /// One hour, at a higher price for writing.
    OneHour,
}

impl CacheTtl {
    /// Returns the lifetime.
    #[must_use]
    pub const fn duration(self) -> Duration {
        match self {
            Self::FiveMinutes => FIVE_MINUTES,
            Self::OneHour => ONE_HOUR,
        }
    }

    /// Returns the lifetime that a [`PromptBlock::breakpoint`] requests.
    #[must_use]
    pub fn of(lifetime: Duration) -> Self {
        if lifetime > FIVE_MINUTES {
            Self::OneHour
        } else {
            Self::FiveMinutes
        }
    }

    /// Returns the member that requests this lifetime.
    const fn member(self) -> &'static str {
        match self {
            Self::FiveMinutes => r#""cache_control":{"type":"ephemeral"}"#,
            Self::OneHour => r#""cache_control":{"type":"ephemeral","ttl":"1h"}"#,
        }
    }
}

/// The kind of a block of a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BlockKind {
    /// The definition of a tool.
    Tool,
    /// A text, also one that is written as a string.
    Text,
    /// An image.
    Image,
    /// A document.
    Document,
    /// A call of a tool by the model.
    ToolUse,
    /// The result of a tool.
    ToolResult,
    /// Thinking, a call of a server tool, or an unknown kind. It takes no breakpoint.
    #[default]
    Other,
}

impl BlockKind {
    /// Returns the kind of a block of messages or of the system prompt, by its raw `type`.
    pub(super) fn of_type(json: &[u8]) -> Self {
        match json {
            b"\"text\"" => Self::Text,
            b"\"image\"" => Self::Image,
            b"\"document\"" => Self::Document,
            b"\"tool_use\"" => Self::ToolUse,
            b"\"tool_result\"" => Self::ToolResult,
            // Written with escapes, or another kind.
            _ => match json_text(json).as_deref() {
                Some("text") => Self::Text,
                Some("image") => Self::Image,
                Some("document") => Self::Document,
                Some("tool_use") => Self::ToolUse,
                Some("tool_result") => Self::ToolResult,
                _ => Self::Other,
            },
        }
    }
}

impl PromptBlock<'_> {
    /// Returns the kind of the block. Reads it up to its `type` only.
    #[must_use]
    pub fn kind(&self) -> BlockKind {
        if self.part == PromptPart::Tools {
            return BlockKind::Tool;
        }
        if self.json.first() == Some(&b'"') {
            return BlockKind::Text;
        }
        let Some(mut object) = Object::open(self.json) else {
            return BlockKind::Other;
        };
        while let Ok(Some(member)) = object.next() {
            if member.is(b"type") {
                return BlockKind::of_type(member.value);
            }
        }
        BlockKind::Other
    }

    /// Returns true if the API accepts a breakpoint at the end of this block, and it has none.
    ///
    /// Blocks of an unknown kind, texts that are empty or have only white space, deferred tools,
    /// blocks that the API clears later (`clear_at`), messages of the role `system`, and calls that
    /// code of the model has made (`caller`) take none. In doubt the result is false.
    ///
    /// The result of such a call takes none either, but does not show it. See [`tool_call_id`].
    #[must_use]
    pub fn takes_breakpoint(&self) -> bool {
        let kind = self.kind();
        if kind == BlockKind::Other || json_text(self.role).as_deref() == Some("system") {
            return false;
        }
        if self.json.first() == Some(&b'"') {
            return self.part != PromptPart::Tools && !is_blank(self.json);
        }
        let Some(mut object) = Object::open(self.json) else {
            return false;
        };
        let mut facts = MemberFacts::default();
        loop {
            match object.next() {
                Ok(Some(member)) => facts.take(&member),
                Ok(None) => return facts.take_breakpoint(kind),
                Err(_) => return false,
            }
        }
    }

    /// Returns the position of the block in the body that the prompt was read from. `None` if it is
    /// from another body.
    #[must_use]
    pub fn range_in(&self, body: &[u8]) -> Option<Range<usize>> {
        range_in(self.json, body)
    }
}

/// Returns the position of a part of the body in it.
pub(super) fn range_in(part: &[u8], body: &[u8]) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(body.as_ptr().addr())?;
    let end = start.checked_add(part.len())?;
    (end <= body.len()).then_some(start..end)
}

/// Facts of the members of a block that decide on a breakpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MemberFacts {
    has_text: bool,
    has_member: bool,
    forbids: bool,
}

impl MemberFacts {
    pub(super) fn take(&mut self, member: &Member<'_>) {
        self.has_member = true;
        let is_null = member.value == b"null";
        self.forbids |= member.is(CACHE_CONTROL)
            || member.is(b"clear_at") && !is_null
            || member.is(b"defer_loading") && member.value == b"true"
            || member.is(b"caller") && !is_null && !is_direct(member.value);
        if member.is(b"text") {
            self.has_text = !is_blank(member.value);
        }
    }

    /// Returns true if the API accepts a breakpoint at the end of a block of this kind.
    pub(super) fn take_breakpoint(self, kind: BlockKind) -> bool {
        let has_content = self.has_text || kind != BlockKind::Text;
        kind != BlockKind::Other && self.has_member && has_content && !self.forbids
    }
}

/// Returns the id that a call of a tool shares with its result, from the raw JSON of a block of
/// this kind. `None` for any other block.
#[must_use]
pub fn tool_call_id(kind: BlockKind, json: &[u8]) -> Option<Cow<'_, str>> {
    let key: &[u8] = match kind {
        BlockKind::ToolUse => b"id",
        BlockKind::ToolResult => b"tool_use_id",
        _ => return None,
    };
    find(json, key).and_then(json_text)
}

/// Returns true for a JSON string that is empty or has only white space.
pub(super) fn is_blank(text: &[u8]) -> bool {
    let mut rest = text
        .get(1..text.len().saturating_sub(1))
        .unwrap_or_default();
    loop {
        rest = match rest {
            [] => return true,
            [b' ', rest @ ..] | [b'\\', b'n' | b'r' | b't', rest @ ..] => rest,
            _ => return false,
        };
    }
}

/// Returns true if the model itself has called the tool.
fn is_direct(caller: &[u8]) -> bool {
    let kind = find(caller, b"type").and_then(json_text);
    kind.as_deref() == Some("direct")
}

/// Returns the body with a breakpoint at the end of each of these blocks, and all else as it was
/// written. `None` if a position is not that of a block, or if the positions are not in ascending
/// order.
///
/// A text that is written as a string becomes one block of text, because a string takes no
/// breakpoint. The blocks must [take a breakpoint](PromptBlock::takes_breakpoint).
///
/// ```
/// use tower_claude_wire::{CacheTtl, Prompt, insert_breakpoints};
///
/// let body = br#"{"system":"Be brief.","messages":[]}"#;
/// let mut system = None;
/// Prompt::parse(body).unwrap().blocks(|block| system = block.range_in(body));
/// let marked = insert_breakpoints(body, &[(system.unwrap(), CacheTtl::FiveMinutes)]).unwrap();
/// assert_eq!(
///     String::from_utf8(marked).unwrap(),
///     concat!(
///         r#"{"system":[{"type":"text","text":"Be brief.","#,
///         r#""cache_control":{"type":"ephemeral"}}],"messages":[]}"#,
///     ),
/// );
/// ```
#[must_use]
pub fn insert_breakpoints(body: &[u8], at: &[(Range<usize>, CacheTtl)]) -> Option<Vec<u8>> {
    /// The longest text that one breakpoint adds.
    const ADDED: usize = 96;
    let mut marked = Vec::with_capacity(body.len() + at.len() * ADDED);
    let mut copied = 0;
    for (block, ttl) in at {
        let json = body.get(block.clone())?;
        marked.extend_from_slice(body.get(copied..block.start)?);
        match json {
            [b'"', .., b'"'] => {
                marked.extend_from_slice(br#"[{"type":"text","text":"#);
                marked.extend_from_slice(json);
                marked.push(b',');
                marked.extend_from_slice(ttl.member().as_bytes());
                marked.extend_from_slice(b"}]");
            }
            [b'{', members @ .., b'}'] => {
                marked.extend_from_slice(&json[..json.len() - 1]);
                if !members.trim_ascii().is_empty() {
                    marked.push(b',');
                }
                marked.extend_from_slice(ttl.member().as_bytes());
                marked.push(b'}');
            }
            _ => return None,
        }
        copied = block.end;
    }
    marked.extend_from_slice(body.get(copied..)?);
    Some(marked)
}
