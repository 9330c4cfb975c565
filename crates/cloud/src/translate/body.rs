//! The body of a translation.

use std::ops::Range;

use bytes::Bytes;
use tower_claude_wire::Field;

use super::edit::Fate;

/// A body in the making: parts of the source and of new text, which are not copied until the body
/// is built.
pub(super) struct Body {
    source: Bytes,
    pieces: Vec<Piece>,
    /// A member has changed, moved or gone, so that the source cannot be sent as it is.
    changed: bool,
}

enum Piece {
    /// A part of the source.
    Kept(Range<usize>),
    New(Vec<u8>),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Kept(range) => range.len(),
            Self::New(text) => text.len(),
        }
    }
}

impl Body {
    pub(super) fn new(source: Bytes) -> Self {
        Self {
            source,
            pieces: Vec::with_capacity(32),
            changed: false,
        }
    }

    /// Appends a member of the source.
    pub(super) fn push(&mut self, field: &Field<'_>, fate: Fate) {
        self.changed |= !matches!(fate, Fate::Keep);
        match fate {
            Fate::Drop => {}
            Fate::Keep => {
                self.separate();
                self.pieces.push(Piece::Kept(field.span.clone()));
            }
            Fate::Replace(value) => {
                self.separate();
                self.pieces.push(Piece::Kept(field.span.start..field.value));
                self.pieces.push(Piece::New(value));
            }
        }
    }

    /// Appends a member of the source that may have stood before others.
    pub(super) fn push_last(&mut self, field: &Field<'_>, fate: Fate) {
        self.changed = true;
        self.push(field, fate);
    }

    /// Appends a new member.
    pub(super) fn member(&mut self, name: &str, value: &str) {
        self.changed = true;
        self.separate();
        let member = [json(name).as_str(), ":", value].concat();
        self.pieces.push(Piece::New(member.into_bytes()));
    }

    fn separate(&mut self) {
        if !self.pieces.is_empty() {
            self.pieces.push(Piece::New(vec![b',']));
        }
    }

    /// Returns the length of the whole body.
    pub(super) fn len(&self) -> usize {
        if self.changed {
            self.pieces.iter().map(Piece::len).sum::<usize>() + "{}".len()
        } else {
            self.source.len()
        }
    }

    /// Returns the whole body.
    pub(super) fn build(self) -> Bytes {
        if !self.changed {
            return self.source;
        }
        let mut body = Vec::with_capacity(self.len());
        body.push(b'{');
        for piece in &self.pieces {
            match piece {
                Piece::Kept(range) => body.extend_from_slice(&self.source[range.clone()]),
                Piece::New(text) => body.extend_from_slice(text),
            }
        }
        body.push(b'}');
        body.into()
    }
}

/// Returns a JSON string.
pub(super) fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
