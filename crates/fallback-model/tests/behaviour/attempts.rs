//! The count of attempts over all models.

use std::{num::NonZeroU32, sync::Arc};

use tower::{Layer, ServiceBuilder};
use tower_claude_core::Call;
use tower_claude_retry::{Backoff, Jitter, RetryLayer};

use crate::api::*;

#[tokio::test(start_paused = true)]
async fn retry_attempts_are_counted_over_all_models() {
    let retry = |attempts| {
        RetryLayer::new()
            .with_max_attempts(NonZeroU32::new(attempts).unwrap())
            .with_backoff(Backoff::new(SECOND, SECOND, Jitter::None))
    };
    for (attempts, expected) in [(1, [1, 1, 1]), (5, [5, 1, 1])] {
        let api = Api::by_model(|_| Reply::overloaded());
        let stack = ServiceBuilder::new()
            .layer(layer().0)
            .layer(retry(attempts))
            .service(api.clone());
        assert_eq!(send(&stack, request()).await.unwrap().status, 529);
        let count = |model| api.models().iter().filter(|asked| *asked == model).count();
        assert_eq!([OPUS, SONNET, HAIKU].map(count), expected);
    }
    // The second model gets the attempts that the first did not use.
    let api = Api::by_model(|model| {
        if model == OPUS {
            Reply::no_model()
        } else {
            Reply::overloaded()
        }
    });
    let stack = ServiceBuilder::new()
        .layer(FallbackTo::sonnet())
        .layer(retry(3))
        .service(api.clone());
    send(&stack, request()).await.unwrap();
    assert_eq!(api.models(), [OPUS, SONNET, SONNET]);
}

struct FallbackTo;

impl FallbackTo {
    fn sonnet() -> tower_claude_fallback_model::FallbackModelLayer {
        tower_claude_fallback_model::FallbackModelLayer::new([SONNET])
    }
}

/// Without an inner retry layer, the fallback layer counts.
#[tokio::test(start_paused = true)]
async fn attempts_without_retry_are_counted_once() {
    let api = both(Reply::overloaded(), Reply::overloaded());
    send(&layer().0.layer(api.clone()), request())
        .await
        .unwrap();
    let seen = api.seen();
    let context = seen[2].extensions.get::<Arc<Call>>().unwrap();
    assert_eq!(context.attempts(), 3);
    assert_eq!(seen.len(), 3);
}
