//! A message of a webhook.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderValue, Method, Request, Uri, header::CONTENT_TYPE};
use serde_json::json;
use tokio::time::Instant;

use super::{super::message::Alert, secret::WebhookSecret};
use crate::{dimension::Dimension, request_body::RequestBody};

/// An alert as JSON, with its id.
#[derive(Clone, Debug)]
pub(super) struct Message {
    id: String,
    body: String,
}

impl Message {
    /// Returns the message about an alert. `now` and `at` are the same time.
    pub(super) fn of(alert: &Alert, now: Instant, at: SystemTime, id: u128) -> Self {
        let held = now.saturating_duration_since(alert.since);
        let since = at.checked_sub(held).unwrap_or(at);
        let kind = match alert.raised {
            true => "alert.raised",
            false => "alert.resolved",
        };
        let body = json!({
            "type": kind,
            "timestamp": date(at),
            "data": {
                "alert": alert.kind.as_str(),
                "severity": alert.kind.severity().as_str(),
                "subject": &*alert.subject,
                "dimension": alert.dimension.map(Dimension::label),
                "value": alert.value,
                "since": date(since),
                "message": alert.message,
                "help": alert.kind.help(),
            },
        });
        Self {
            id: format!("msg_{id:032x}"),
            body: body.to_string(),
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Returns the request of an attempt at this time.
    pub(super) fn request(
        &self,
        to: &Uri,
        secret: &WebhookSecret,
        at: SystemTime,
    ) -> Request<RequestBody> {
        let timestamp = unix(at).as_secs();
        let signature = secret.sign(&self.id, timestamp, &self.body);
        let mut request = Request::new(RequestBody::from(self.body.clone()));
        *request.method_mut() = Method::POST;
        request.uri_mut().clone_from(to);
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("webhook-timestamp", HeaderValue::from(timestamp));
        for (name, text) in [("webhook-id", &self.id), ("webhook-signature", &signature)] {
            // Both are ASCII.
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(name, value);
            }
        }
        request
    }
}

fn unix(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Returns a time as in ISO 8601, in whole seconds.
fn date(at: SystemTime) -> String {
    let seconds = i64::try_from(unix(at).as_secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds)
        .unwrap_or(jiff::Timestamp::MAX)
        .to_string()
}
