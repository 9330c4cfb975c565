//! The same HTTP client under the tower-claude layers.

use std::{num::NonZeroU64, time::Duration};

use bytes::Bytes;
use http::Request;
use hyper_util::client::legacy::{
    Client,
    connect::{Connect, HttpConnector},
};
use tower::{Layer, ServiceExt as _};
use tower_claude_core::RequestBody;
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::{LimiterConfig, Limits, LocalLimiter};
use tower_claude_retry::RetryLayer;
use tower_claude_token_bucket::TokenBucketLayer;

use crate::answer::{self, Ending};
use crate::load::{BURST, Load};

/// How long a request may wait for its turn: a replay is a batch job and has time.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// The layers of one replay. State lives in them: clones share it.
#[derive(Clone)]
pub(crate) struct Layers {
    client: Client<HttpConnector, RequestBody>,
    retry: RetryLayer,
    bucket: TokenBucketLayer,
    budget: HeaderBudgetLayer,
}

impl Layers {
    pub(crate) fn new(load: &Load) -> Self {
        let config = LimiterConfig::new().with_queue_limit(load.jobs.len());
        let limiter = LocalLimiter::with_config(limits(load), config);
        Self {
            client: crate::replay::http_client(),
            retry: RetryLayer::new(),
            bucket: TokenBucketLayer::over(limiter.clone()).with_max_wait(MAX_WAIT),
            budget: HeaderBudgetLayer::over(limiter),
        }
    }

    /// Sends through all layers and reads the answer to its end.
    pub(crate) async fn send(&self, request: Request<Bytes>) -> Ending {
        let service = self.retry.layer(self.bucket.layer(self.budget.layer(self.client.clone())));
        match service.oneshot(request.map(RequestBody::from)).await {
            Ok(response) => answer::read(response).await,
            Err(_) => Ending::NO_ANSWER,
        }
    }
}

/// The server's limits, as one tells the layers.
fn limits(load: &Load) -> Limits {
    let limit = |per_minute| NonZeroU64::new(per_minute).unwrap_or(NonZeroU64::MIN);
    Limits::new()
        .with_requests_per_minute(limit(load.per_minute.requests))
        .with_input_tokens_per_minute(limit(load.per_minute.input))
        .with_output_tokens_per_minute(limit(load.per_minute.output))
        .with_burst(BURST)
}
