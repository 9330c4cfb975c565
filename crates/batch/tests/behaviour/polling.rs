//! The requests while batches run.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use http::{Request, Response};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service};
use tower_claude_batch::BatchLayer;
use tower_claude_core::RequestBody;
use tower_claude_fake_claude::{Endpoint, FakeClaude, FakeError, Fault};
use tower_claude_tests::{Broken, FrameBody, Piece, Received};

use crate::api::*;

#[tokio::test(start_paused = true)]
async fn batch_that_is_not_found_for_a_while_is_asked_for_again() {
    let world = World::new(api().batch_time(MINUTE).batch_hidden(4 * MINUTE));
    let started = Instant::now();
    assert_eq!(world.ask("q", 5 * HOUR).await.unwrap().status, 200);
    assert!(started.elapsed() < 11 * MINUTE, "{:?}", started.elapsed());
    assert_eq!((world.live(), world.snapshot().answered), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn batch_that_was_deleted_by_others_goes_live() {
    let world = World::new(api().batch_hidden(50 * HOUR));
    let started = Instant::now();
    assert_eq!(world.ask("q", 9 * HOUR).await.unwrap().status, 200);
    assert!(started.elapsed() < HOUR);
    assert_eq!(world.snapshot().went_live["gone"], 1);
}

#[tokio::test(start_paused = true)]
async fn polls_are_rare_and_faults_do_not_stop_them() {
    let world = World::new(api().batch_time(2 * HOUR));
    let call = world.ask("q", 9 * HOUR);
    sleep(10 * MINUTE).await;
    world.fake.inject(Fault::ServerError);
    world.fake.inject(Fault::Reset);
    world
        .fake
        .inject(Fault::NonJson(http::StatusCode::BAD_GATEWAY));
    world.fake.inject(Fault::NonJson(http::StatusCode::OK));
    assert_eq!(call.await.unwrap().status, 200);
    let polls = world
        .requests()
        .iter()
        .filter(|path| *path == "retrieve")
        .count();
    assert!((20..=60).contains(&polls), "{polls}");
    assert_eq!(world.live(), 0);
}

#[tokio::test(start_paused = true)]
async fn many_batches_are_polled_by_one_list() {
    let builder = BatchLayer::in_memory().with_max_batch(1, usize::MAX);
    let fake = api().keep_requests(10_000).build();
    let world = World::with(fake, builder);
    let calls: Vec<_> = (0..40)
        .map(|n| world.ask(&n.to_string(), 9 * HOUR))
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().status, 200);
    }
    let requests = world.requests();
    let count = |path: &str| requests.iter().filter(|known| *known == path).count();
    assert!((5..100).contains(&count("list")), "{}", count("list"));
    assert!(
        count("retrieve") <= 40,
        "{} polls of 40 batches",
        count("retrieve")
    );
    assert_eq!(count("results"), 40);
}

/// A client that loses the second half of the first results.
#[derive(Clone)]
struct Cutting {
    fake: FakeClaude,
    has_cut: Arc<AtomicBool>,
    /// The bytes of the second half that are not lost. `None` if the body ends with an error.
    more: Option<usize>,
}

impl Service<Request<RequestBody>> for Cutting {
    type Response = Response<FrameBody>;
    type Error = FakeError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, FakeError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), FakeError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let (mut fake, has_cut) = (self.fake.clone(), self.has_cut.clone());
        let more = self.more;
        let is_results = request.uri().path().ends_with("/results");
        Box::pin(async move {
            let (parts, body) = fake.call(request).await?.into_parts();
            let (whole, ..) = tower_claude_tests::read(body).await;
            let cuts =
                is_results && parts.status.is_success() && !has_cut.swap(true, Ordering::SeqCst);
            let body = match cuts {
                true => {
                    let error = more.is_none().then_some(Piece::Error(Broken("cut")));
                    let half = whole.len() / 2 + more.unwrap_or(0);
                    let half = Piece::Data(whole.slice(..half));
                    FrameBody::new(std::iter::once(half).chain(error))
                }
                false => FrameBody::full(whole),
            };
            Ok(Response::from_parts(parts, body))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn results_that_break_off_are_read_again_and_each_call_is_answered_once() {
    // With an error, at the end of a line, and in the middle of one.
    for more in [None, Some(0), Some(5)] {
        results_break_off(more).await;
    }
}

async fn results_break_off(more: Option<usize>) {
    let fake = api().build();
    let client = Cutting {
        fake: fake.clone(),
        has_cut: Arc::default(),
        more,
    };
    let (layer, driver) = BatchLayer::in_memory().pair();
    tokio::spawn(driver.run(client.clone()));
    let calls: Vec<_> = (0..6)
        .map(|n| {
            let (service, request) = (
                layer.layer(client.clone()),
                question(&n.to_string(), 5 * HOUR),
            );
            tokio::spawn(async move {
                (
                    tower_claude_tests::send(&service, request).await,
                    Instant::now(),
                )
            })
        })
        .collect();
    let mut times = std::collections::BTreeSet::new();
    for call in calls {
        let (answer, at) = call.await.unwrap();
        let answer: Received<Broken> = answer.expect("a response");
        assert_eq!(answer.status, 200);
        times.insert(at);
    }
    assert_eq!(
        times.len(),
        2,
        "the first half is answered as its lines arrive"
    );
    assert_eq!(layer.handle().snapshot().answered, 6);
    let live = fake.with_log(|log| {
        log.iter()
            .filter(|a| a.endpoint == Endpoint::Messages)
            .count()
    });
    assert_eq!(live, 0);
}
