//! Headers of requests.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT},
};
use tower_claude_wire::cloud::{Loss, Losses, Unportable};

use super::{
    facts::{BETA, USER_PROFILE, VERSION},
    target_kind::TargetKind,
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("application/vnd.amazon.eventstream");
const BEDROCK: &str = "x-amzn-bedrock-";
const GUARDRAIL: &str = "x-amzn-bedrock-guardrail";

/// Returns the headers for the Claude API: all but those of the connection, which the client sets.
pub(super) fn for_claude_api(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    headers.remove(HOST);
    headers.remove(CONTENT_LENGTH);
    headers
}

/// Returns the headers for a cloud. They start from nothing: what is not known is not sent.
pub(super) fn for_cloud(
    headers: &HeaderMap,
    target_kind: TargetKind,
    stream: bool,
    losses: &mut Losses,
) -> Result<HeaderMap, Unportable> {
    let mut sent = HeaderMap::with_capacity(8);
    sent.insert(CONTENT_TYPE, JSON);
    if let Some(agent) = headers.get(USER_AGENT) {
        sent.insert(USER_AGENT, agent.clone());
    }
    match (target_kind, headers.get(ACCEPT)) {
        (TargetKind::InvokeModel, _) => {
            sent.insert(ACCEPT, if stream { EVENT_STREAM } else { JSON });
        }
        (_, Some(accept)) => {
            sent.insert(ACCEPT, accept.clone());
        }
        _ => {}
    }
    for (name, value) in headers {
        let text = name.as_str();
        if text.starts_with(BEDROCK) {
            if target_kind == TargetKind::InvokeModel {
                sent.append(name.clone(), value.clone());
            } else if text.starts_with(GUARDRAIL) {
                // Other endpoints ignore it, and would answer without the guardrail.
                let why = "only InvokeModel applies guardrails";
                return Err(Unportable::new("x-amzn-bedrock-guardrail", why));
            } else {
                losses.push(Loss::Header(text.into()));
            }
        } else if is_of_the_api(name) {
            losses.push(Loss::Header(text.into()));
        }
    }
    Ok(sent)
}

/// Returns true for a header of the Claude API that has a meaning for the request and no place at
/// a cloud.
fn is_of_the_api(name: &HeaderName) -> bool {
    let elsewhere = [&BETA, &VERSION, &USER_PROFILE].contains(&name);
    name.as_str().starts_with("anthropic-")
        && !elsewhere
        // A permission for browsers, which means nothing to a server.
        && name.as_str() != "anthropic-dangerous-direct-browser-access"
}

/// Writes the facts that a dialect has in headers. An empty version is left out.
pub(super) fn set_facts(
    headers: &mut HeaderMap,
    betas: &[Cow<'_, str>],
    version: &str,
    user_profile: Option<&str>,
) {
    let mut set = |name: HeaderName, text: &str| {
        headers.remove(&name);
        if let Ok(value) = HeaderValue::from_str(text)
            && !text.is_empty()
        {
            headers.insert(name, value);
        }
    };
    set(BETA, &betas.join(","));
    set(VERSION, version);
    set(USER_PROFILE, user_profile.unwrap_or_default());
}
