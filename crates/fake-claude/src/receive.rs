//! Facts of a request in the shape of its platform.

use std::sync::Arc;

use http::request;

use crate::batches::call;
use crate::cloud;
use crate::config::Config;
use crate::reply::ErrorReply;
use crate::state::Shared;
use crate::validate::{self, MAX_BODY, ValidCall, number};

/// The limits on bodies of the clouds.
const MAX_AWS_BODY: usize = 20 * 1024 * 1024;
const MAX_GOOGLE_BODY: usize = 30 * 1024 * 1024;

/// Returns the greatest length of the body of a request with this path.
pub(crate) fn max_body(config: &Config, path: &str) -> usize {
    match &config.cloud {
        Some(cloud) if cloud.is_aws() => MAX_AWS_BODY,
        Some(_) => MAX_GOOGLE_BODY,
        None if path.trim_end_matches('/').ends_with(call::PATH) => call::MAX_BODY,
        None => MAX_BODY,
    }
}

/// Returns the facts of the request, and an error if it is invalid. `body` is `None` if it was too
/// large.
pub(crate) fn facts(
    shared: &Shared,
    parts: &request::Parts,
    body: Option<&[u8]>,
) -> (ValidCall, Option<ErrorReply>) {
    let mut call = ValidCall {
        tag: parts
            .headers
            .get("x-fake-tag")
            .and_then(|tag| tag.to_str().ok())
            .map(Arc::from),
        retry_count: number(&parts.headers, "x-stainless-retry-count"),
        ..ValidCall::default()
    };
    let checked = match &shared.config.cloud {
        None => validate::check(&shared.config, parts, body, &mut call),
        Some(platform) => cloud::request::check(shared, platform, parts, body, &mut call),
    };
    let problem = checked.err();
    (call, problem)
}
