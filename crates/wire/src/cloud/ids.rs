//! Model ids on clouds, and back.

use std::borrow::Cow;

use super::data::DATA;
use super::loss::Unportable;
use super::profile::Profile;
use crate::models::ModelCatalog;

const NO_ID: Unportable = Unportable::new("model", "the target has no id for this model");
const FOREIGN_ARN: Unportable = Unportable::new(
    "model",
    "an ARN is only valid on InvokeModel in its own region",
);

/// Returns the Claude API's id for any id of a cloud.
///
/// Removed are the path of an ARN, `us.anthropic.`, `-v1:0` and `@default`. The date after an `@`
/// gets a hyphen. The ARN of a profile that a user has made names no model and stays as it is.
pub(super) fn claude_id(id: &str) -> Cow<'_, str> {
    let last = match id.rsplit_once('/') {
        Some((_, last)) if id.starts_with("arn:") => last,
        _ => id,
    };
    let base = match without_vendor(last) {
        Some(base) => base,
        // A profile of the user's own.
        None if last.len() < id.len() => return Cow::Borrowed(id),
        None => last,
    };
    let base = if base.starts_with("claude-") {
        without_version(base)
    } else {
        base
    };
    match base.split_once('@') {
        Some((name, "default")) => Cow::Borrowed(name),
        Some((name, date)) if is_date(date) => Cow::Owned(format!("{name}-{date}")),
        _ => Cow::Borrowed(base),
    }
}

/// Returns the part after `anthropic.` or `us.anthropic.`. `None` for any other id.
fn without_vendor(id: &str) -> Option<&str> {
    if let Some(base) = id.strip_prefix("anthropic.") {
        return Some(base);
    }
    let (profile, rest) = id.split_once('.')?;
    Profile::parse(profile)?;
    rest.strip_prefix("anthropic.")
}

/// Removes `-v1`, `-v1:0` and `-v1:0:200k`.
fn without_version(id: &str) -> &str {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let version = id.match_indices("-v").find(|(at, _)| {
        let rest = &id[at + "-v".len()..];
        rest.split(':').next().is_some_and(is_number)
    });
    version.map_or(id, |(at, _)| &id[..at])
}

/// Returns the id and its date apart: `claude-opus-4-5` and `20251101`. A plain id gets the date of
/// its snapshot, if it has one.
fn dated<'a>(id: &'a str, catalog: &'a ModelCatalog) -> (&'a str, Option<&'a str>) {
    if let Some(split) = split_date(id) {
        return (split.0, Some(split.1));
    }
    let snapshot = catalog
        .get(id)
        .and_then(|model| model.about.snapshot.as_deref());
    (id, snapshot.and_then(split_date).map(|(_, date)| date))
}

/// Returns the id without its date.
pub(super) fn without_date(id: &str) -> &str {
    split_date(id).map_or(id, |(base, _)| base)
}

fn split_date(id: &str) -> Option<(&str, &str)> {
    id.rsplit_once('-').filter(|(_, date)| is_date(date))
}

fn is_date(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit())
}

/// Returns true if an id can stand in a path as it is: no white space, nothing but visible ASCII,
/// and a name of Claude.
fn is_claude(id: &str) -> bool {
    id.starts_with("claude-") && id.len() <= 1_024 && id.bytes().all(|b| b.is_ascii_graphic())
}

/// Returns the id on the Messages API of Bedrock: without a profile, a version and a date.
pub(super) fn bedrock_messages_id(id: &str) -> Result<String, Unportable> {
    let claude = plain(id)?;
    Ok(format!("anthropic.{}", without_date(&claude)))
}

/// Returns the id on `InvokeModel`. An id that names its profile keeps it, and so does an ARN of
/// this region.
pub(super) fn invoke_model_id<'a>(
    id: &'a str,
    profile: Option<Profile>,
    region: &str,
    catalog: &ModelCatalog,
) -> Result<Cow<'a, str>, Unportable> {
    if id.starts_with("arn:") {
        // arn:partition:bedrock:region:account:resource
        let of_arn = id.split(':').nth(3).unwrap_or_default();
        let is_here = of_arn == region && id.bytes().all(|b| b.is_ascii_graphic());
        return if is_here {
            Ok(Cow::Borrowed(id))
        } else {
            Err(FOREIGN_ARN)
        };
    }
    let claude = plain(id)?;
    let own_profile = id
        .split_once(".anthropic.")
        .and_then(|(own, _)| Profile::parse(own));
    let (base, date) = dated(&claude, catalog);
    let exception = DATA.bedrock_ids.get(&*claude);
    let mut cloud = String::with_capacity(64);
    if let Some(profile) = own_profile.or(profile) {
        cloud.push_str(profile.as_str());
        cloud.push('.');
    }
    cloud.push_str("anthropic.");
    match (exception, date) {
        (Some(exception), _) => cloud.push_str(exception),
        (None, Some(date)) => {
            cloud.push_str(base);
            cloud.push('-');
            cloud.push_str(date);
            cloud.push_str("-v1:0");
        }
        (None, None) => cloud.push_str(base),
    }
    Ok(Cow::Owned(cloud))
}

/// Returns the id on Vertex.
pub(super) fn vertex_id(id: &str, catalog: &ModelCatalog) -> Result<String, Unportable> {
    let claude = plain(id)?;
    Ok(match dated(&claude, catalog) {
        (base, Some(date)) => format!("{base}@{date}"),
        (base, None) => base.to_owned(),
    })
}

/// Returns the id on the Claude API. A name that is none of Claude's stays, because a gateway may
/// know it.
pub(super) fn api_id(id: &str) -> Cow<'_, str> {
    plain(id).unwrap_or(Cow::Borrowed(id))
}

/// Returns the Claude API's id, if it is the id of a model and not of a user's profile.
fn plain(id: &str) -> Result<Cow<'_, str>, Unportable> {
    let claude = claude_id(id);
    if claude.starts_with("arn:") {
        return Err(FOREIGN_ARN);
    }
    if is_claude(&claude) {
        Ok(claude)
    } else {
        Err(NO_ID)
    }
}
