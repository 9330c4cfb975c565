//! The auto traits of the stack, and its size.

use std::{future::ready, mem::size_of_val};

use http::Request;
use http_body::Body;
use tower::{ServiceExt, service_fn};
use tower_claude_core::RequestBody;
use tower_claude_fake_claude::{FakeClaude, FakeError};
use tower_claude_limiter::Limits;
use tower_service::Service;

use crate::common::{SONNET, Stack, quiet, request, send};

/// axum asks this of a service, hyper of its future and body.
fn fits<S, R>(service: &S)
where
    S: Service<Request<RequestBody>, Response = http::Response<R>, Error = FakeError>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    R: Body + Send + Unpin + 'static,
{
    let _ = service;
}

#[test]
fn the_stack_is_send_and_sync_and_keeps_the_error_type() {
    fits::<_, _>(&Stack::<FakeClaude>::new(quiet(), Limits::new()).service);
}

/// Moving a future costs by its size, and each layer keeps a few. More than this is a sign that a
/// rare state has come to lie inline.
#[tokio::test(start_paused = true)]
async fn futures_of_the_stack_stay_small() {
    let inner = service_fn(|_: Request<RequestBody>| {
        ready(Ok::<_, FakeError>(http::Response::new(
            http_body_util::Full::new(bytes::Bytes::from_static(b"{}")),
        )))
    });
    let mut service = Stack::new(inner, Limits::new()).service;
    let call = Service::call(&mut service, request(SONNET, false));
    let size = size_of_val(&call);
    assert!(
        size <= 2 * 1024,
        "the future of three layers is {size} bytes long"
    );
    let response = call.await.expect("an answer");
    let size = size_of_val(response.body());
    assert!(size <= 768, "the body of three layers is {size} bytes long");
}

/// The layers take what hyper or axum give them: any body.
#[tokio::test(start_paused = true)]
async fn stack_accepts_any_request_body() {
    let fake = quiet();
    let stack = Stack::new(fake.clone(), Limits::new());
    let text = crate::common::prompt(SONNET, false);
    let full =
        request(SONNET, false).map(|_| http_body_util::Full::new(bytes::Bytes::from(text.clone())));
    let seen = send(&stack.service, full).await.expect("an answer");
    assert!(seen.is_complete(false));
    let boxed = request(SONNET, false).map(|_| {
        use http_body_util::BodyExt;
        http_body_util::Full::new(bytes::Bytes::from(text)).boxed()
    });
    let seen = send(&stack.service, boxed).await.expect("an answer");
    assert!(seen.is_complete(false));
}

/// A limiter's own error is no error of the service, even when the service is never ready.
#[tokio::test(start_paused = true)]
async fn service_that_is_never_ready_ends_with_a_timeout() {
    #[derive(Clone)]
    struct NeverReady;
    impl Service<Request<RequestBody>> for NeverReady {
        type Response = http::Response<http_body_util::Empty<bytes::Bytes>>;
        type Error = FakeError;
        type Future = std::future::Pending<Result<Self::Response, FakeError>>;
        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), FakeError>> {
            std::task::Poll::Pending
        }
        fn call(&mut self, _: Request<RequestBody>) -> Self::Future {
            panic!("called though not ready");
        }
    }
    let stack = Stack::new(NeverReady, crate::common::at_once(1));
    let response = stack.service.clone().oneshot(request(SONNET, false)).await;
    assert_eq!(response.expect("a refusal").status(), 504);
    stack.assert_idle("a service that is never ready");
}
