//! Request bodies: in memory, so that the layers can read them and send them again, or as streams.

use std::{error::Error, sync::Arc};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tower_claude::RequestBody;
use tower_http::timeout::{TimeoutBody, TimeoutError};

use crate::{config::ServerConfig, gateway_error::GatewayError};

/// The largest frame that is counted at once. tokio counts permits in 32 bits.
const MOST_AT_ONCE: usize = u32::MAX as usize;

/// A body, and its share of the memory for all bodies until it is dropped.
pub(crate) struct BufferedBody {
    pub(crate) bytes: Bytes,
    pub(crate) share: Option<OwnedSemaphorePermit>,
}

/// Reads a body to its end.
///
/// # Errors
/// Returns 413 for a body over the limit, 408 for one that pauses too long, 529 if there is no
/// memory left for it, and 400 for one that breaks off.
pub(crate) async fn read(
    mut body: Body,
    config: &ServerConfig,
    memory: &Arc<Semaphore>,
) -> Result<BufferedBody, GatewayError> {
    let announced = http_body::Body::size_hint(&body).lower();
    if announced > config.body_bytes as u64 {
        return Err(too_large(config));
    }
    let mut share: Option<OwnedSemaphorePermit> = None;
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    // A body whose length is known ends with its last frame. To wait for another one would cost a
    // timer and a wake-up of another thread.
    while !http_body::Body::is_end_stream(&body) {
        let frame = timeout(config.body_timeout, body.frame()).await;
        let frame = frame.map_err(|_| too_slow())?;
        let Some(frame) = frame else {
            break;
        };
        let Ok(data) = frame.map_err(|_| broken())?.into_data() else {
            continue; // Trailers, which are of one connection only.
        };
        if data.len() > config.body_bytes - (first.len() + joined.len()) {
            return Err(too_large(config));
        }
        let permits = u32::try_from(data.len().min(MOST_AT_ONCE)).unwrap_or(u32::MAX);
        let permit = memory.clone().try_acquire_many_owned(permits);
        let permit = permit.map_err(|_| no_memory())?;
        match &mut share {
            Some(share) => share.merge(permit),
            None => share = Some(permit),
        }
        // Most bodies are one frame, which needs no copy.
        if first.is_empty() && joined.is_empty() {
            first = data;
        } else {
            if joined.is_empty() {
                joined.extend_from_slice(&std::mem::take(&mut first));
            }
            joined.extend_from_slice(&data);
        }
    }
    let bytes = if joined.is_empty() {
        first
    } else {
        joined.freeze()
    };
    Ok(BufferedBody { bytes, share })
}

/// Returns a body that passes as a stream. It fails if it pauses too long.
pub(crate) fn stream(body: Body, config: &ServerConfig) -> RequestBody {
    RequestBody::new(TimeoutBody::new(config.body_timeout, Box::pin(body)))
}

/// Returns true if a client's call failed because the body of its request paused too long.
pub(crate) fn is_stalled(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<TimeoutError>() {
            return true;
        }
        next = error.source();
    }
    false
}

fn too_large(config: &ServerConfig) -> GatewayError {
    let message = format!(
        "the request body is longer than {} bytes",
        config.body_bytes
    );
    GatewayError::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
}

pub(crate) fn too_slow() -> GatewayError {
    let message = "the request body did not arrive in time";
    GatewayError::new(StatusCode::REQUEST_TIMEOUT, "timeout_error", message)
}

fn broken() -> GatewayError {
    let message = "the request body could not be read to its end";
    GatewayError::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
}

fn no_memory() -> GatewayError {
    let status = StatusCode::from_u16(529).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let message = "the gateway holds too many request bodies";
    GatewayError::new(status, "overloaded_error", message)
        .with_retry_after(std::time::Duration::from_secs(1))
}
