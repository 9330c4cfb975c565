//! Running calls in paused time.

use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use tower::ServiceExt;
use tower_service::Service;

use crate::{Broken, FrameBody};

/// Runs a test on one thread in paused time.
///
/// # Panics
/// When no runtime can be made.
pub fn paused<F: Future>(test: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(test)
}

/// Serves one request on a clone of the service, as hyper and axum do.
///
/// # Errors
/// The service's.
///
/// # Panics
/// When a day passes without an answer: in paused time, that is a deadlock.
pub async fn serve<S, R>(service: &S, request: Request<FrameBody>) -> Result<Response<R>, Broken>
where
    S: Service<Request<FrameBody>, Response = Response<R>, Error = Broken> + Clone,
    R: Body,
{
    in_time(service.clone().oneshot(request)).await
}

/// Panics when a day of paused time passes.
pub(crate) async fn in_time<F: Future>(future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(24 * 3600), future).await {
        Ok(output) => output,
        Err(_) => panic!("no answer within a day: nothing will wake this call"),
    }
}
