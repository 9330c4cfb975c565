//! Model ids with the prefixes and suffixes of cloud platforms.

/// Returns the canonical part of an id. Cloud prefixes (`us.anthropic.`, resource paths), versions
/// (`-v1:0`), dates (`-20251001`, `@20251001`), `-latest` and `[1m]` are removed.
pub(crate) fn canonical(id: &str) -> &str {
    let id = id.trim();
    let id = id.rsplit_once('/').map_or(id, |(_, last)| last);
    let id = id.rsplit_once("anthropic.").map_or(id, |(_, last)| last);
    let id = cut(cut(cut(id, '['), '@'), ':');
    let id = strip_version(id);
    let id = id.strip_suffix("-latest").unwrap_or(id);
    strip_date(id)
}

/// Returns the family of an id: `opus` of `claude-opus-5-5`. For an id of the older form
/// (`claude-3-opus`) the result is no family, because the current sizes do not apply to it.
pub(crate) fn family(canonical: &str) -> Option<&str> {
    canonical.strip_prefix("claude-")?.split('-').next()
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
