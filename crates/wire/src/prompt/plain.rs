//! The blocks of a prompt without breakpoints, in one pass.

use std::ops::Range;

use super::{
    BlockKind, Prompt, PromptPart,
    breakpoint::{MemberFacts, is_blank},
};
use crate::json::{Elements, Object, json_text, value_end};

/// A block of a prompt without breakpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlainBlock<'a> {
    /// The part of the prompt.
    pub part: PromptPart,
    /// The index of the message. 0 outside of messages.
    pub message: usize,
    /// The raw JSON of the message's role. Empty outside of messages.
    pub role: &'a [u8],
    /// The kind.
    pub kind: BlockKind,
    /// The raw JSON of the block.
    pub json: &'a [u8],
    /// True if the API accepts a breakpoint at the end. See
    /// [`PromptBlock::takes_breakpoint`](super::PromptBlock::takes_breakpoint).
    pub takes_breakpoint: bool,
}

impl PlainBlock<'_> {
    /// Returns the position of the block in the body that the prompt was read from. `None` if it is
    /// from another body.
    #[must_use]
    pub fn range_in(&self, body: &[u8]) -> Option<Range<usize>> {
        super::breakpoint::range_in(self.json, body)
    }
}

impl<'a> Prompt<'a> {
    /// Calls `show` with every block in order, as [`blocks`](Self::blocks) does, for a body that
    /// mentions no breakpoint. It reads the prompt in one pass. Text that is not valid JSON ends
    /// its list.
    pub fn plain_blocks(&self, mut show: impl FnMut(PlainBlock<'a>)) {
        let mut blocks = Vec::new();
        for (part, json) in [
            (PromptPart::Tools, self.tools),
            (PromptPart::System, self.system),
        ] {
            if !json.is_empty() {
                list(json, 0, part, 0, &mut blocks);
            }
            blocks.drain(..).for_each(&mut show);
        }
        let json = self.messages;
        let Some(mut messages) = Elements::open(json) else {
            return;
        };
        let mut index = 0;
        while let Some(at) = messages.next_at() {
            let Some(end) = message(json, at, index, &mut blocks) else {
                return;
            };
            messages.pass(end);
            blocks.drain(..).for_each(&mut show);
            index += 1;
        }
    }
}

/// Reads the message at this position, and returns its end.
fn message<'a>(
    json: &'a [u8],
    at: usize,
    index: usize,
    blocks: &mut Vec<PlainBlock<'a>>,
) -> Option<usize> {
    if json.get(at) != Some(&b'{') {
        return value_end(json, at);
    }
    let mut object = Object::nested(json, at);
    let mut role: &[u8] = b"";
    while let Some(key) = object.key()? {
        if key == b"content" {
            blocks.clear();
            let end = list(json, object.at(), PromptPart::Messages, index, blocks)?;
            object.pass(end);
        } else {
            let member = object.value(key, &mut ())?;
            if member.is(b"role") {
                role = member.value;
            }
        }
    }
    let is_system = json_text(role).as_deref() == Some("system");
    for block in blocks {
        block.role = role;
        block.takes_breakpoint &= !is_system;
    }
    Some(object.at())
}

/// Reads the list of blocks at this position, or the only block if it is a string, and returns its
/// end.
fn list<'a>(
    json: &'a [u8],
    at: usize,
    part: PromptPart,
    message: usize,
    blocks: &mut Vec<PlainBlock<'a>>,
) -> Option<usize> {
    let mut add = |kind, json: &'a [u8], takes_breakpoint| {
        blocks.push(PlainBlock {
            part,
            message,
            role: b"",
            kind,
            json,
            takes_breakpoint,
        });
    };
    if json.get(at) != Some(&b'[') {
        let end = value_end(json, at)?;
        let value = &json[at..end];
        if value.len() > 2 && value[0] == b'"' {
            match part {
                PromptPart::Tools => add(BlockKind::Tool, value, false),
                _ => add(BlockKind::Text, value, !is_blank(value)),
            }
        }
        return Some(end);
    }
    let mut elements = Elements::nested(json, at + 1);
    while let Some(at) = elements.next_at() {
        if json.get(at) != Some(&b'{') {
            let end = value_end(json, at)?;
            add(BlockKind::Other, &json[at..end], false);
            elements.pass(end);
            continue;
        }
        let mut object = Object::nested(json, at);
        let mut kind = match part {
            PromptPart::Tools => BlockKind::Tool,
            _ => BlockKind::Other,
        };
        let mut facts = MemberFacts::default();
        while let Some(member) = object.next().ok()? {
            facts.take(&member);
            if part != PromptPart::Tools && member.is(b"type") {
                kind = BlockKind::of_type(member.value);
            }
        }
        let end = object.at();
        add(kind, &json[at..end], facts.take_breakpoint(kind));
        elements.pass(end);
    }
    elements.end()
}
