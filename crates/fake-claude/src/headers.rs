//! The headers of every response.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{DATE, HeaderMap, HeaderName, HeaderValue};

use crate::config::{HeaderFamily, Platform};
use crate::model::{GaugeSet, Reading};

const ORGANIZATION: HeaderValue = HeaderValue::from_static("00000000-0000-4000-8000-000000000000");
const WORKSPACE: HeaderValue = HeaderValue::from_static("wrkspc_01FakeWorkspace");

/// Names of the three headers of one limit.
struct HeaderNameSet([HeaderName; 3]);

macro_rules! names {
    ($prefix:literal) => {
        HeaderNameSet([
            HeaderName::from_static(concat!($prefix, "-limit")),
            HeaderName::from_static(concat!($prefix, "-remaining")),
            HeaderName::from_static(concat!($prefix, "-reset")),
        ])
    };
}

static REQUESTS: HeaderNameSet = names!("anthropic-ratelimit-requests");
static TOKENS: HeaderNameSet = names!("anthropic-ratelimit-tokens");
static INPUT: HeaderNameSet = names!("anthropic-ratelimit-input-tokens");
static OUTPUT: HeaderNameSet = names!("anthropic-ratelimit-output-tokens");
static FAST_INPUT: HeaderNameSet = names!("anthropic-fast-input-tokens");
static FAST_OUTPUT: HeaderNameSet = names!("anthropic-fast-output-tokens");
static PRIORITY_INPUT: HeaderNameSet = names!("anthropic-priority-input-tokens");
static PRIORITY_OUTPUT: HeaderNameSet = names!("anthropic-priority-output-tokens");

/// Kind of limits that the headers report.
#[derive(Clone, Copy)]
pub(crate) enum PoolKind {
    /// Limits of a model group.
    Standard,
    /// Limits of `speed: "fast"`.
    Fast,
    /// Limits with requests only.
    RequestsOnly,
}

/// Levels for the headers, read at one time.
#[derive(Clone, Copy)]
pub(crate) struct Snapshot {
    pub(crate) kind: PoolKind,
    pub(crate) gauges: GaugeSet,
    pub(crate) priority: Option<GaugeSet>,
    pub(crate) wall: SystemTime,
}

/// Adds `request-id`, the platform's own request id, `date`, the organization and, for a valid
/// credential, the workspace.
pub(crate) fn identity(
    headers: &mut HeaderMap,
    platform: Platform,
    request_id: &str,
    wall: SystemTime,
    authenticated: bool,
) {
    headers.reserve(24);
    if let Ok(value) = HeaderValue::from_str(request_id) {
        let own = match platform {
            Platform::Claude | Platform::Vertex => None,
            Platform::Aws | Platform::Bedrock => Some("x-amzn-requestid"),
            Platform::Foundry => Some("apim-request-id"),
        };
        if let Some(name) = own {
            headers.insert(name, value.clone());
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

/// Adds the rate-limit headers.
pub(crate) fn rate_limits(headers: &mut HeaderMap, family: HeaderFamily, snapshot: &Snapshot) {
    let wall = snapshot.wall;
    let mut put = |names: &HeaderNameSet, (reading, remaining): (Reading, u64)| {
        let [limit_name, remaining_name, reset_name] = &names.0;
        headers.insert(limit_name, HeaderValue::from(reading.limit));
        headers.insert(remaining_name, HeaderValue::from(remaining));
        headers.insert(reset_name, reset(wall, reading.full_in));
    };
    let tokens = |reading: Reading| (reading, reading.remaining_rounded());
    let requests = snapshot.gauges.requests;
    let (input, output) = (snapshot.gauges.input_tokens, snapshot.gauges.output_tokens);
    match (snapshot.kind, family) {
        (_, HeaderFamily::None) => return,
        (PoolKind::Fast, _) => {
            put(&FAST_INPUT, tokens(input));
            put(&FAST_OUTPUT, tokens(output));
            return;
        }
        _ => put(&REQUESTS, (requests, requests.remaining())),
    }
    match (snapshot.kind, family) {
        (PoolKind::RequestsOnly, _) => return,
        (_, HeaderFamily::RequestsAndTokensOnly) => put(&TOKENS, tokens(tightest(input, output))),
        _ => {
            put(&INPUT, tokens(input));
            put(&OUTPUT, tokens(output));
            let sum = Reading {
                limit: input.limit.saturating_add(output.limit),
                full_in: input.full_in.max(output.full_in),
                ..input
            };
            let remaining = [input, output].map(|reading| reading.remaining_rounded());
            put(&TOKENS, (sum, remaining[0].saturating_add(remaining[1])));
        }
    }
    if let Some(priority) = snapshot.priority {
        put(&PRIORITY_INPUT, tokens(priority.input_tokens));
        put(&PRIORITY_OUTPUT, tokens(priority.output_tokens));
    }
}

/// Returns the bucket with the smaller remaining share of its limit.
fn tightest(a: Reading, b: Reading) -> Reading {
    let share = |of: Reading, other: Reading| u128::from(of.remaining()) * u128::from(other.limit);
    if share(b, a) < share(a, b) { b } else { a }
}

/// Returns the time at which the bucket is full, as RFC 3339 in whole seconds. It is rounded up, so
/// that the bucket is really full then, but not for a bucket that is already full.
fn reset(wall: SystemTime, full_in: Duration) -> HeaderValue {
    let full = wall.checked_add(full_in).unwrap_or(wall);
    let since = full.duration_since(UNIX_EPOCH).unwrap_or_default();
    let up = u64::from(!full_in.is_zero() && since.subsec_nanos() > 0);
    let seconds = i64::try_from(since.as_secs() + up).unwrap_or(i64::MAX);
    let timestamp = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
    HeaderValue::try_from(timestamp.to_string())
        .unwrap_or(HeaderValue::from_static("9999-12-30T22:00:00Z"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::reset;

    #[test]
    fn reset_is_rounded_up_unless_full_already() {
        let cases = [
            // Wall clock and time to full in milliseconds, second shown.
            (1_500, 0, "1970-01-01T00:00:01Z"),
            (1_500, 1, "1970-01-01T00:00:02Z"),
            (1_500, 500, "1970-01-01T00:00:02Z"),
            (1_500, 60_000, "1970-01-01T00:01:02Z"),
            (1_000, 1_000, "1970-01-01T00:00:02Z"),
        ];
        for (wall, full_in, shown) in cases {
            let wall = UNIX_EPOCH + Duration::from_millis(wall);
            assert_eq!(reset(wall, Duration::from_millis(full_in)), shown);
        }
    }

    #[test]
    fn reset_in_the_far_future_is_a_valid_timestamp() {
        let shown = reset(UNIX_EPOCH, Duration::from_nanos(u64::MAX));
        assert!(shown.to_str().unwrap().ends_with('Z'));
    }
}
