//! The same HTTP client under the tower-claude layers.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper_util::client::legacy::{
    Client, Error,
    connect::{Connect, HttpConnector},
};
use tower::{ServiceBuilder, ServiceExt as _};
use tower_claude_core::{RequestBody, event::Event};
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::{Limiter as _, LimiterConfig, Limits, LocalLimiter, ScopeSnapshot};
use tower_claude_retry::RetryLayer;
use tower_claude_token_bucket::TokenBucketLayer;

use crate::answer::{self, Ending};
use crate::load::{BURST, CONNECTIONS, Load};
use crate::replay::Pauses;

/// How long a request may wait for its turn: a replay is a batch job and has time.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(600);

/// A client under the layers. State lives in the layers: clones share it.
#[derive(Clone)]
pub(crate) struct Layers<C = HttpConnector> {
    client: Client<C, RequestBody>,
    retry: RetryLayer,
    bucket: TokenBucketLayer,
    budget: HeaderBudgetLayer,
}

impl Layers {
    /// For a replay, with limits as one who knows them would configure them.
    pub(crate) fn new(load: &Load) -> Self {
        let config = LimiterConfig::new().with_queue_limit(load.jobs.len());
        let limiter = LocalLimiter::with_config(limits(load), config);
        Self::over(crate::replay::http_client(), limiter)
    }
}

impl<C: Connect + Clone + Send + Sync + 'static> Layers<C> {
    /// The three layers over one limiter.
    pub(crate) fn over(client: Client<C, RequestBody>, limiter: LocalLimiter) -> Self {
        Self {
            client,
            retry: RetryLayer::new(),
            bucket: TokenBucketLayer::over(limiter.clone()).with_max_wait(MAX_WAIT),
            budget: HeaderBudgetLayer::over(limiter),
        }
    }

    /// Sends through all layers: from the outside in, retry, token bucket, header budget.
    pub(crate) async fn call(
        &self,
        request: Request<Bytes>,
    ) -> Result<Response<impl Body<Data = Bytes> + use<C>>, Error> {
        let service = ServiceBuilder::new()
            .layer(&self.retry)
            .layer(&self.bucket)
            .layer(&self.budget)
            .service(self.client.clone());
        service.oneshot(request.map(RequestBody::from)).await
    }

    /// Sends and reads the answer to its end. The observer of one request sees its pauses.
    pub(crate) async fn send(&self, request: Request<Bytes>, pauses: Pauses) -> Ending {
        let mut layers = self.clone();
        layers.retry = layers.retry.with_observer(move |event: &Event<'_>| {
            if let Event::Retry { class, delay, .. } = event
                && !class.is_rate_limit()
            {
                pauses.note(*delay);
            }
        });
        match layers.call(request).await {
            Ok(response) => answer::read(response).await,
            Err(_) => Ending::NO_ANSWER,
        }
    }

    /// What the limiter has learned.
    pub(crate) fn snapshot(&self) -> Vec<ScopeSnapshot> {
        self.budget.handle().snapshot()
    }
}

/// The server's limits, as one tells the layers.
pub(crate) fn limits(load: &Load) -> Limits {
    let limit = |per_minute| NonZeroU64::new(per_minute).unwrap_or(NonZeroU64::MIN);
    Limits::new()
        .with_requests_per_minute(limit(load.per_minute.requests))
        .with_input_tokens_per_minute(limit(load.per_minute.input))
        .with_output_tokens_per_minute(limit(load.per_minute.output))
        .with_burst(BURST)
        .with_concurrency(const { NonZeroU32::new(CONNECTIONS).expect("not zero") })
}
