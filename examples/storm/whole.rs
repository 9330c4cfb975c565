//! The same HTTP client under all six layers.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use tower::{Layer as _, ServiceExt as _};
use tower_claude::{
    CacheLayer, CircuitBreakerLayer, FallbackModelLayer, LimiterConfig, LocalLimiter, Recommended,
    RequestBody, TokenBucketLayer, event::Event, recommended,
};

use crate::answer::{self, Ending};
use crate::layers::{self, MAX_WAIT};
use crate::load::{CACHEABLE, Load};
use crate::replay::Pauses;

/// The fallback models in order. The first has met its spend cap.
const STAND_INS: [&str; 2] = ["claude-opus-5-5", "claude-haiku-5-5"];

/// A client with the recommended stack around it.
#[derive(Clone)]
pub(crate) struct Whole {
    client: Client<HttpConnector, RequestBody>,
    layers: Recommended,
}

impl Whole {
    pub(crate) fn new(load: &Load) -> Self {
        let config = LimiterConfig::new().with_queue_limit(load.jobs.len());
        let limiter = LocalLimiter::with_config(layers::limits(load), config);
        // The cap belongs to one model here, and not to the credential or the account.
        let fallback = FallbackModelLayer::new(STAND_INS).with_spend_limits(true);
        let breaker = CircuitBreakerLayer::new().with_credential(|_| 0);
        let cache = CacheLayer::new(Duration::from_secs(600)).with_header(CACHEABLE);
        Self {
            client: crate::replay::http_client(),
            layers: recommended()
                .with_cache(cache)
                .with_fallback_layer(fallback)
                .with_breaker(breaker)
                .with_bucket(TokenBucketLayer::over(limiter).with_max_wait(MAX_WAIT)),
        }
    }

    /// Sends a request and reads the response to its end.
    pub(crate) async fn send(&self, request: Request<Bytes>, pauses: Pauses) -> Ending {
        let retry = self.layers.retry().clone();
        let retry = retry.with_observer(move |event: &Event<'_>| {
            if let Event::Retry { class, delay, .. } = event
                && !class.is_rate_limit()
            {
                pauses.note(*delay);
            }
        });
        let service = self
            .layers
            .clone()
            .with_retry(retry)
            .layer(self.client.clone());
        match service.oneshot(request.map(RequestBody::from)).await {
            Ok(response) => answer::read(response).await,
            Err(_) => Ending::NO_ANSWER,
        }
    }

    /// Figures that only this stack has.
    pub(crate) fn extras(&self) -> Vec<(String, u64)> {
        let cache = self.layers.cache().handle().snapshot();
        let fallback = self.layers.fallback().handle().snapshot();
        let mut extras = vec![
            ("from the cache".to_owned(), cache.hits),
            ("joined an equal question".to_owned(), cache.joined),
        ];
        let served = fallback.targets.iter().filter(|one| one.served > 0);
        extras.extend(served.map(|one| (format!("by {}", one.model), one.served)));
        extras
    }
}
