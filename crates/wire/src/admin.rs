//! Responses of the Admin API that name limits: `GET /v1/organizations/rate_limits`, that of a
//! workspace, and `GET /v1/organizations/spend_limits`.
//!
//! Entries that this version cannot read are skipped and counted.
//!
//! Source: <https://platform.claude.com/docs/en/manage-claude/rate-limits-api>.

use std::fmt;

use serde_json::Value;

use crate::models::Tier;

/// A page of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdminPage<T> {
    /// The entries.
    pub entries: Vec<T>,
    /// The cursor of the next page. `None` for the last one.
    pub next_page: Option<String>,
    /// The number of entries that could not be read.
    pub skipped: usize,
}

/// The error of a response that is no page of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPage(String);

impl fmt::Display for InvalidPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no page of the Admin API: {}", self.0)
    }
}

impl std::error::Error for InvalidPage {}

/// The limits of one group of models or of another resource, of an organization or a workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimitEntry {
    /// The kind of the group: `model_group`, `batch`, `token_count`, `files`, `skills`,
    /// `web_search` or something newer.
    pub group_kind: String,
    /// The id of the group, which is the same in every organization.
    pub group_id: String,
    /// The name of the group for people. It may change.
    pub display_name: Option<String>,
    /// The ids and aliases of the models that share the limits. Empty for other resources.
    pub models: Vec<String>,
    /// The limits.
    pub limits: Vec<LimitEntry>,
    /// The workspace. `None` for the limits of the organization.
    pub workspace_id: Option<String>,
}

/// One limit of a [`RateLimitEntry`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitEntry {
    /// The kind, such as `requests_per_minute` or `input_tokens_per_minute_cache_aware`. New ones
    /// may appear.
    pub kind: String,
    /// The limit.
    pub value: u64,
    /// True for a limit of the organization in the entry of a workspace.
    pub is_inherited: bool,
}

/// A limit on the money that is spent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpendLimitEntry {
    /// The kind of the scope: `usage_tier`, `workspace`, `organization` or another.
    pub scope: String,
    /// The workspace, if the scope is one.
    pub workspace_id: Option<String>,
    /// The limit in cents of the currency. `None` if there is none.
    pub cents: Option<u64>,
    /// The currency.
    pub currency: Option<String>,
    /// The period: `daily`, `weekly` or `monthly`.
    pub period: Option<String>,
    /// False for a limit that is switched off.
    pub is_enabled: bool,
}

impl RateLimitEntry {
    /// Reads a page of the rate limits of an organization or a workspace.
    ///
    /// ```
    /// use tower_claude_wire::admin::RateLimitEntry;
    ///
    /// let page = RateLimitEntry::parse_page(br#"{"data":[{"type":"rate_limit","id":"rl_1",
    ///     "group":{"type":"model_group","id":"rlg_1"},"models":["claude-opus-5-5"],
    ///     "limits":[{"type":"requests_per_minute","value":1000}]}],"next_page":null}"#)?;
    /// assert_eq!(page.entries[0].limit("requests_per_minute"), Some(1_000));
    /// # Ok::<(), tower_claude_wire::admin::InvalidPage>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error for a text that is no JSON or has no list `data`.
    pub fn parse_page(json: &[u8]) -> Result<AdminPage<Self>, InvalidPage> {
        page(json, Self::read)
    }

    fn read(value: &Value) -> Option<Self> {
        let group = &value["group"];
        let texts = |list: &Value| {
            let items = list.as_array().into_iter().flatten();
            items.filter_map(text).collect::<Vec<_>>()
        };
        let limits = value["limits"].as_array()?.iter();
        Some(Self {
            group_kind: text(&group["type"])?,
            group_id: text(&group["id"]).unwrap_or_default(),
            display_name: text(&group["display_name"]),
            models: texts(&value["models"]),
            // A limit without a number is none.
            limits: limits.filter_map(LimitEntry::read).collect(),
            workspace_id: text(&value["workspace_id"]),
        })
    }

    /// Returns the limit of this kind.
    #[must_use]
    pub fn limit(&self, kind: &str) -> Option<u64> {
        let found = self.limits.iter().find(|limit| limit.kind == kind);
        found.map(|limit| limit.value)
    }
}

impl LimitEntry {
    fn read(value: &Value) -> Option<Self> {
        Some(Self {
            kind: text(&value["type"])?,
            value: value["value"].as_u64()?,
            is_inherited: value["source"]["type"] == "organization",
        })
    }
}

impl SpendLimitEntry {
    /// Reads a page of spend limits.
    ///
    /// # Errors
    /// Returns an error for a text that is no JSON or has no list `data`.
    pub fn parse_page(json: &[u8]) -> Result<AdminPage<Self>, InvalidPage> {
        page(json, Self::read)
    }

