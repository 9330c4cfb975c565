//! The future admits a request, and `poll_ready` never does.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use http::Request;
use tower_service::Service;

use super::{Subject, answer, assert_nothing_alive, request, still_serves};
use crate::{Broken, FrameBody, Readiness, Reply, Script, paused, serve};

fn poll_ready<S: Service<Request<FrameBody>>>(service: &mut S) -> Poll<Result<(), S::Error>> {
    service.poll_ready(&mut Context::from_waker(Waker::noop()))
}

/// Checks that the layer and its clones are ready even if the inner service is not.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn poll_ready_is_always_ready<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        for readiness in [
            Readiness::Ready,
            Readiness::Never,
            Readiness::Error(Broken("not ready")),
        ] {
            let script = Script::always(Reply::message()).readiness(readiness);
            let mut service = layer().layer(script.clone());
            // Polling is not reserving: many handles, polled many times.
            let mut handles: Vec<_> = (0..32).map(|_| service.clone()).collect();
            for handle in handles.iter_mut().chain([&mut service]) {
                for _ in 0..2 {
                    assert_eq!(
                        poll_ready(handle),
                        Poll::Ready(Ok(())),
                        "poll_ready is not ready over an inner service that is {readiness:?}"
                    );
                }
            }
            drop(service.call(request()));
        }
    });
}

/// Checks that the future polls the same handle of the inner service ready that it calls, and waits
/// for it. [`Script`] panics otherwise.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn inner_is_readied_inside_the_future<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        for waits in [1, 3] {
            let script = Script::always(Reply::message()).readiness(Readiness::After(waits));
            let layer = layer();
            for _ in 0..2 {
                let answer = answer(&layer, &script, request()).await;
                assert_eq!(answer.expect("served").status, 200);
            }
            assert_eq!(script.calls(), 2);
        }

        let layer = layer();
        let script = Script::always(Reply::message()).readiness(Readiness::Never);
        let mut service = layer.layer(script.clone());
        assert_eq!(poll_ready(&mut service), Poll::Ready(Ok(())));
        {
            let mut call = pin!(service.call(request()));
            let mut cx = Context::from_waker(Waker::noop());
            for _ in 0..4 {
                assert!(
                    call.as_mut().poll(&mut cx).is_pending(),
                    "the future must wait for an inner service that is never ready"
                );
            }
        }
        assert_eq!(
            script.calls(),
            0,
            "an inner service that is not ready was called"
        );
        drop(service);
        assert_nothing_alive(&script, "a call that never became ready");
        still_serves(&layer, "a call that never became ready").await;
    });
}

/// Checks that an error of the inner service's `poll_ready` is the error of the call.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn readiness_error_is_the_service_error<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        let error = Broken("readiness failed");
        let script = Script::always(Reply::message()).readiness(Readiness::Error(error));
        let service = layer().layer(script.clone());
        let result = serve(&service, request()).await;
        assert_eq!(
            result.err(),
            Some(error),
            "the error of the inner poll_ready must be the error of the call"
        );
        assert_eq!(
            script.calls(),
            0,
            "an inner service that is not ready was called"
        );
    });
}
