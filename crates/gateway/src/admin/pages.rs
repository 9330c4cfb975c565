//! The pages of a list, as one JSON object.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::AdminError;

/// The most pages of a list.
const MOST_PAGES: usize = 2_000;

/// The greatest size of a list.
const MOST_BYTES: usize = 512 << 20;

/// The entries of the pages so far, each as the API wrote it.
#[derive(Default)]
pub(super) struct Pages {
    entries: String,
    /// The newest page's `data_refreshed_at`, which the planner reads.
    refreshed_at: Option<Box<RawValue>>,
    cursors: HashSet<String>,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
    #[serde(default)]
    next_page: Option<String>,
    #[serde(default)]
    data_refreshed_at: Option<Box<RawValue>>,
}

impl Pages {
    /// Adds a page. Returns the cursor of the next one.
    pub(super) fn add(&mut self, json: &[u8]) -> Result<Option<String>, AdminError> {
        let invalid = |reason: String| AdminError::InvalidPage { reason };
        let page: Page<'_> =
            serde_json::from_slice(json).map_err(|error| invalid(error.to_string()))?;
        for entry in page.data {
            if !self.entries.is_empty() {
                self.entries.push(',');
            }
            // The result is one line.
            self.entries.extend(
                entry
                    .get()
                    .chars()
                    .filter(|char| !matches!(char, '\n' | '\r')),
            );
        }
        self.refreshed_at = page.data_refreshed_at.or(self.refreshed_at.take());
        let Some(next) = page.next_page.filter(|next| !next.is_empty()) else {
            return Ok(None);
        };
        if self.entries.len() > MOST_BYTES || self.cursors.len() >= MOST_PAGES {
            return Err(AdminError::TooLarge);
        }
        if !self.cursors.insert(next.clone()) {
            return Err(invalid("the cursor of a page leads to itself".to_owned()));
        }
        Ok(Some(next))
    }

    /// Returns all entries as one object.
    pub(super) fn into_json(self) -> String {
        let refreshed_at = self.refreshed_at.as_ref().map_or("null", |at| at.get());
        let entries = self.entries;
        format!("{{\"data\":[{entries}],\"next_page\":null,\"data_refreshed_at\":{refreshed_at}}}")
    }
}

/// Returns a text as the value of a query parameter.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_become_one_line_of_json() {
        let mut pages = Pages::default();
        let first =
            pages.add(b"{\"data\":[{\"a\":\n1}, 2],\"has_more\":true,\"next_page\":\"p/2\"}");
        assert_eq!(first, Ok(Some("p/2".to_owned())));
        let last = pages.add(br#"{"data":[],"next_page":null,"data_refreshed_at":"t"}"#);
        assert_eq!(last, Ok(None));
        assert_eq!(
            pages.into_json(),
            r#"{"data":[{"a":1},2],"next_page":null,"data_refreshed_at":"t"}"#
        );
        assert_eq!(encode("p/2 ü"), "p%2F2%20%C3%BC");
    }

    #[test]
    fn page_without_data_and_cursor_without_end_are_errors() {
        for text in ["", "[]", "{}", "{\"data\":1}"] {
            let added = Pages::default().add(text.as_bytes());
            assert!(
                matches!(added, Err(AdminError::InvalidPage { .. })),
                "{text}"
            );
        }
        let mut pages = Pages::default();
        let page = br#"{"data":[],"next_page":"p"}"#;
        assert!(pages.add(page).is_ok());
        assert!(pages.add(page).is_err());
    }
}
