//! The headers of every answer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{DATE, HeaderMap, HeaderName, HeaderValue};

use crate::builder::{HeaderFamily, Platform};
use crate::model::{Gauges, Reading};

const ORGANIZATION: HeaderValue = HeaderValue::from_static("00000000-0000-4000-8000-000000000000");
const WORKSPACE: HeaderValue = HeaderValue::from_static("wrkspc_01FakeWorkspace");

/// Names of one gauge's three headers.
struct Names([HeaderName; 3]);

macro_rules! names {
    ($prefix:literal) => {
        Names([
            HeaderName::from_static(concat!($prefix, "-limit")),
            HeaderName::from_static(concat!($prefix, "-remaining")),
            HeaderName::from_static(concat!($prefix, "-reset")),
        ])
    };
}

static REQUESTS: Names = names!("anthropic-ratelimit-requests");
static TOKENS: Names = names!("anthropic-ratelimit-tokens");
static INPUT: Names = names!("anthropic-ratelimit-input-tokens");
static OUTPUT: Names = names!("anthropic-ratelimit-output-tokens");
static FAST_INPUT: Names = names!("anthropic-fast-input-tokens");
static FAST_OUTPUT: Names = names!("anthropic-fast-output-tokens");
static PRIORITY_INPUT: Names = names!("anthropic-priority-input-tokens");
static PRIORITY_OUTPUT: Names = names!("anthropic-priority-output-tokens");

/// Whose levels the headers show.
#[derive(Clone, Copy)]
pub(crate) enum Pool {
    /// A model group.
    Standard,
    /// The pool of `speed: "fast"`.
    Fast,
    /// Requests alone.
    RequestsOnly,
}

/// Levels to show, read at one instant.
#[derive(Clone, Copy)]
pub(crate) struct Snapshot {
    pub(crate) pool: Pool,
    pub(crate) gauges: Gauges,
    pub(crate) priority: Option<Gauges>,
    pub(crate) wall: SystemTime,
}

/// `request-id` and the platform's own, `date`, organization and, unless the credential was refused, workspace.
pub(crate) fn identity(
    headers: &mut HeaderMap,
    platform: Platform,
    request_id: &str,
    wall: SystemTime,
    authenticated: bool,
) {
    headers.reserve(24);
    if let Ok(value) = HeaderValue::from_str(request_id) {
        match platform {
            Platform::Claude => {}
            Platform::Aws => drop(headers.insert("x-amzn-requestid", value.clone())),
            Platform::Foundry => drop(headers.insert("apim-request-id", value.clone())),
        }
        headers.insert("request-id", value);
    }
    if let Ok(value) = HeaderValue::try_from(httpdate::fmt_http_date(wall)) {
        headers.insert(DATE, value);
    }
    headers.insert("anthropic-organization-id", ORGANIZATION);
    if authenticated {
        headers.insert("anthropic-workspace-id", WORKSPACE);
    }
}

/// The rate-limit headers.
pub(crate) fn rate_limits(headers: &mut HeaderMap, family: HeaderFamily, snapshot: &Snapshot) {
    let Snapshot {
        pool,
        gauges,
        priority,
        wall,
    } = *snapshot;
    let mut put = |names: &Names, limit, remaining, full_in| {
        insert(headers, names, limit, remaining, reset(wall, full_in));
    };
    let requests = gauges.requests;
    let (input, output) = (gauges.input_tokens, gauges.output_tokens);
    if family == HeaderFamily::None {
        return;
    }
    if let Pool::Fast = pool {
        put(
            &FAST_INPUT,
            input.limit,
            input.remaining_rounded(),
            input.full_in,
        );
        put(
            &FAST_OUTPUT,
            output.limit,
            output.remaining_rounded(),
            output.full_in,
        );
        return;
    }
    put(
        &REQUESTS,
        requests.limit,
        requests.remaining(),
        requests.full_in,
    );
    match (pool, family) {
        (Pool::RequestsOnly, _) => return,
        (_, HeaderFamily::RequestsAndTokensOnly) => {
            let tight = tightest(input, output);
            put(
                &TOKENS,
                tight.limit,
                tight.remaining_rounded(),
                tight.full_in,
            );
        }
        _ => {
            put(
                &INPUT,
                input.limit,
                input.remaining_rounded(),
                input.full_in,
            );
            put(
                &OUTPUT,
                output.limit,
                output.remaining_rounded(),
                output.full_in,
            );
            let limit = input.limit.saturating_add(output.limit);
            let remaining = input
                .remaining_rounded()
                .saturating_add(output.remaining_rounded());
            put(&TOKENS, limit, remaining, input.full_in.max(output.full_in));
        }
    }
    if let Some(Gauges {
        input_tokens,
        output_tokens,
        ..
    }) = priority
    {
        let (input, output) = (input_tokens, output_tokens);
        put(
            &PRIORITY_INPUT,
            input.limit,
            input.remaining_rounded(),
            input.full_in,
        );
        put(
            &PRIORITY_OUTPUT,
            output.limit,
            output.remaining_rounded(),
            output.full_in,
        );
    }
}

/// The bucket with the smaller share of its limit left.
fn tightest(a: Reading, b: Reading) -> Reading {
    let share = |of: Reading, other: Reading| u128::from(of.remaining()) * u128::from(other.limit);
    if share(b, a) < share(a, b) { b } else { a }
}

fn insert(headers: &mut HeaderMap, names: &Names, limit: u64, remaining: u64, reset: HeaderValue) {
    let [limit_name, remaining_name, reset_name] = &names.0;
    headers.insert(limit_name, HeaderValue::from(limit));
    headers.insert(remaining_name, HeaderValue::from(remaining));
    headers.insert(reset_name, reset);
}

/// RFC 3339 in whole seconds: the second in which the bucket is full, rounded up so that it really is; the current
/// second for one that is full already.
fn reset(wall: SystemTime, full_in: Duration) -> HeaderValue {
    let full = wall.checked_add(full_in).unwrap_or(wall);
    let since = full.duration_since(UNIX_EPOCH).unwrap_or_default();
    let up = u64::from(!full_in.is_zero() && since.subsec_nanos() > 0);
    let seconds = i64::try_from(since.as_secs() + up).unwrap_or(i64::MAX);
    let stamp = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
    HeaderValue::try_from(stamp.to_string())
        .unwrap_or(HeaderValue::from_static("9999-12-30T22:00:00Z"))
}

#[cfg(test)]
mod tests;
