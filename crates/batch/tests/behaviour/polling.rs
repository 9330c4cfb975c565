//! The requests while batches run.

use tokio::time::{Instant, sleep};
use tower_claude_batch::BatchLayer;
use tower_claude_fake_claude::Fault;

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
