//! Streams whose head is sent before the upstream has answered.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use futures_util::{FutureExt, StreamExt, stream};
use http::{HeaderValue, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Limited};
use tokio::time::timeout;
use tower_claude::wire::{ApiError, is_event_stream};

use crate::{gateway_error::GatewayError, sse::PING};

/// The greatest size of an error that becomes an event. Those of the API have some 200 bytes.
const GREATEST: usize = 64 << 10;

/// Returns the response to a call for a stream.
///
/// If there is none after `time`, it returns the head of a stream with a `ping` event. What comes
/// later follows within the stream, and a failure as an `error` event.
pub(crate) async fn answer(
    call: impl Future<Output = Result<Response, GatewayError>> + Send + 'static,
    time: Duration,
    request_id: String,
) -> Result<Response, GatewayError> {
    let mut call = call.boxed();
    if let Ok(answered) = timeout(time, &mut call).await {
        return answered;
    }
    let ping = stream::iter([Ok(Bytes::from_static(PING.as_bytes()))]);
    let later = stream::once(async move {
        let answered = call.await;
        let response = answered.unwrap_or_else(|error| error.into_response(&request_id));
        if response.status().is_success() && is_event_stream(response.headers()) {
            return response.into_body().into_data_stream().left_stream();
        }
        let event = error_event(response).await;
        stream::iter([Ok(Bytes::from(event))]).right_stream()
    });
    let mut response = Response::new(Body::from_stream(ping.chain(later.flatten())));
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// Returns a response without a stream as an `error` event.
async fn error_event(response: Response) -> String {
    let is_failure = !response.status().is_success();
    let body = Limited::new(response.into_body(), GREATEST).collect().await;
    let text = body.ok().map(http_body_util::Collected::to_bytes);
    let is_object = |text: &Bytes| {
        serde_json::from_slice::<serde_json::Map<_, serde_json::Value>>(text).is_ok()
    };
    let text = match text {
        // A line break would end the event.
        Some(text) if is_failure && is_object(&text) => {
            String::from_utf8_lossy(&text).replace(['\r', '\n'], " ")
        }
        _ => ApiError::body("api_error", "the upstream sent no stream", None),
    };
    format!("event: error\ndata: {text}\n\n")
}
