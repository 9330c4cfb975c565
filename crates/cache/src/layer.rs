//! The layer: configuration and shared state.

use std::{fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use http::{HeaderName, Request};
use tower_claude_core::{
    BufferRequest, RequestBody,
    event::{EventSink, Observer},
};
use tower_layer::Layer;

use crate::{
    Cache, CacheHandle, Cacheable, Inline, MemoryStore, Spawn, Store, config::Config,
    request::key::Secret, request::policy::Policy,
};

/// Answers equal requests once. See the [crate documentation](crate).
///
/// Store, flights and counters live here and are shared by every clone and every service made from it.
#[derive(Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct CacheLayer<D = Inline, T = MemoryStore> {
    config: Arc<Config<T>>,
    detach: D,
}

impl CacheLayer {
    /// Stores answers for so long, ± 10 %, where a request does not say otherwise; serves them for an hour more in
    /// place of errors; keeps 64 MiB of them in memory.
    pub fn new(ttl: Duration) -> Self {
        Self {
            config: Arc::new(Config {
                policy: Policy {
                    secret: Secret::random(),
                    header: None,
                    choose: None,
                    key_headers: Vec::new(),
                    count_tokens: false,
                },
                ttl,
                stale_for: Duration::from_secs(3_600),
                tool_use: false,
                max_waiters: 1_024,
                entry_limit: 4 * 1024 * 1024,
                body_limit: RequestBody::DEFAULT_LIMIT,
                observers: EventSink::default(),
                store: MemoryStore::default(),
                state: Arc::default(),
            }),
            detach: Inline,
        }
    }
}

impl Default for CacheLayer {
    /// Five minutes.
    fn default() -> Self {
        Self::new(Duration::from_secs(300))
    }
}

impl<D, T: Store> CacheLayer<D, T> {
    /// How long past its time an answer is served in place of a 5xx, a timeout, a broken connection or a local refusal.
    /// One hour by default; zero never does.
    pub fn with_stale_if_error(self, stale_for: Duration) -> Self {
        self.with(|config| config.stale_for = stale_for)
    }

    /// The header by which callers mark requests, beside the extension [`Cacheable`]: `true`, `1`, or
    /// `max-age=<seconds>`. It is not taken out of the request.
    pub fn with_header(self, name: HeaderName) -> Self {
        self.with(|config| config.policy.header = Some(name))
    }

    /// Decides in place of the callers' marks which requests are cacheable. What can have no key, or says
    /// `cache-control: no-store`, still is not.
    pub fn with_policy<F>(self, policy: F) -> Self
    where
        F: Fn(&Request<RequestBody>) -> Option<Cacheable> + Send + Sync + 'static,
    {
        self.with(|config| config.policy.choose = Some(Arc::new(policy)))
    }

    /// Counts of tokens are cacheable too.
    pub fn with_count_tokens(self) -> Self {
        self.with(|config| config.policy.count_tokens = true)
    }

    /// Stores answers that call tools of the caller's too. Only where the caller may carry out the same call again.
    pub fn with_tool_use(self) -> Self {
        self.with(|config| config.tool_use = true)
    }

    /// What keys are made with: random by default, so that keys mean nothing outside of the process. Several processes
    /// on one store need the same. Keep it secret: who has it can tell whether a known request was asked.
    pub fn with_secret(self, secret: [u8; 32]) -> Self {
        self.with(|config| config.policy.secret = Secret(secret))
    }

    /// One more header whose value tells requests apart: one that says who asks, in a way of your own.
    pub fn with_key_header(self, name: HeaderName) -> Self {
        self.with(|config| config.policy.key_headers.push(name))
    }

    /// How many may share one call, the one who makes it included: 1,024 by default. Further ones make their own.
    pub fn with_max_waiters(self, most: NonZeroUsize) -> Self {
        self.with(|config| config.max_waiters = most.get())
    }

    /// The most memory, in bytes, that is spent on one answer: 4 MiB by default. Longer ones pass through; who
    /// is by then further behind the fastest reader than that is cut off.
    pub fn with_entry_limit(self, bytes: usize) -> Self {
        self.with(|config| config.entry_limit = bytes)
    }

    /// Where events go, beside `tracing`.
    pub fn with_observer(self, observer: impl Observer + 'static) -> Self {
        self.with(|config| config.observers = EventSink::new(observer))
    }

    /// Buffers request bodies up to this many bytes (default: 32 MiB); longer ones pass through. In a stack the
    /// outermost layer's limit is the one that counts.
    pub fn with_body_limit(self, bytes: usize) -> Self {
        self.with(|config| config.body_limit = bytes)
    }

    /// Another store.
    pub fn with_store<U: Store>(self, store: U) -> CacheLayer<D, U> {
        let old = Arc::unwrap_or_clone(self.config);
        CacheLayer {
            config: Arc::new(Config {
                store,
                policy: old.policy,
                ttl: old.ttl,
                stale_for: old.stale_for,
                tool_use: old.tool_use,
                max_waiters: old.max_waiters,
                entry_limit: old.entry_limit,
                body_limit: old.body_limit,
                observers: old.observers,
                state: Arc::default(),
            }),
            detach: self.detach,
        }
    }

    /// Calls that fill the cache run in tasks of tokio's, and go on when the callers that wait for them are gone. The
    /// inner service must be `Send + 'static` then.
    pub fn detached(self) -> CacheLayer<Spawn, T> {
        self.with_detach(Spawn)
    }

    /// Calls that fill the cache run where this says.
    pub fn with_detach<D2>(self, detach: D2) -> CacheLayer<D2, T> {
        CacheLayer {
            config: self.config,
            detach,
        }
    }

    /// A view of what the layer does.
    #[must_use]
    pub fn handle(&self) -> CacheHandle<T> {
        CacheHandle::new(self.config.clone())
    }

    fn with(mut self, change: impl FnOnce(&mut Config<T>)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

impl<S, D: Clone, T> Layer<S> for CacheLayer<D, T> {
    type Service = BufferRequest<Cache<S, D, T>>;

    fn layer(&self, inner: S) -> Self::Service {
        let cache = Cache::new(inner, self.config.clone(), self.detach.clone());
        BufferRequest::with_limit(cache, self.config.body_limit)
    }
}

impl<D, T> fmt::Debug for CacheLayer<D, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheLayer")
            .field("ttl", &self.config.ttl)
            .field("stale_for", &self.config.stale_for)
            .field("policy", &self.config.policy)
            .finish_non_exhaustive()
    }
}
