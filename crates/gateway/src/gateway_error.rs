//! The errors that the gateway itself answers with, in the API's own shape.

use std::{borrow::Cow, time::Duration};

use axum::{body::Body, response::Response};
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use tower_claude::{core::REJECTED_BY, wire::ApiError};

/// A request that the gateway answers with an error.
#[derive(Debug)]
pub(crate) struct GatewayError {
    status: StatusCode,
    /// The `error.type`.
    kind: &'static str,
    message: Cow<'static, str>,
    retry_after: Option<Duration>,
}

impl GatewayError {
    pub(crate) fn new(
        status: StatusCode,
        kind: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            kind,
            message: message.into(),
            retry_after: None,
        }
    }

    pub(crate) fn unauthorized(message: &'static str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message)
    }

    pub(crate) fn not_found(message: String) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found_error", message)
    }

    /// Sets the time after which another attempt makes sense.
    pub(crate) const fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Returns the response with this id of the request.
    pub(crate) fn into_response(self, request_id: &str) -> Response {
        tracing::debug!(status = self.status.as_u16(), reason = %self.message, "request refused");
        let text = ApiError::body(self.kind, &self.message, Some(request_id));
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(REJECTED_BY, HeaderValue::from_static("gateway"));
        if let Some(wait) = self.retry_after {
            // Rounded up, so that nothing is sent too early.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}
