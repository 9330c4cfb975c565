//! Model ids of the platforms.

use crate::cloud::{CloudKind, FakeCloud};

/// The profiles of Amazon Bedrock, with the beginnings of the regions from which they are called.
const PROFILES: [(&str, &[&str]); 8] = [
    ("us", &["us-", "ca-"]),
    ("eu", &["eu-"]),
    ("apac", &["ap-"]),
    ("jp", &["ap-northeast-"]),
    ("au", &["ap-southeast-"]),
    ("ca", &["ca-"]),
    ("us-gov", &["us-gov-"]),
    ("global", &[""]),
];

/// A model id that the platform does not accept.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum IdError {
    /// The id is not one of the platform's.
    Unknown,
    /// The id needs a profile.
    OnDemand,
}

/// Returns the id of the Claude API for an id of InvokeModel, e.g. `claude-opus-5-5` for
/// `us.anthropic.claude-opus-5-5`.
pub(super) fn invoke(cloud: &FakeCloud, id: &str) -> Result<String, IdError> {
    if let Some((_, model)) = cloud.arns.iter().find(|(arn, _)| arn == id) {
        return Ok(model.clone());
    }
    let mut id = id;
    if id.starts_with("arn:") {
        let parts: Vec<&str> = id.splitn(6, ':').collect();
        let [_, _, "bedrock", region, _, resource] = parts[..] else {
            return Err(IdError::Unknown);
        };
        if region != cloud.location {
            return Err(IdError::Unknown);
        }
        // A foundation model is called on demand, as its bare id is.
        let (kind, name) = resource.split_once('/').ok_or(IdError::Unknown)?;
        if !matches!(kind, "inference-profile" | "foundation-model") {
            return Err(IdError::Unknown);
        }
        id = name;
    }
    let (profile, name) = id.split_once("anthropic.").ok_or(IdError::Unknown)?;
    let Some(profile) = profile.strip_suffix('.') else {
        return match profile {
            "" => Err(IdError::OnDemand),
            _ => Err(IdError::Unknown),
        };
    };
    let regions = PROFILES.iter().find(|(known, _)| *known == profile);
    let (_, regions) = regions.ok_or(IdError::Unknown)?;
    let is_gov = cloud.location.starts_with("us-gov-");
    let has = |start: &&str| cloud.location.starts_with(*start);
    if !regions.iter().any(has) || is_gov != (profile == "us-gov") {
        return Err(IdError::Unknown);
    }
    versionless(name).ok_or(IdError::Unknown)
}

/// Returns the id of the Claude API for an id of Amazon Bedrock's endpoints of the Claude API.
pub(super) fn messages(id: &str) -> Result<String, IdError> {
    let name = id.strip_prefix("anthropic.").ok_or(IdError::Unknown)?;
    versionless(name).ok_or(IdError::Unknown)
}

/// Returns an id without the version that some ids of Amazon Bedrock have: `-v1:0` or `-v1`.
fn versionless(name: &str) -> Option<String> {
    if !name.starts_with("claude-") {
        return None;
    }
    let base = name.split_once(':').map_or(name, |(base, _)| base);
    let base = match base.rsplit_once("-v") {
        Some((head, version)) if is_number(version) => head,
        _ if base != name => return None,
        _ => base,
    };
    Some(base.to_owned())
}

/// Returns the id of the Claude API for an id of Google. Models up to the generation 4.5 have a
/// date: `claude-opus-4-5@20251101`.
pub(super) fn vertex(id: &str) -> Result<String, IdError> {
    let (name, date) = match id.split_once('@') {
        Some((name, date)) => (name, Some(date)),
        None => (id, None),
    };
    if !name.starts_with("claude-") || name.contains(['/', ':']) {
        return Err(IdError::Unknown);
    }
    let is_dated = name
        .rsplit_once('-')
        .is_some_and(|(_, last)| last.len() == 8 && is_number(last));
    let needs_date = generation(name).is_some_and(|generation| generation <= (4, 5));
    match date {
        _ if is_dated => Err(IdError::Unknown),
        Some(date) if date.len() == 8 && is_number(date) => Ok(format!("{name}-{date}")),
        Some("default") => Ok(name.to_owned()),
        None if !needs_date => Ok(name.to_owned()),
        _ => Err(IdError::Unknown),
    }
}

/// Returns the generation of a model by its id: `(5, 5)` of `claude-opus-5-5`.
pub(super) fn generation(id: &str) -> Option<(u32, u32)> {
    let mut parts = id.strip_prefix("claude-")?.split('-').skip(1);
    let number = |part: &str| part.parse().ok().filter(|number| *number < 100);
    let major = parts.next().and_then(number)?;
    Some((major, parts.next().and_then(number).unwrap_or(0)))
}

/// Returns true if the model accepts version 2026-10-21 on Amazon Bedrock, which needs the
/// generation 4.7.
pub(super) fn takes_new_version(id: &str) -> bool {
    generation(id).is_none_or(|generation| generation >= (4, 7))
}

/// Returns the name of the limits that a model takes from.
///
/// On Amazon Bedrock it is the id of the Claude API. On Google it is the lineage, where the limit
/// is one of a lineage, or the base model.
pub(crate) fn group(cloud: &FakeCloud, id: &str) -> String {
    if cloud.kind != CloudKind::Vertex {
        return id.to_owned();
    }
    let is_multi = matches!(cloud.location.as_str(), "global" | "us" | "eu");
    let family = id
        .strip_prefix("claude-")
        .and_then(|id| id.split('-').next());
    let first = match family {
        Some("opus") => (4, 8),
        Some("sonnet" | "fable") => (5, 0),
        Some("haiku") => (5, 5),
        _ => return format!("anthropic-{id}"),
    };
    let is_recent = generation(id).is_some_and(|generation| generation >= first);
    match family {
        Some(family) if is_multi && is_recent => format!("anthropic-claude-{family}"),
        _ => format!("anthropic-{id}"),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
