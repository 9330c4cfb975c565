//! JSON values with their paths, so that errors can name the field.

use std::fmt;

use serde_json::Value;

use super::model::{Effort, Lifecycle, Support};
use super::platform::Platform;
use super::price::RateCard;

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
            Some("thinking_on") => Support::ThinkingOn,
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

    /// Reads a price in USD per million tokens as nano-dollars per token, which is the same number
    /// of thousandths.
    fn price(&self) -> Result<u64> {
        Ok(u64::from(self.thousandths()?))
    }

    /// Reads the base price, and the prices of the cache if `cache` is `None`.
    pub(super) fn rate_card(&self, cache: Option<RateCard>) -> Result<RateCard> {
        let (input, output) = (self.at("input").price()?, self.at("output").price()?);
        if let Some(card) = cache {
            return Ok(card.with_base(input, output));
        }
        Ok(RateCard {
            input,
            output,
            cache_write_5m: self.at("cache_write_5m").price()?,
            cache_write_1h: self.at("cache_write_1h").price()?,
            cache_read: self.at("cache_read").price()?,
        })
    }

    pub(super) fn platforms(&self) -> Result<Vec<Platform>> {
        let read =
            |item: &Self| Platform::parse(item.text()?).ok_or_else(|| item.bad("a platform"));
        self.items()?.iter().map(read).collect()
    }

    /// Reads an object by platform. `*` stands for all others.
    pub(super) fn by_platform<T>(
        &self,
        read: impl Fn(&Self) -> Result<T>,
    ) -> Result<Vec<(Option<Platform>, T)>> {
        let mut entries = Vec::new();
        for (name, node) in self.optional(Self::entries)?.unwrap_or_default() {
            let platform = Platform::parse(name);
            if platform.is_none() && name != "*" {
                return Err(node.bad("the value of a platform"));
            }
            entries.push((platform, read(&node)?));
        }
        Ok(entries)
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
