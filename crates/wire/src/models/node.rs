//! JSON values with their paths, so that errors can name the field.

use std::fmt;

use serde_json::Value;

use super::model::{Effort, Lifecycle, Support};

/// Error for invalid catalog data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CatalogError {
    /// Path of the field, e.g. `models.claude-opus-5.context`. Empty for the whole text.
    pub field: String,
    /// The value of the field, shortened, or `nothing`.
    pub value: String,
    /// Description of the expected value.
    pub expected: &'static str,
}

impl fmt::Display for CatalogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = if self.field.is_empty() {
            "catalog"
        } else {
            &self.field
        };
        write!(
            f,
            "{field}: expected {}, found {}",
            self.expected, self.value
        )
    }
}

impl std::error::Error for CatalogError {}

pub(super) type Result<T> = std::result::Result<T, CatalogError>;

/// A value of the document with its path, for error messages.
pub(super) struct Node<'a> {
    pub(super) path: String,
    pub(super) value: Option<&'a Value>,
}

impl<'a> Node<'a> {
    pub(super) fn at(&self, key: &str) -> Node<'a> {
        Node {
            path: join(&self.path, key),
            // `null` counts as a missing field.
            value: self.value.and_then(|v| v.get(key)).filter(|v| !v.is_null()),
        }
    }

    pub(super) fn bad(&self, expected: &'static str) -> CatalogError {
        let value = match self.value {
            None => "nothing".to_owned(),
            Some(value) => value.to_string().chars().take(80).collect(),
        };
        CatalogError {
            field: self.path.clone(),
            value,
            expected,
        }
    }

    pub(super) fn entries(&self) -> Result<Vec<(&'a str, Node<'a>)>> {
        let map = self
            .value
            .and_then(Value::as_object)
            .ok_or_else(|| self.bad("an object"))?;
        Ok(map
            .iter()
            .map(|(key, value)| {
                let path = join(&self.path, key);
                (
                    key.as_str(),
                    Node {
                        path,
                        value: Some(value),
                    },
                )
            })
            .collect())
    }

    pub(super) fn items(&self) -> Result<Vec<Node<'a>>> {
        let items = self
            .value
            .and_then(Value::as_array)
            .ok_or_else(|| self.bad("an array"))?;
        Ok(items
            .iter()
            .enumerate()
            .map(|(at, value)| Node {
                path: format!("{}[{at}]", self.path),
                value: Some(value),
            })
            .collect())
    }

    pub(super) fn text(&self) -> Result<&'a str> {
        self.value
            .and_then(Value::as_str)
            .ok_or_else(|| self.bad("a string"))
    }

    pub(super) fn number(&self) -> Result<u64> {
        self.value
            .and_then(Value::as_u64)
            .ok_or_else(|| self.bad("a whole number"))
    }

    pub(super) fn flag(&self) -> Result<bool> {
        self.value
            .and_then(Value::as_bool)
            .ok_or_else(|| self.bad("true or false"))
    }

    pub(super) fn optional<T>(&self, read: impl FnOnce(&Self) -> Result<T>) -> Result<Option<T>> {
        self.value.is_some().then(|| read(self)).transpose()
    }

    pub(super) fn support(&self) -> Result<Support> {
        Ok(match self.optional(Self::text)? {
            None => Support::Unknown,
            Some("yes") => Support::Yes,
            Some("deprecated") => Support::Deprecated,
            Some("up_to_high_effort") => Support::UpToHighEffort,
            Some("thinking_off") => Support::ThinkingOff,
            Some("not_with_enabled_thinking") => Support::NotWithEnabledThinking,
            Some("ignored") => Support::Ignored,
            Some("no") => Support::No,
            Some(_) => return Err(self.bad("a kind of support")),
        })
    }

    pub(super) fn texts(&self) -> Result<Vec<Box<str>>> {
        let items = self.items()?;
        items.iter().map(|item| Ok(item.text()?.into())).collect()
    }

    /// Reads a number from 0 to 1,000,000, in thousandths.
    pub(super) fn thousandths(&self) -> Result<u32> {
        let number = self.value.and_then(Value::as_f64);
        let within = number.filter(|number| (0.0..=1_000_000.0).contains(number));
        let number = within.ok_or_else(|| self.bad("a number from 0 to 1,000,000"))?;
        Ok((number * 1_000.0).round() as u32)
    }

    pub(super) fn lifecycle(&self) -> Result<Lifecycle> {
        Lifecycle::parse(self.text()?).ok_or_else(|| self.bad("a stage of life"))
    }

    pub(super) fn effort(&self) -> Result<Effort> {
        Effort::parse(self.text()?).ok_or_else(|| self.bad("an effort"))
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

pub(super) fn parse(json: &str) -> Result<Value> {
    serde_json::from_str(json).map_err(|error| CatalogError {
        field: String::new(),
        value: error.to_string(),
        expected: "JSON",
    })
}

pub(super) fn root(value: &Value) -> Node<'_> {
    Node {
        path: String::new(),
        value: Some(value),
    }
}
