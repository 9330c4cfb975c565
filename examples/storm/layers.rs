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

/// The longest wait of a request in the queue. A replay is a batch job and has time.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(600);

/// A client with the layers around it. Clones share the state of the layers.
#[derive(Clone)]
pub(crate) struct Layers<C = HttpConnector> {
    client: Client<C, RequestBody>,
    retry: RetryLayer,
    bucket: TokenBucketLayer,
    budget: HeaderBudgetLayer,
}

impl Layers {
    /// Creates a client for a replay, with the limits of the server.
    pub(crate) fn new(load: &Load) -> Self {
        let config = LimiterConfig::new().with_queue_limit(load.jobs.len());
        let limiter = LocalLimiter::with_config(limits(load), config);
        Self::over(crate::replay::http_client(), limiter)
    }
}

impl<C: Connect + Clone + Send + Sync + 'static> Layers<C> {
    /// Creates the three layers over one limiter.
    pub(crate) fn over(client: Client<C, RequestBody>, limiter: LocalLimiter) -> Self {
        Self {
            client,
            retry: RetryLayer::new(),
            bucket: TokenBucketLayer::over(limiter.clone()).with_max_wait(MAX_WAIT),
            budget: HeaderBudgetLayer::over(limiter),
        }
    }

    /// Sends a request through retry, token bucket and header budget, the outer layer first.
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

    /// Sends a request and reads the response to its end. The observer of the request records its
    /// pauses.
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

    /// Returns the state that the limiter has learned.
    pub(crate) fn snapshot(&self) -> Vec<ScopeSnapshot> {
        self.budget.handle().snapshot()
    }
}

/// Returns the limits of the server in the type of the layers.
pub(crate) fn limits(load: &Load) -> Limits {
    let limit = |per_minute| NonZeroU64::new(per_minute).unwrap_or(NonZeroU64::MIN);
    Limits::new()
        .with_requests_per_minute(limit(load.per_minute.requests))
        .with_input_tokens_per_minute(limit(load.per_minute.input))
        .with_output_tokens_per_minute(limit(load.per_minute.output))
        .with_burst(BURST)
        .with_concurrency(const { NonZeroU32::new(CONNECTIONS).expect("not zero") })
}
