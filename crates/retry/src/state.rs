//! Where a call is.

use http::response::Parts;
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_claude_core::{ErrorBody, Hold, Rejection};

pin_project! {
    #[project = StateProjection]
    pub(crate) enum State<S, F, R, E>
    where
        R: HttpBody,
    {
        /// Until the inner service is ready.
        Waiting { service: S },
        /// Until the response head.
        Calling { #[pin] future: F },
        /// Until the error body is read.
        Reading { answer: Option<Box<(Parts, ErrorBody<R>)>> },
        /// Until the response is worth handing on.
        Holding { answer: Option<Box<(Parts, Hold<R>)>> },
        /// Between two attempts. Nothing is held.
        Sleeping { until: Instant },
        /// The first attempt was not made: too late, or the inner service cannot become ready.
        Over { output: Option<Result<Box<Rejection>, E>> },
        Done,
    }
}

impl<S, F, R: HttpBody, E> State<S, F, R, E> {
    pub(crate) fn over(output: Result<Rejection, E>) -> Self {
        let output = Some(output.map(Box::new));
        Self::Over { output }
    }
}
