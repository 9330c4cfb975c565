//! A policy of one's own: a limit on requests in flight, held until the end of each response body.
//!
//! `cargo run --example own_policy`
#![forbid(unsafe_code)]

mod common;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::future::join_all;
use http::Request;
use http_body_util::BodyExt;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tower::{Layer, ServiceExt};
use tower_claude_core::{
    Call, ClaudeClassify, Rejection, RequestBody,
    driver::{AttemptPolicy, Clock, DriverLayer},
};
use tower_claude_fake_claude::FakeClaude;

use common::{Error, message};

/// A policy that admits a limited number of attempts at a time, in the order of their arrival.
struct InFlightLimit(Arc<Semaphore>);

type Acquire = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// The state of one attempt. Dropping it leaves the queue, or gives the permit back.
#[derive(Default)]
enum Slot {
    #[default]
    New,
    Waiting(Acquire),
    Held(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit),
}

impl AttemptPolicy for InFlightLimit {
    type Attempt = Slot;

    fn poll_admit(
        &self,
        slot: &mut Slot,
        _: &mut Request<RequestBody>,
        call: &Arc<Call>,
        _: &mut Clock,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Rejection>> {
        if matches!(slot, Slot::New) {
            *slot = Slot::Waiting(Box::pin(self.0.clone().acquire_owned()));
        }
        if let Slot::Waiting(acquire) = slot {
            // Outer layers do not count the time until the attempt is sent.
            call.set_held_back(true);
            let permit = ready!(acquire.as_mut().poll(cx));
            call.set_held_back(false);
            *slot = Slot::Held(permit.expect("the semaphore is never closed"));
        }
        Poll::Ready(Ok(()))
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let fake = FakeClaude::default();
    let semaphore = Arc::new(Semaphore::new(2));
    let policy = InFlightLimit(semaphore.clone());
    let layer = DriverLayer::new((), policy, ClaudeClassify::default());
    let service = layer.layer(fake.clone());

    let calls = (0..6).map(async |_| -> Result<u16, Error> {
        let response = service
            .clone()
            .oneshot(message("https://api.anthropic.com", true))
            .await?;
        let status = response.status().as_u16();
        response.into_body().collect().await?;
        Ok(status)
    });
    for status in join_all(calls).await {
        println!("-> {}", status?);
    }
    println!("permits free at the end: {}", semaphore.available_permits());
    Ok(())
}
