//! Checks of a layer. Each takes a closure that makes a fresh layer, and panics if the layer breaks
//! the contract. [`contract!`](crate::contract!) makes a test of each.
//!
//! A layer may send a request again, wait or answer itself. In such a check, the scripted service
//! repeats itself, and the caller must get the same response as without the layer.

mod bodies;
mod borrowed;
mod drops;
mod failures;
mod passage;
mod readiness;
mod requests;
mod sharing;
mod waiting;

pub use bodies::{bodies_without_frames, body_error_comes_through, trailers_come_through};
pub use borrowed::serves_a_borrowed_service;
pub use drops::{body_dropped_at_any_frame, dropped_at_any_poll, stalled_calls_can_be_dropped};
pub use failures::{
    error_responses_come_through, inner_refusals_come_through, service_error_comes_through,
};
pub use passage::{
    compressed_body_is_untouched, request_is_untouched, response_is_untouched,
    streams_are_untouched,
};
pub use readiness::{
    inner_is_readied_inside_the_future, poll_ready_is_always_ready,
    readiness_error_is_the_service_error,
};
pub use requests::{
    buffered_request_is_not_copied, other_request_bodies_come_through,
    request_over_the_limit_streams, request_that_fails_while_read, request_trailers_come_through,
};
pub use sharing::{auto_traits, calls_run_side_by_side, state_is_shared};
pub use waiting::{content_is_not_held_back, sleeping_holds_nothing};

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::{Broken, FrameBody, Received, Script, serve};

/// A layer that can be shared between threads and cloned, as its service can. Its future can move
/// between threads, and its error is the error of the inner service.
pub trait Subject: Layer<Script, Service = Self::Outer> + Clone + Send + Sync + 'static {
    /// The service that the layer makes.
    type Outer: Service<
            Request<FrameBody>,
            Response = Response<Self::Body>,
            Error = Broken,
            Future = Self::Call,
        > + Clone
        + Send
        + Sync
        + 'static;
    /// The future of the service.
    type Call: Future<Output = Result<Response<Self::Body>, Broken>> + Send + 'static;
    /// The response body of the service.
    type Body: Body<Data = Bytes, Error = Broken> + Unpin + Send + 'static;
}

impl<L, S, R> Subject for L
where
    L: Layer<Script, Service = S> + Clone + Send + Sync + 'static,
    S: Service<Request<FrameBody>, Response = Response<R>, Error = Broken>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
    R: Body<Data = Bytes, Error = Broken> + Unpin + Send + 'static,
{
    type Outer = S;
    type Call = S::Future;
    type Body = R;
}

/// Returns the JSON of a new Messages request, which no cache can answer.
pub(crate) fn prompt() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!(
        r#"{{ "model":"claude-sonnet-5-5","max_tokens":64,"x_unknown": {{"b":1,"a":[2.50]}},"messages":[{{"role":"user","content":"{number}"}}]}}"#
    )
}

/// Returns the request of [`prompt`], with a body of known length.
pub(crate) fn request() -> Request<FrameBody> {
    request_of(FrameBody::full(prompt()))
}

pub(crate) fn request_of(body: FrameBody) -> Request<FrameBody> {
    crate::post(crate::BASE, body)
}

/// Sends a request to this script, and reads the response to its end.
pub(crate) async fn answer<L: Subject>(
    layer: &L,
    script: &Script,
    request: Request<FrameBody>,
) -> Result<Received<Broken>, Broken> {
    let service = layer.layer(script.clone());
    let response = serve(&service, request).await?;
    Ok(crate::clock::in_time(Received::read(response)).await)
}

/// Asserts that the layer still serves, and that no earlier call is alive.
pub(crate) async fn still_serves<L: Subject>(layer: &L, after: &str) {
    let script = Script::always(crate::Reply::message());
    let answer = answer(layer, &script, request()).await;
    assert!(
        answer.is_ok_and(|answer| answer.status == 200 && answer.error.is_none()),
        "the layer does not serve the next call after {after}"
    );
    assert_nothing_alive(&script, "a whole call");
}

pub(crate) fn assert_nothing_alive(script: &Script, after: &str) {
    assert_eq!(
        script.alive(),
        0,
        "inner calls or bodies are alive after {after}"
    );
    assert_eq!(
        script.clones_alive(),
        0,
        "clones of the inner service are alive after {after}"
    );
}
