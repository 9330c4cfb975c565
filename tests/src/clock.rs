//! Paused time.

use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use tower::ServiceExt;
use tower_service::Service;

use crate::{Broken, FrameBody};

/// A second.
pub const SECOND: Duration = Duration::from_secs(1);
/// A minute.
pub const MINUTE: Duration = Duration::from_secs(60);
/// An hour.
pub const HOUR: Duration = Duration::from_secs(3_600);

/// Runs a test on one thread in paused time.
///
/// # Panics
/// If the runtime cannot be built.
pub fn paused<F: Future>(test: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(test)
}

/// Runs all tasks that can run without the clock moving.
pub async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

/// Sends a request on a clone of the service, as hyper and axum do.
///
/// # Errors
/// The error of the service.
///
/// # Panics
/// If there is no response within a day. In paused time, this is a deadlock.
pub async fn serve<S, R>(service: &S, request: Request<FrameBody>) -> Result<Response<R>, Broken>
where
    S: Service<Request<FrameBody>, Response = Response<R>, Error = Broken> + Clone,
    R: Body,
{
    in_time(service.clone().oneshot(request)).await
}

/// Returns the output of a future.
///
/// # Panics
/// If a day of paused time passes.
pub(crate) async fn in_time<F: Future>(future: F) -> F::Output {
    match tokio::time::timeout(24 * HOUR, future).await {
        Ok(output) => output,
        Err(_) => panic!("no response within a day: nothing will wake this call"),
    }
}
