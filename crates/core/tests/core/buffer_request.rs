//! The service that buffers request bodies.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use tower::{Service, ServiceExt};
use tower_claude_core::{RequestBody, check, toolkit::BufferRequest};

use crate::frames::{Frames, Piece, chunked, data, frames, run};

/// A service that stores the request bodies it gets. A clone of it is not ready.
#[derive(Default)]
struct Inner {
    ready: bool,
    clones: Arc<AtomicUsize>,
    got: Arc<Mutex<Vec<Option<Bytes>>>>,
}

impl Clone for Inner {
    fn clone(&self) -> Self {
        self.clones.fetch_add(1, Ordering::Relaxed);
        Self {
            ready: false,
            clones: self.clones.clone(),
            got: self.got.clone(),
        }
    }
}

impl Service<Request<RequestBody>> for Inner {
    type Response = Response<Frames>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Frames>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called without being ready"
        );
        assert_eq!(request.headers()["x-kept"], "1");
        let bytes = request.body().bytes().cloned();
        self.got.lock().expect("no panic").push(bytes);
        ready(Ok(Response::new(frames([]))))
    }
}

fn request<B>(body: B) -> Request<B> {
    Request::post("/v1/messages")
        .header("x-kept", "1")
        .body(body)
        .expect("a request")
}

#[test]
fn any_body_is_buffered() {
    let inner = Inner::default();
    let service = BufferRequest::new(check(inner.clone()));
    let chunks = frames([data("ab"), Piece::Wait, data("c")]);
    run(service.clone().oneshot(request(chunks))).expect("infallible");
    run(service
        .clone()
        .oneshot(request(http_body_util::Full::new(Bytes::from("full")))))
    .expect("infallible");
    run(service.oneshot(request(String::new()))).expect("infallible");
    let got = inner.got.lock().expect("no panic").clone();
    let expected = ["abc", "full", ""].map(|text| Some(Bytes::from_static(text.as_bytes())));
    assert_eq!(got, expected);
}

#[test]
fn body_over_the_limit_becomes_a_stream() {
    let inner = Inner::default();
    for (limit, buffered) in [(9, false), (10, true)] {
        let service = BufferRequest::with_limit(inner.clone(), limit);
        run(service.oneshot(request(chunked(b"0123456789", 3)))).expect("infallible");
        assert_eq!(
            inner
                .got
                .lock()
                .expect("no panic")
                .pop()
                .expect("called")
                .is_some(),
            buffered
        );
    }
}

#[test]
fn buffered_body_is_neither_copied_nor_cloned_for() {
    let inner = Inner::default();
    let bytes = Bytes::from("{}".repeat(9));
    let clones = inner.clones.clone();
    let mut service = BufferRequest::new(BufferRequest::new(inner));
    run(async {
        for _ in 0..3 {
            let ready = ServiceExt::<Request<RequestBody>>::ready(&mut service)
                .await
                .expect("infallible");
            ready
                .call(request(RequestBody::from(bytes.clone())))
                .await
                .expect("infallible");
        }
    });
    assert_eq!(clones.load(Ordering::Relaxed), 0);
    let got = service
        .into_inner()
        .into_inner()
        .got
        .lock()
        .expect("no panic")
        .clone();
    assert!(
        got.iter()
            .flatten()
            .all(|got| got.as_ptr() == bytes.as_ptr()),
        "copied"
    );
    assert_eq!(got.len(), 3);
}

/// A body that is buffered already leaves nothing to wait for.
#[test]
fn buffered_request_is_sent_by_the_call_itself() {
    let inner = Inner::default();
    let mut service = BufferRequest::new(BufferRequest::new(inner.clone()));
    run(async {
        let ready = ServiceExt::<Request<RequestBody>>::ready(&mut service).await;
        let call = ready
            .expect("infallible")
            .call(request(RequestBody::from("{}")));
        assert_eq!(inner.got.lock().expect("no panic").len(), 1);
        call.await.expect("infallible");
        // Another body is read first, which takes no time if it is there.
        for (body, sent) in [
            (frames([data("ab")]), 2),
            (frames([Piece::Wait, data("ab")]), 2),
        ] {
            let ready = ServiceExt::<Request<Frames>>::ready(&mut service).await;
            let call = ready.expect("infallible").call(request(body));
            assert_eq!(inner.got.lock().expect("no panic").len(), sent);
            call.await.expect("infallible");
        }
    });
    assert_eq!(inner.got.lock().expect("no panic").len(), 3);
}

#[test]
fn ready_instance_is_called_with_the_request() {
    let mut service = BufferRequest::new(Inner::default());
    run(async {
        // Two concurrent calls, each on the instance that was polled for it.
        let first = ServiceExt::<Request<Frames>>::ready(&mut service)
            .await
            .expect("infallible")
            .call(request(frames([Piece::Wait])));
        let second = ServiceExt::<Request<Frames>>::ready(&mut service)
            .await
            .expect("infallible")
            .call(request(frames([])));
        second.await.expect("infallible");
        first.await.expect("infallible");
    });
    assert_eq!(service.get_mut().got.lock().expect("no panic").len(), 2);
}