    fn read(value: &Value) -> Option<Self> {
        let amount = &value["amount"];
        let cents = match amount {
            Value::Null => None,
            Value::String(text) => Some(text.parse().ok()?),
            _ => Some(amount.as_u64()?),
        };
        Some(Self {
            scope: text(&value["scope"]["type"])?,
            workspace_id: text(&value["scope"]["workspace_id"]),
            cents,
            currency: text(&value["currency"]),
            period: text(&value["period"]),
            is_enabled: value["is_enabled"] != false,
        })
    }

    /// Returns the usage tier, if this is the cap of a tier at its published amount. An
    /// organization with a higher one has been granted it.
    #[must_use]
    pub fn tier(&self) -> Option<Tier> {
        let is_dollars = self
            .currency
            .as_deref()
            .is_none_or(|name| name.eq_ignore_ascii_case("usd"));
        match self.cents {
            _ if self.scope != "usage_tier" || !is_dollars => None,
            Some(50_000) => Some(Tier::Start),
            Some(100_000) => Some(Tier::Build),
            Some(20_000_000) => Some(Tier::Scale),
            _ => None,
        }
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn page<T>(json: &[u8], read: impl Fn(&Value) -> Option<T>) -> Result<AdminPage<T>, InvalidPage> {
    let page: Value =
        serde_json::from_slice(json).map_err(|error| InvalidPage(error.to_string()))?;
    let Some(data) = page["data"].as_array() else {
        return Err(InvalidPage("it has no list `data`".to_owned()));
    };
    let entries: Vec<T> = data.iter().filter_map(read).collect();
    Ok(AdminPage {
        skipped: data.len() - entries.len(),
        entries,
        next_page: text(&page["next_page"]),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn workspace_entry_tells_its_own_limits_from_inherited_ones() {
        let json = br#"{"data":[{"type":"workspace_rate_limit","rate_limit_id":"rl_1",
            "workspace_id":"wrkspc_1","group":{"type":"model_group","id":"rlg_1","display_name":"Opus"},
            "models":["claude-opus-5-5",7],"limits":[
            {"type":"requests_per_minute","value":50,"org_limit":1000,"source":{"type":"workspace"}},
            {"type":"output_tokens_per_minute","value":400000,"org_limit":400000,
             "source":{"type":"organization"}},
            {"type":"new_kind","value":null}]},
            {"type":"something else"}],"next_page":"p2"}"#;
        let page = RateLimitEntry::parse_page(json).unwrap();
        assert_eq!((page.skipped, page.next_page.as_deref()), (1, Some("p2")));
        let [entry] = &page.entries[..] else {
            panic!("{page:?}");
        };
        assert_eq!(entry.workspace_id.as_deref(), Some("wrkspc_1"));
        assert_eq!(entry.models, ["claude-opus-5-5"]);
        let inherited: Vec<bool> = entry
            .limits
            .iter()
            .map(|limit| limit.is_inherited)
            .collect();
        assert_eq!(inherited, [false, true]);
    }

    #[test]
    fn cap_of_a_tier_names_the_tier_and_others_do_not() {
        let json = br#"{"data":[
            {"type":"spend_limit","scope":{"type":"usage_tier"},"amount":"100000","currency":"USD",
             "period":"monthly","is_enabled":true},
            {"type":"spend_limit","scope":{"type":"usage_tier"},"amount":"777","currency":"USD"},
            {"type":"spend_limit","scope":{"type":"workspace","workspace_id":"wrkspc_1"},
             "amount":null,"is_enabled":false},
            {"type":"spend_limit","scope":{"type":"usage_tier"},"amount":"12.5"}]}"#;
        let page = SpendLimitEntry::parse_page(json).unwrap();
        assert_eq!((page.entries.len(), page.skipped), (3, 1));
        let tiers: Vec<_> = page.entries.iter().map(SpendLimitEntry::tier).collect();
        assert_eq!(tiers, [Some(Tier::Build), None, None]);
        assert_eq!(page.entries[2].cents, None);
        assert!(!page.entries[2].is_enabled);
    }

    #[test]
    fn text_of_another_form_is_an_error_and_no_panic() {
        for text in ["", "[]", "{}", "{\"data\":{}}", "<html>"] {
            assert!(
                RateLimitEntry::parse_page(text.as_bytes()).is_err(),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[\\x00-\\x7f]{0,80}") {
            let _ = RateLimitEntry::parse_page(text.as_bytes());
            let json = format!("{{\"data\":[{text}],\"next_page\":1}}");
            let _ = SpendLimitEntry::parse_page(json.as_bytes());
        }
    }
}
