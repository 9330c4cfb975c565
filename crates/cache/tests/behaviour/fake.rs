//! Tests against the fake API.

use tower::Layer;
use tower_claude_cache::CacheLayer;
use tower_claude_fake_claude::{FakeClaude, FakeError, Fault};
use tower_claude_tests::Received;

use crate::api::*;

async fn ask(layer: &CacheLayer, fake: &FakeClaude, stream: bool) -> Received<FakeError> {
    let call = send(
        &layer.layer(fake.clone()),
        marked("Tell me a story", stream),
    );
    call.await.expect("a response")
}

#[tokio::test(start_paused = true)]
async fn repeated_request_reaches_the_api_once() {
    for stream in [false, true] {
        let fake = FakeClaude::builder().build();
        let layer = layer();
        let first = ask(&layer, &fake, stream).await;
        let second = ask(&layer, &fake, stream).await;
        assert_eq!((second.status, fake.log_len()), (200, 1));
        assert_eq!(first.cache_status(), "miss");
        assert_eq!(second.cache_status(), "hit");
        assert_eq!(first.text(), second.text());
    }
}

#[tokio::test(start_paused = true)]
async fn injected_fault_is_not_stored() {
    for fault in [
        Fault::Overloaded,
        Fault::ServerError,
        Fault::RateLimitedBare,
        Fault::SpendCap,
        Fault::ErrorBeforeContent,
        Fault::ErrorMidStream { after_tokens: 3 },
        Fault::Truncated { after_tokens: 3 },
        Fault::TruncatedBeforeContent,
    ] {
        let fake = FakeClaude::builder().build();
        fake.inject(fault.clone());
        let layer = layer();
        let _ = ask(&layer, &fake, true).await;
        assert_eq!(layer.handle().snapshot().stored, 0, "{fault:?}");
        let response = ask(&layer, &fake, true).await;
        assert!(response.is_complete(true), "{fault:?}");
        let seen = (response.cache_status(), fake.log_len());
        assert_eq!(seen, ("miss", 2), "{fault:?}");
    }
}
