//! A client of the Admin API: the limits of an organization, and its usage.

mod error;
mod pages;

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION},
};
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use tokio::time::{sleep, timeout};
use tower_claude::{
    RequestBody,
    core::toolkit::error_text,
    wire::{self, ApiError},
};

pub use self::error::AdminError;
use self::pages::{Pages, encode};
use crate::{
    base_url::base_url,
    connector::{Client, client, roots},
    key_text,
};

/// The greatest size of a response.
const MOST_BYTES: usize = 32 << 20;

/// The longest time of an attempt.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The most attempts for one page.
const MAX_ATTEMPTS: u32 = 5;

/// The longest wait between two attempts. A longer `retry-after` ends the request.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The times that a list is read anew because a cursor has expired.
const MAX_RESTARTS: u32 = 3;

const SPEND_BETA: &str = "spend-limit-reads-2026-09-26";
const USAGE_BETA: &str = "analytics-usage-cost-2026-08-24";

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// A client of the
/// [Admin API](https://platform.claude.com/docs/en/manage-claude/admin-api-overview).
///
/// Each method reads all pages of a list, and returns them as one JSON object with the list `data`,
/// as the API has it. [`wire::admin`] parses limits, and the planner reads usage.
///
/// A request that fails by a 429, a 5xx or an error of the connection is sent again up to four
/// times, after the `retry-after` of the response. The API asks to poll usage at most once a
/// minute.
pub struct AdminClient {
    client: Client,
    url: Uri,
    authorization: HeaderValue,
}

/// The width of the rows of a usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UsageWidth {
    /// A minute, for peaks.
    Minute,
    /// An hour.
    Hour,
    /// A day.
    Day,
}

impl UsageWidth {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "1m",
            Self::Hour => "1h",
            Self::Day => "1d",
        }
    }

    /// Returns the start of the bucket that has this time.
    fn floor(self, time: SystemTime) -> SystemTime {
        let width = match self {
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 24 * 3_600,
        };
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.unwrap_or_default().as_secs();
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds - seconds % width)
    }

    /// Returns the longest period of one request.
    const fn longest_period(self) -> Duration {
        match self {
            Self::Minute => DAY,
            Self::Hour | Self::Day => Duration::from_secs(31 * 24 * 3_600),
        }
    }

    /// Returns the most buckets of a page of the older report.
    const fn most_buckets(self) -> u32 {
        match self {
            Self::Minute => 1_440,
            Self::Hour => 168,
            Self::Day => 31,
        }
    }
}

impl AdminClient {
    /// Creates a client of `https://api.anthropic.com` with an Admin key (`sk-ant-admin…`) or a
    /// token with the scope `org:admin`.
    ///
    /// # Errors
    /// Returns an error if the key cannot be sent, or if TLS cannot be used.
    pub fn new(key: &str) -> Result<Self, AdminError> {
        Self::with_url(key, "https://api.anthropic.com")
    }

    /// Creates a client of another base URL, without `/v1`. A key of Anthropic goes to Anthropic's
    /// hosts by https and to this machine only.
    ///
    /// # Errors
    /// Returns an error if the key or the URL is not valid, or if TLS cannot be used.
    pub fn with_url(key: &str, url: &str) -> Result<Self, AdminError> {
        let invalid = |reason| AdminError::InvalidUrl {
            url: url.to_owned(),
            reason,
        };
        let base = base_url(url).map_err(invalid)?;
        if key_text::is_anthropic_key(key.as_bytes()) && !key_text::may_receive_anthropic_key(&base)
        {
            return Err(invalid("may not receive a key of Anthropic"));
        }
        let authorization = HeaderValue::try_from(format!("Bearer {key}"));
        let mut authorization = authorization
            .ok()
            .filter(|_| !key.is_empty())
            .ok_or(AdminError::InvalidKey)?;
        authorization.set_sensitive(true);
        let roots = roots(None).map_err(AdminError::Tls)?;
        let client = client(true, roots).map_err(|error| AdminError::Tls(error.to_string()))?;
        Ok(Self {
            client,
            url: base,
            authorization,
        })
    }

    /// Reads the rate limits of the organization. See
    /// [`RateLimitEntry`](tower_claude::wire::admin::RateLimitEntry).
    ///
    /// # Errors
    /// Returns the error of the API or of the connection.
    pub async fn rate_limits(&self) -> Result<String, AdminError> {
        self.list("/v1/organizations/rate_limits", "limit=1000", None)
            .await
    }

