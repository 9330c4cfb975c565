//! A TOML document that is read to its end in spite of errors.

use std::ops::Range;

use serde::Deserialize;
use toml::{
    Spanned,
    de::{DeTable, DeValue, Deserializer},
};

use crate::config_error::ConfigError;

/// The greatest length of a value in an error.
const MOST_SHOWN: usize = 60;

/// A parsed document with the position of each value.
///
/// serde stops at the first error. To find all of them, the document is read again without the
/// value that was wrong, until no error is left.
pub(crate) struct Document<'a> {
    text: &'a str,
    root: Spanned<DeTable<'a>>,
}

impl<'a> Document<'a> {
    /// Parses a text.
    pub(crate) fn parse(text: &'a str) -> Result<Self, ConfigError> {
        match DeTable::parse(text) {
            Ok(root) => Ok(Self { text, root }),
            Err(error) => Err(ConfigError {
                line: error.span().map(|span| line(text, span.start)),
                field: String::new(),
                message: error.message().to_owned(),
            }),
        }
    }

    /// Reads a value, and adds an error for each field that is wrong. `None` if it cannot be read
    /// without these fields.
    pub(crate) fn read<T: for<'de> Deserialize<'de>>(
        &mut self,
        errors: &mut Vec<ConfigError>,
    ) -> Option<T> {
        let mut root = self.root.clone();
        loop {
            let error = match T::deserialize(Deserializer::from(root.clone())) {
                Ok(value) => return Some(value),
                Err(error) => error,
            };
            let mut field = String::new();
            let span = error.span();
            let removed = span.as_ref().is_some_and(|span| {
                remove(root.get_mut(), span, &mut field);
                !field.is_empty()
            });
            let mut message = error.message().trim().replace('\n', ", ");
            let value = span.as_ref().and_then(|span| self.text.get(span.clone()));
            if let Some(value) = value
                && is_shown(value, &field)
                && !message.contains(value.trim_matches('"'))
            {
                message.push_str(&format!(", not {value}"));
            }
            errors.push(ConfigError {
                line: span.map(|span| line(self.text, span.start)),
                field,
                message,
            });
            if !removed {
                return None;
            }
        }
    }

    /// Returns the line of a field such as `upstreams[0].url`, or else of the innermost table
    /// around it that is in the document.
    pub(crate) fn line_of(&self, field: &str) -> Option<usize> {
        let mut table = self.root.get_ref();
        let mut found = None;
        for part in field.split('.') {
            let (name, index) = match part.split_once('[') {
                Some((name, index)) => (name, index.trim_end_matches(']').parse::<usize>().ok()),
                None => (part, None),
            };
            let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == name) else {
                break;
            };
            let mut value = value;
            found = Some(key.span().start);
            if let (Some(index), DeValue::Array(array)) = (index, value.get_ref()) {
                let Some(element) = array.get(index) else {
                    break;
                };
                found = Some(element.span().start);
                value = element;
            }
            match value.get_ref() {
                DeValue::Table(inner) => table = inner,
                _ => break,
            }
        }
        found.map(|at| line(self.text, at))
    }
}

/// Removes the innermost entry whose key or value has this position, and appends its path. A table
/// that lacks a field is removed as a whole.
fn remove(table: &mut DeTable<'_>, span: &Range<usize>, path: &mut String) {
    let found = table.iter().find_map(|(key, value)| {
        let is_here =
            holds(&key.span(), span) || holds(&value.span(), span) || contains(value, span);
        is_here.then(|| (key.clone(), holds(&key.span(), span)))
    });
    let Some((key, is_key)) = found else {
        return;
    };
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key.get_ref());
    let is_removed = !is_key
        && table
            .get_mut(&key)
            .is_some_and(|value| descend(value, span, path));
    if !is_removed {
        table.remove(&key);
    }
}

/// Removes the entry with this position inside of a value, and appends its path. Returns false if
/// the value itself is meant, or an element of an array that is no table.
fn descend(value: &mut Spanned<DeValue<'_>>, span: &Range<usize>, path: &mut String) -> bool {
    let value = match value.get_mut() {
        DeValue::Array(array) => {
            let is_meant = |element: &Spanned<DeValue<'_>>| {
                holds(&element.span(), span) || contains(element, span)
            };
            let Some(index) = array.iter().position(is_meant) else {
                return false;
            };
            path.push_str(&format!("[{index}]"));
            array.get_mut(index).map(Spanned::get_mut)
        }
        value => Some(value),
    };
    let before = path.len();
    if let Some(DeValue::Table(table)) = value {
        remove(table, span, path);
    }
    path.len() > before
}

/// Returns true if any value inside has this position. The span of a table is its header only.
fn contains(value: &Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
    match value.get_ref() {
        DeValue::Table(table) => table.iter().any(|(key, value)| {
            holds(&key.span(), span) || holds(&value.span(), span) || contains(value, span)
        }),
        DeValue::Array(array) => array
            .iter()
            .any(|value| holds(&value.span(), span) || contains(value, span)),
        _ => false,
    }
}

/// Returns true if the value may be a part of an error: it is short and no secret.
fn is_shown(value: &str, field: &str) -> bool {
    let is_short = value.len() <= MOST_SHOWN && !value.contains('\n') && !value.is_empty();
    let is_secret =
        field.ends_with(".key") || field.contains(".key.") || field.starts_with("alerts.webhook_");
    is_short && !is_secret
}

fn holds(outer: &Range<usize>, span: &Range<usize>) -> bool {
    outer.start <= span.start && span.end <= outer.end
}

/// Returns the line of a position, from 1.
fn line(text: &str, at: usize) -> usize {
    let before = text.as_bytes().iter().take(at);
    before.filter(|byte| **byte == b'\n').count() + 1
}
