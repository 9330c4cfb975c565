//! An editor of JSON objects. Members that are not changed keep their bytes, order and white space.

use std::ops::Range;

use bytes::Bytes;
use tower_claude_wire::{Field, Fields, json_text};

use super::losses::{Unportable, Why};

#[cfg(test)]
mod tests;

/// An editor of one JSON object. Only the members named in [`JsonObjectEditor::parse`] are
/// accessible.
pub(super) struct JsonObjectEditor {
    json: Bytes,
    members: Vec<ObjectMember>,
    added: Vec<(&'static str, Bytes, Why)>,
}

struct ObjectMember {
    /// `None` for a run of members that are not accessible.
    name: Option<&'static str>,
    span: Range<usize>,
    value: usize,
    change: Option<MemberChange>,
}

struct MemberChange {
    /// `None` removes the member.
    sent: Option<Bytes>,
    why: Why,
}

impl JsonObjectEditor {
    /// Parses an object. `field` is the name in errors.
    pub(super) fn parse(
        json: Bytes,
        names: &[&'static str],
        field: &'static str,
    ) -> Result<Self, Unportable> {
        let broken = || Unportable::new(field, "not a complete JSON object");
        let mut members: Vec<ObjectMember> = Vec::new();
        for member in Fields::open(&json).ok_or_else(broken)? {
            let Field {
                name, span, value, ..
            } = member.map_err(|_| broken())?;
            let name = names.iter().find(|known| **known == name).copied();
            if name.is_some() && members.iter().any(|other| other.name == name) {
                let field = if field.is_empty() {
                    name.unwrap_or("")
                } else {
                    field
                };
                return Err(Unportable::new(
                    field,
                    "given twice: readers disagree on which counts",
                ));
            }
            // A run is one piece, because a body may hold millions of members.
            if name.is_none()
                && let Some(last) = members.last_mut().filter(|last| last.name.is_none())
            {
                last.span.end = span.end;
                continue;
            }
            members.push(ObjectMember {
                name,
                span,
                value,
                change: None,
            });
        }
        Ok(Self {
            json,
            members,
            added: Vec::new(),
        })
    }

    /// Returns the raw value of the original.
    pub(super) fn asked(&self, name: &str) -> Option<Bytes> {
        let member = self.members.iter().find(|m| m.name == Some(name))?;
        Some(self.json.slice(member.value..member.span.end))
    }

    /// Returns the raw value that is sent.
    pub(super) fn sent(&self, name: &str) -> Option<Bytes> {
        if let Some((_, value, _)) = self.added.iter().find(|(added, ..)| *added == name) {
            return Some(value.clone());
        }
        let member = self.members.iter().find(|m| m.name == Some(name))?;
        match &member.change {
            Some(change) => change.sent.clone(),
            None => self.asked(name),
        }
    }

    /// Returns the value of the original, if it is a JSON string.
    pub(super) fn asked_text(&self, name: &str) -> Option<String> {
        let value = self.asked(name)?;
        json_text(&value).map(String::from)
    }

    /// Replaces the value, or adds the member at the end.
    pub(super) fn set(&mut self, name: &'static str, value: impl Into<Bytes>, why: Why) {
        let value = value.into();
        match self.members.iter_mut().find(|m| m.name == Some(name)) {
            Some(member) => {
                member.change = Some(MemberChange {
                    sent: Some(value),
                    why,
                });
            }
            None => {
                self.added.retain(|(added, ..)| *added != name);
                self.added.push((name, value, why));
            }
        }
    }

    /// Removes the member.
    pub(super) fn remove(&mut self, name: &'static str, why: Why) {
        self.added.retain(|(added, ..)| *added != name);
        if let Some(member) = self.members.iter_mut().find(|m| m.name == Some(name)) {
            member.change = Some(MemberChange { sent: None, why });
        }
    }

    /// Removes every member that is not named.
    pub(super) fn keep_only(&mut self, names: &[&'static str]) {
        for member in &mut self.members {
            if member.name.is_none_or(|name| !names.contains(&name)) {
                member.change = Some(MemberChange {
                    sent: None,
                    why: Why::Unsupported,
                });
            }
        }
    }

    /// Returns true if no member is left.
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && !self.members.iter().any(ObjectMember::is_kept)
    }

    /// Returns the reason for which a member was changed, if it was.
    pub(super) fn why(&self, name: &str) -> Option<Why> {
        if let Some((.., why)) = self.added.iter().find(|(added, ..)| *added == name) {
            return Some(*why);
        }
        let member = self.members.iter().find(|m| m.name == Some(name))?;
        member.change.as_ref().map(|change| change.why)
    }

    /// Returns the object that is sent. Each member keeps the white space before it.
    pub(super) fn render(&self) -> Bytes {
        let changed = !self.added.is_empty() || self.members.iter().any(|m| m.change.is_some());
        let json = &self.json;
        let (Some(first), Some(last), true) = (self.members.first(), self.members.last(), changed)
        else {
            if !changed {
                return json.clone();
            }
            return self.render_empty();
        };
        let mut out = Vec::with_capacity(json.len() + 64);
        out.extend_from_slice(&json[..first.span.start]);
        let (mut before, mut is_first) = (first.span.start, true);
        for member in &self.members {
            if member.is_kept() {
                if !is_first {
                    out.extend_from_slice(&json[before..member.span.start]);
                }
                is_first = false;
                match member
                    .change
                    .as_ref()
                    .and_then(|change| change.sent.as_ref())
                {
                    Some(value) => {
                        out.extend_from_slice(&json[member.span.start..member.value]);
                        out.extend_from_slice(value);
                    }
                    None => out.extend_from_slice(&json[member.span.clone()]),
                }
            }
            before = member.span.end;
        }
        self.render_added(&mut out, is_first);
        out.extend_from_slice(&json[last.span.end..]);
        out.into()
    }

    fn render_empty(&self) -> Bytes {
        let mut out = vec![b'{'];
        self.render_added(&mut out, true);
        out.push(b'}');
        out.into()
    }

    fn render_added(&self, out: &mut Vec<u8>, mut is_first: bool) {
        for (name, value, _) in &self.added {
            if !is_first {
                out.push(b',');
            }
            is_first = false;
            out.extend_from_slice(string(name).as_bytes());
            out.push(b':');
            out.extend_from_slice(value);
        }
    }
}

impl ObjectMember {
    fn is_kept(&self) -> bool {
        self.change
            .as_ref()
            .is_none_or(|change| change.sent.is_some())
    }
}

/// Returns a JSON string.
pub(super) fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\0'..='\x1f' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}