    /// Reads the rate limits of a workspace that differ from those of the organization. Both apply.
    ///
    /// # Errors
    /// Returns the error of the API or of the connection, or an error for an id with other
    /// characters than letters, digits, `_` and `-`.
    pub async fn workspace_rate_limits(&self, workspace: &str) -> Result<String, AdminError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if workspace.is_empty() || !workspace.bytes().all(is_plain) {
            return Err(AdminError::InvalidWorkspace(workspace.to_owned()));
        }
        let path = format!("/v1/organizations/workspaces/{workspace}/rate_limits");
        self.list(&path, "limit=1000", None).await
    }

    /// Reads the spend limits, among them the cap of the usage tier. See
    /// [`SpendLimitEntry`](tower_claude::wire::admin::SpendLimitEntry). Many organizations have no
    /// access to them.
    ///
    /// # Errors
    /// Returns the error of the API or of the connection.
    pub async fn spend_limits(&self) -> Result<String, AdminError> {
        self.list(
            "/v1/organizations/spend_limits",
            "limit=100",
            Some(SPEND_BETA),
        )
        .await
    }

    /// Reads the usage of a period by model, key, workspace, speed and service tier. It begins with
    /// the bucket that has `since`. Longer periods than the API allows are read in parts, one JSON
    /// object in a line each.
    ///
    /// The Analytics API is asked first, whose rows have the number of requests. Its newest hours
    /// may be missing. An organization without access to it (403 or 404) gets the older usage
    /// report.
    ///
    /// # Errors
    /// Returns the error of the API or of the connection, or an error for an empty period.
    pub async fn usage(
        &self,
        since: SystemTime,
        until: SystemTime,
        width: UsageWidth,
    ) -> Result<String, AdminError> {
        let analytics = self.parts(since, until, width, |period| {
            let groups = groups(&[
                "model",
                "api_key_id",
                "workspace_id",
                "speed",
                "service_tier",
            ]);
            let query = format!(
                "{period}&time_bucket_width={}&order_by=time&order=asc&limit=1000{groups}",
                width.as_str()
            );
            ("/v1/organizations/analytics/usage", query, Some(USAGE_BETA))
        });
        match analytics.await {
            Err(AdminError::Status {
                status: StatusCode::FORBIDDEN | StatusCode::NOT_FOUND,
                ..
            }) => self.usage_report(since, until, width).await,
            result => result,
        }
    }

    /// Reads the older usage report of a period. Its rows have no number of requests. A minute
    /// appears about half an hour after it has ended.
    ///
    /// # Errors
    /// As of [`usage`](Self::usage).
    pub async fn usage_report(
        &self,
        since: SystemTime,
        until: SystemTime,
        width: UsageWidth,
    ) -> Result<String, AdminError> {
        self.parts(since, until, width, |period| {
            let groups = groups(&["model", "api_key_id", "workspace_id", "service_tier"]);
            let (bucket, most) = (width.as_str(), width.most_buckets());
            let query = format!("{period}&bucket_width={bucket}&limit={most}{groups}");
            ("/v1/organizations/usage_report/messages", query, None)
        })
        .await
    }

    /// Reads a list for each part of a period.
    async fn parts(
        &self,
        since: SystemTime,
        until: SystemTime,
        width: UsageWidth,
        request: impl Fn(&str) -> (&'static str, String, Option<&'static str>),
    ) -> Result<String, AdminError> {
        if since >= until {
            return Err(AdminError::InvalidPeriod);
        }
        // Times are sent in whole seconds, and the API rejects an empty part.
        let (until, mut start) = (whole_seconds(until), width.floor(since));
        // The parts meet between two buckets, so that none is in both.
        let mut all = String::new();
        while start < until {
            let end = start.checked_add(width.longest_period());
            let end = end.map_or(until, |end| end.min(until));
            let period = format!("starting_at={}&ending_at={}", stamp(start), stamp(end));
            let (path, query, beta) = request(&period);
            all.push_str(&self.list(path, &query, beta).await?);
            all.push('\n');
            start = end;
        }
        Ok(all)
    }

    /// Reads all pages of a list.
    async fn list(
        &self,
        path: &str,
        query: &str,
        beta: Option<&'static str>,
    ) -> Result<String, AdminError> {
        let mut restarts = 0;
        loop {
            match self.read_pages(path, query, beta).await {
                // The list may have changed, so that its parts would not fit together.
                Err(AdminError::Status {
                    status: StatusCode::GONE,
                    ..
                }) if restarts < MAX_RESTARTS => restarts += 1,
                result => return result,
            }
        }
    }

    async fn read_pages(
        &self,
        path: &str,
        query: &str,
        beta: Option<&'static str>,
    ) -> Result<String, AdminError> {
        let mut pages = Pages::default();
        let mut cursor: Option<String> = None;
        loop {
            let page = match &cursor {
                None => format!("{path}?{query}"),
                Some(cursor) => format!("{path}?{query}&page={}", encode(cursor)),
            };
            let body = self.get(&page, beta).await?;
            match pages.add(&body)? {
                None => return Ok(pages.into_json()),
                next => cursor = next,
            }
        }
    }

    /// Sends a request until it is answered.
    async fn get(&self, target: &str, beta: Option<&'static str>) -> Result<Bytes, AdminError> {
        for attempt in 1.. {
            let error = match timeout(TIMEOUT, self.send(target, beta)).await {
                Ok(Ok(body)) => return Ok(body),
                Ok(Err(error)) => error,
                Err(_) => AdminError::NoResponse {
                    cause: format!("no answer within {} s", TIMEOUT.as_secs()),
                },
            };
            let (is_final, wait) = match &error {
                AdminError::NoResponse { .. } => (false, None),
                AdminError::Status {
                    status,
                    retry_after,
                    ..
                } => (!matches!(status.as_u16(), 408 | 429 | 500..), *retry_after),
                _ => (true, None),
            };
            let backoff =
                Duration::from_secs(1 << attempt.min(5)).mul_f64(0.5 + fastrand::f64() / 2.0);
            let wait = wait.map_or(backoff, |wait| wait.max(Duration::from_secs(1)));
            if is_final || attempt >= MAX_ATTEMPTS || wait > LONGEST_WAIT {
                return Err(error);
            }
            tracing::info!(%error, wait_s = wait.as_secs_f64(), "the Admin API is asked again");
            sleep(wait).await;
        }
        Err(AdminError::TooLarge)
    }

    async fn send(&self, target: &str, beta: Option<&'static str>) -> Result<Bytes, AdminError> {
        let base = self.url.to_string();
        let url = format!("{}{target}", base.trim_end_matches('/'));
        let mut request = Request::get(url)
            .header(AUTHORIZATION, self.authorization.clone())
            .header(ACCEPT, "application/json")
            .header("anthropic-version", "2023-06-01");
        if let Some(beta) = beta {
            request = request.header("anthropic-beta", beta);
        }
        let request = request.body(RequestBody::from(Bytes::new()));
        let request = request.map_err(|error| no_response(&error))?;
        let response = self.client.request(request).await;
        let response: Response<_> = response.map_err(|error| no_response(&error))?;
        let (head, body) = response.into_parts();
        let body = match Limited::new(body, MOST_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return Err(AdminError::TooLarge);
            }
            Err(error) => return Err(no_response(&*error)),
        };
        if head.status.is_success() {
            return Ok(body);
        }
        let now = wire::date(&head.headers).unwrap_or_else(SystemTime::now);
        Err(AdminError::Status {
            status: head.status,
            error: ApiError::parse(&body).map(Box::new),
            retry_after: wire::retry_after(&head.headers, now),
            request_id: wire::request_id(&head.headers).map(str::to_owned),
        })
    }
}

fn no_response(error: &(dyn std::error::Error + 'static)) -> AdminError {
    AdminError::NoResponse {
        cause: error_text(error),
    }
}

/// Returns the parameters that group a usage.
fn groups(names: &[&str]) -> String {
    let parameters = names.iter().map(|name| format!("&group_by%5B%5D={name}"));
    parameters.collect()
}

/// Returns a time, rounded up to the second.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or_default();
    let seconds = since.as_secs() + u64::from(since.subsec_nanos() > 0);
    let rounded = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    rounded.unwrap_or(time)
}

/// Returns a time in RFC 3339, cut to the second.
fn stamp(time: SystemTime) -> String {
    let stamp = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{stamp:.0}")
}

impl fmt::Debug for AdminClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminClient")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}
