//! Model ids with the prefixes and suffixes of cloud platforms and gateways.

use std::borrow::Cow;

/// Returns the canonical part of an id. Cloud prefixes (`us.anthropic.`, resource paths), versions
/// (`-v1:0`), dates (`-20251001`, `@20251001`), `-latest`, `-fast` and `[1m]` are removed.
pub(crate) fn canonical(id: &str) -> &str {
    let id = id.rsplit_once('/').map_or(id, |(_, last)| last);
    let id = id.rsplit_once("anthropic.").map_or(id, |(_, last)| last);
    let id = cut(cut(cut(id, '['), '@'), ':').trim();
    let id = strip_version(id);
    let id = id.strip_suffix("-latest").unwrap_or(id);
    // A deployment for the fast mode on Microsoft Foundry.
    let id = id.strip_suffix("-fast").unwrap_or(id);
    strip_date(id)
}

/// Returns a canonical id in the spelling of the API: lower case, with `-` in place of `.`, and the
/// family before the number from the fourth generation on (`claude-4.5-sonnet`).
pub(crate) fn spelled(canonical: &str) -> Cow<'_, str> {
    let is_claude = canonical
        .get(..7)
        .is_some_and(|head| head.eq_ignore_ascii_case("claude-"));
    if !is_claude {
        return Cow::Borrowed(canonical);
    }
    let mut id = Cow::Borrowed(canonical);
    if canonical
        .bytes()
        .any(|b| b == b'.' || b.is_ascii_uppercase())
    {
        id = Cow::Owned(canonical.to_ascii_lowercase().replace('.', "-"));
    }
    let rest = &id["claude-".len()..];
    if let Some((number, family)) = rest.rsplit_once('-')
        && number.starts_with(|c: char| ('4'..='9').contains(&c))
        && number.split('-').all(is_digits)
        && !is_digits(family)
    {
        id = Cow::Owned(format!("claude-{family}-{number}"));
    }
    id
}

/// Returns the family of an id: `opus` of `claude-opus-5-5`. For an id of the older form
/// (`claude-3-opus`) the result is no family, because the current sizes do not apply to it.
pub(crate) fn family(canonical: &str) -> Option<&str> {
    canonical.strip_prefix("claude-")?.split('-').next()
}

/// Returns the date in an id, e.g. `20251001`.
pub(crate) fn date(id: &str) -> Option<&str> {
    id.split(|c: char| !c.is_ascii_digit())
        .find(|digits| digits.len() == 8)
}

fn cut(id: &str, at: char) -> &str {
    id.split_once(at).map_or(id, |(head, _)| head)
}

fn strip_version(id: &str) -> &str {
    match id.rsplit_once("-v") {
        Some((head, version)) if is_digits(version) => head,
        _ => id,
    }
}

fn strip_date(id: &str) -> &str {
    match id.rsplit_once('-') {
        Some((head, date)) if date.len() == 8 && is_digits(date) => head,
        _ => id,
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}
