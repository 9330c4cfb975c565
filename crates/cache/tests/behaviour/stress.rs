//! Ten thousand equal requests, with callers that are cancelled at any time.

use std::{num::NonZeroUsize, sync::Arc};

use tower::Layer;
use tower_claude_cache::CacheLayer;

use crate::api::*;

const CALLERS: usize = 10_000;

/// Returns the chunks of a long stream, cut at arbitrary places.
fn chunks() -> Vec<String> {
    let text = [START, CONTENT, &DELTA.repeat(200), END, STOP].concat();
    text.as_bytes()
        .chunks(997)
        .map(|chunk| String::from_utf8(chunk.to_vec()).expect("ASCII"))
        .collect()
}

fn roomy() -> CacheLayer {
    layer().with_max_waiters(NonZeroUsize::new(2 * CALLERS).expect("not 0"))
}

/// Aborts half of the callers, some between any two chunks. The rest must get every byte. Returns
/// the number of calls.
macro_rules! storm {
    ($layer:expr, $seed:expr) => {{
        let (upstream, scripts) = upstream();
        let layer = $layer;
        let service = layer.layer(upstream);
        let mut random = fastrand::Rng::with_seed($seed);
        let whole = Arc::new(chunks().concat());
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let (service, whole) = (service.clone(), whole.clone());
                tokio::spawn(async move {
                    let got = send(&service, marked("Hi", true)).await.expect("an answer");
                    assert!(
                        got.error.is_none() && got.text() == *whole,
                        "not the same bytes"
                    );
                })
            })
            .collect();
        let mut abort = |share: f64| {
            for caller in &callers {
                if random.f64() < share {
                    caller.abort();
                }
            }
        };
        // Some of those who ask first give up before there is a head.
        let mut script = scripts.next().await;
        for at in 0..4 {
            callers[at].abort();
            abort(0.05);
            settle().await;
            if scripts.calls() > 1 + at {
                script = scripts.next().await;
            }
        }
        while let Ok(next) = tokio::time::timeout(SECOND, scripts.next()).await {
            script = next;
        }
        let sender = script.stream();
        for chunk in chunks() {
            feed(&sender, &chunk);
            abort(0.01);
            settle().await;
        }
        drop(sender);
        let mut whole_answers = 0;
        for caller in callers {
            match caller.await {
                Ok(()) => whole_answers += 1,
                Err(error) => assert!(error.is_cancelled(), "{error}"),
            }
        }
        let seen = layer.handle().snapshot();
        println!(
            "{CALLERS} callers, {whole_answers} of whom stayed: {} calls, {} takeovers",
            scripts.calls(),
            seen.takeovers
        );
        assert!(whole_answers > CALLERS / 4);
        assert_eq!((seen.in_flight, seen.stored, scripts.alive()), (0, 1, 0));
        assert_eq!(seen.takeovers as usize, scripts.calls() - 1);
        scripts.calls()
    }};
}

#[tokio::test(start_paused = true)]
async fn detached_storm_makes_one_call() {
    assert_eq!(storm!(roomy().detached(), 1), 1);
}

#[tokio::test(start_paused = true)]
async fn inline_storm_makes_one_call() {
    assert_eq!(storm!(roomy(), 2), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn storm_on_several_threads_delivers_every_byte() {
    for seed in 0..20 {
        let (upstream, scripts) = upstream();
        let layer = roomy();
        let service = layer.layer(upstream);
        let whole = Arc::new(chunks().concat());
        let mut random = fastrand::Rng::with_seed(seed);
        let callers: Vec<_> = (0..200)
            .map(|_| {
                let (service, whole) = (service.clone(), whole.clone());
                tokio::spawn(async move {
                    let got = send(&service, marked("Hi", true)).await.expect("an answer");
                    assert!(got.text() == *whole, "not the same bytes");
                })
            })
            .collect();
        let answering = async {
            loop {
                let sender = scripts.next().await.stream();
                for chunk in chunks() {
                    feed(&sender, &chunk);
                    tokio::task::yield_now().await;
                }
            }
        };
        let aborting = async {
            for caller in &callers {
                if random.bool() {
                    caller.abort();
                }
                tokio::task::yield_now().await;
            }
            for caller in callers {
                assert!(caller.await.is_ok_or_cancelled());
            }
        };
        tokio::select! { () = answering => {}, () = aborting => {} }
        assert_eq!(
            (layer.handle().snapshot().in_flight, scripts.alive()),
            (0, 0)
        );
    }
}

trait OkOrCancelled {
    fn is_ok_or_cancelled(&self) -> bool;
}

impl OkOrCancelled for Result<(), tokio::task::JoinError> {
    fn is_ok_or_cancelled(&self) -> bool {
        self.as_ref()
            .err()
            .is_none_or(tokio::task::JoinError::is_cancelled)
    }
}
