//! The responses of the Admin API: rate limits, spend limits and usage.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, Response, StatusCode, request};
use serde_json::{Value, json};
use tower_claude_wire::{ApiError, ModelCatalog};

use crate::admin::AdminApi;
use crate::body::FakeBody;
use crate::fake::FakeClaude;
use crate::log::{Attempt, Endpoint};
use crate::reply::ErrorReply;

/// The prefix of the paths of the Admin API.
pub(crate) const PREFIX: &str = "/v1/organizations/";

const SPEND_BETA: &str = "spend-limit-reads-2026-09-26";
const USAGE_BETA: &str = "analytics-usage-cost-2026-08-24";

const DAY: u64 = 24 * 3_600;

impl AdminApi {
    /// Answers a request.
    pub(crate) fn respond(&self, fake: &FakeClaude, parts: &request::Parts) -> Response<FakeBody> {
        let target = parts.uri.path_and_query();
        let target = target.map_or("", |target| target.as_str()).to_owned();
        let failure = {
            let mut state = self.state();
            state.requests.push(target);
            state.failures.pop_front()
        };
        if let Some((status, retry_after)) = failure {
            let kind = if status.as_u16() == 429 {
                "rate_limit_error"
            } else {
                "api_error"
            };
            return refuse(status, kind, "a scripted failure", retry_after);
        }
        match self.answer(fake, parts) {
            Ok(json) => response(StatusCode::OK, json.to_string()),
            Err(reply) => refuse(reply.status, reply.kind, &reply.message, None),
        }
    }

    fn answer(&self, fake: &FakeClaude, parts: &request::Parts) -> Result<Value, ErrorReply> {
        if !self.is_authorized(parts) {
            let message = "invalid x-api-key";
            return Err(ErrorReply::new(401, "authentication_error", message));
        }
        let path = parts.uri.path().trim_end_matches('/');
        let path = path.strip_prefix(PREFIX).unwrap_or_default();
        if parts.method != Method::GET {
            let message = "this endpoint takes GET only";
            return Err(ErrorReply::new(405, "invalid_request_error", message));
        }
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let has_beta = |beta| {
            parts
                .headers
                .get("anthropic-beta")
                .is_some_and(|given| given == beta)
        };
        let workspace = path.strip_prefix("workspaces/");
        let workspace = workspace.and_then(|rest| rest.strip_suffix("/rate_limits"));
        if let Some(workspace) = workspace {
            return query.page(self.workspace_limits(fake, workspace), 1_000);
        }
        match path {
            "rate_limits" => {
                let entries = rate_limits(fake, &query);
                if entries.is_empty() && query.get("model").is_some() {
                    return Err(ErrorReply::not_found("no rate limit for this model"));
                }
                query.page(entries, 1_000)
            }
            "spend_limits" if has_beta(SPEND_BETA) => query.page(vec![self.spend_limit()], 20),
            "analytics/usage" if has_beta(USAGE_BETA) && self.state().has_analytics => {
                let rows = usage(fake, &Period::parse(&query, "time_bucket_width")?);
                let mut page = query.page(rows, 20)?;
                page["data_refreshed_at"] = stamp(SystemTime::now()).into();
                Ok(page)
            }
            "usage_report/messages" => {
                let rows = usage(fake, &Period::parse(&query, "bucket_width")?);
                query.page(rows.into_iter().map(report).collect(), 60)
            }
            _ => Err(ErrorReply::not_found("Not found")),
        }
    }

    fn is_authorized(&self, parts: &request::Parts) -> bool {
        let text = |name| {
            parts
                .headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        let bearer = text(AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "));
        bearer.or_else(|| text("x-api-key")) == Some(&*self.key)
    }

    fn spend_limit(&self) -> Value {
        json!({
            "type": "spend_limit",
            "id": "spl_fake",
            "scope": {"type": "usage_tier"},
            "amount": self.state().cap_cents.to_string(),
            "currency": "USD",
            "period": "monthly",
            "is_enabled": true,
        })
    }

    fn workspace_limits(&self, fake: &FakeClaude, workspace: &str) -> Vec<Value> {
        let state = self.state();
        let groups = state.workspaces.get(workspace).into_iter().flatten();
        let entry = |(group, limits): (&String, &BTreeMap<String, u64>)| {
            let limits = limits.iter().map(|(kind, value)| {
                json!({"type": kind, "value": value, "org_limit": null,
                    "source": {"type": "workspace"}})
            });
            json!({
                "type": "workspace_rate_limit",
                "rate_limit_id": format!("rl_{group}"),
                "workspace_id": workspace,
                "group": group_of(group),
                "models": models_of(&fake.shared.config.catalog, group),
                "limits": limits.collect::<Vec<_>>(),
            })
        };
        groups.map(entry).collect()
    }
}

fn group_of(group: &str) -> Value {
    json!({"type": "model_group", "id": format!("rlg_{group}"), "display_name": group})
}

fn models_of(catalog: &ModelCatalog, group: &str) -> Vec<String> {
    let models = catalog.models().filter(|model| &*model.rate_group == group);
    let mut models: Vec<_> = models.map(|model| model.id.to_string()).collect();
    models.sort();
    models
}

fn rate_limits(fake: &FakeClaude, query: &Query) -> Vec<Value> {
    let catalog = &fake.shared.config.catalog;
    let wanted = query
        .get("model")
        .map(|model| catalog.lookup(model).rate_group);
    if query
        .get("group_type")
        .is_some_and(|kind| kind != "model_group")
    {
        return Vec::new();
    }
    let groups: BTreeSet<_> = catalog
        .models()
        .map(|model| model.rate_group.clone())
        .collect();
    let groups = groups
        .into_iter()
        .filter(|group| !group.is_empty() && wanted.as_ref().is_none_or(|wanted| wanted == group));
    let entry = |group: Arc<str>| {
        let limits = fake.gauges(&group);
        json!({
            "type": "rate_limit",
            "id": format!("rl_{group}"),
            "group": group_of(&group),
            "models": models_of(catalog, &group),
            "limits": [
                {"type": "requests_per_minute", "value": limits.requests.limit},
                {"type": "input_tokens_per_minute_cache_aware", "value": limits.input_tokens.limit},
                {"type": "output_tokens_per_minute", "value": limits.output_tokens.limit},
            ],
        })
    };
    groups.map(entry).collect()
}

/// The period of a usage, and the length of its buckets, in Unix seconds.
struct Period {
    start: u64,
    end: u64,
    width: u64,
}

impl Period {
    fn parse(query: &Query, width: &str) -> Result<Self, ErrorReply> {
        let time = |name: &str| {
            let text = query.get(name).unwrap_or_default();
            let time = text.parse::<jiff::Timestamp>().ok();
            let seconds = time.and_then(|time| u64::try_from(time.as_second()).ok());
            seconds.ok_or_else(|| ErrorReply::invalid(format!("{name}: a time is required")))
        };
        let (width, longest) = match query.get(width) {
            Some("1m") => (60, DAY),
            Some("1h") => (3_600, 31 * DAY),
            Some("1d") => (DAY, 31 * DAY),
            _ => {
                return Err(ErrorReply::invalid(format!(
                    "{width}: 1m, 1h or 1d is required"
                )));
            }
        };
        let (start, end) = (time("starting_at")?, time("ending_at")?);
        if end <= start || end - start > longest {
            return Err(ErrorReply::invalid("the range is empty or too long"));
        }
        Ok(Self { start, end, width })
    }
}

/// Returns the rows of a period, the oldest first.
fn usage(fake: &FakeClaude, period: &Period) -> Vec<Value> {
    let now = fake.shared.now();
    let start = now.wall.checked_sub(now.since_start());
    let start = start.unwrap_or(SystemTime::UNIX_EPOCH);
    let mut buckets: BTreeMap<(u64, Arc<str>), [u64; 5]> = BTreeMap::new();
    let is_counted = |attempt: &&Attempt| {
        attempt.endpoint == Endpoint::Messages && attempt.charged_input + attempt.cache_read > 0
    };
    for attempt in fake.log().iter().filter(is_counted) {
        let at = (start + attempt.at).duration_since(SystemTime::UNIX_EPOCH);
        let at = at.unwrap_or_default().as_secs();
        let bucket = at - at % period.width;
        if bucket + period.width <= period.start || bucket >= period.end {
            continue;
        }
        let counts = buckets.entry((bucket, attempt.model.clone())).or_default();
        let uncached = attempt.charged_input.saturating_sub(attempt.cache_creation);
        let add = [
            1,
            uncached,
            attempt.cache_read,
            attempt.cache_creation,
            attempt.charged_output,
        ];
        for (count, add) in counts.iter_mut().zip(add) {
            *count += add;
        }
    }
    let row = |((at, model), counts): ((u64, Arc<str>), [u64; 5])| {
        let [requests, input, read, written, output] = counts;
        let time = |seconds| stamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        json!({
            "starting_at": time(at),
            "ending_at": time(at + period.width),
            "group": {"model": &*model, "service_tier": "standard", "speed": "standard"},
            "usage": {
                "requests": requests,
                "total_tokens": input + read + written + output,
                "uncached_input_tokens": input,
                "cache_read_input_tokens": read,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0,
                },
                "output_tokens": output,
            },
        })
    };
    buckets.into_iter().map(row).collect()
}

/// Returns a row in the form of the older report.
fn report(mut row: Value) -> Value {
    let mut result = row["usage"].take();
    result["model"] = row["group"]["model"].take();
    json!({
        "starting_at": row["starting_at"].take(),
        "ending_at": row["ending_at"].take(),
        "results": [result],
    })
}

fn stamp(time: SystemTime) -> String {
    let stamp = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{stamp:.0}")
}

/// The parameters of a query.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        Self(
            pairs
                .map(|(name, value)| (decode(name), decode(value)))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(given, _)| given == name);
        found.map(|(_, value)| &**value)
    }

    /// Returns the page that is asked for.
    fn page(&self, entries: Vec<Value>, default: usize) -> Result<Value, ErrorReply> {
        let number = |name: &str| match self.get(name) {
            None => Ok(None),
            Some(text) => {
                let digits = text.strip_prefix("page_").unwrap_or(text);
                let number = digits.parse::<usize>().map(Some);
                number.map_err(|_| ErrorReply::invalid(format!("{name}: not valid")))
            }
        };
        let limit = number("limit")?.unwrap_or(default);
        if limit == 0 || limit > 1_440 {
            return Err(ErrorReply::invalid("limit: out of range"));
        }
        let start = number("page")?.unwrap_or(0);
        let count = entries.len();
        let data: Vec<_> = entries.into_iter().skip(start).take(limit).collect();
        let next = start.saturating_add(limit);
        let next_page = (next < count).then(|| format!("page_{next}"));
        Ok(json!({"data": data, "has_more": next_page.is_some(), "next_page": next_page}))
    }
}

/// Decodes the percent-encoding of a query.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let digits = bytes
            .get(at + 1..at + 3)
            .and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = digits.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], byte) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn refuse(
    status: StatusCode,
    kind: &str,
    message: &str,
    retry_after: Option<u64>,
) -> Response<FakeBody> {
    let body = ApiError::body(kind, message, Some("req_admin"));
    let mut response = response(status, body);
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn response(status: StatusCode, json: String) -> Response<FakeBody> {
    let mut response = Response::new(FakeBody::full(json));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("request-id", HeaderValue::from_static("req_admin"));
    response
}
