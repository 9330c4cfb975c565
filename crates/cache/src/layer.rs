//! The layer and its settings.

use std::{fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use http::{HeaderName, Request};
use tower_claude_core::{
    RequestBody,
    event::{EventSink, Observer},
    toolkit::BufferRequest,
};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    config::{Config, Settings},
    detach::{Inline, Spawn},
    handle::CacheHandle,
    request::{
        key::Secret,
        policy::{Cacheable, Policy},
    },
    service::Cache,
    store::{Store, memory::MemoryStore},
};

/// A layer that answers equal requests once. See the [crate documentation](crate).
///
/// Every clone of the layer and every service made from it share the store, the calls in flight and
/// the counters.
#[derive(Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct CacheLayer<D = Inline, T = MemoryStore> {
    config: Arc<Config<T>>,
    detach: D,
}

impl CacheLayer {
    /// Returns a layer whose responses are fresh for `ttl` ± 10 %, unless the request sets its own
    /// time to live.
    ///
    /// They may be served in place of errors for one hour more. The store is in memory and takes up
    /// to 64 MiB.
    pub fn new(ttl: Duration) -> Self {
        Self {
            config: Arc::new(Config {
                settings: Settings {
                    policy: Policy {
                        secret: Secret::random(),
                        header: None,
                        choose: None,
                        key_headers: Vec::new(),
                        count_tokens: false,
                        anonymous: false,
                    },
                    ttl,
                    stale_for: Duration::from_secs(3_600),
                    tool_use: false,
                    max_waiters: 1_024,
                    entry_limit: 4 * 1024 * 1024,
                    body_limit: RequestBody::DEFAULT_LIMIT,
                    idle_timeout: Duration::from_secs(600),
                    store_timeout: Duration::from_secs(1),
                    observers: EventSink::default(),
                },
                store: MemoryStore::default(),
                state: Arc::default(),
            }),
            detach: Inline,
        }
    }
}

impl Default for CacheLayer {
    /// Returns a layer with a time to live of five minutes.
    fn default() -> Self {
        Self::new(Duration::from_secs(300))
    }
}

impl<D, T: Store> CacheLayer<D, T> {
    /// Sets how long past its time to live a response may be served in place of a 5xx, a timeout, a
    /// broken connection or a local rejection. Default: one hour. Zero disables it.
    pub fn with_stale_if_error(self, stale_for: Duration) -> Self {
        self.with(|settings| settings.stale_for = stale_for)
    }

    /// Sets a header that marks requests as the extension [`Cacheable`] does. Default: none. Its
    /// value is `true`, `1`, or `max-age=<seconds>`. The header stays in the request.
    pub fn with_header(self, name: HeaderName) -> Self {
        self.with(|settings| settings.policy.header = Some(name))
    }

    /// Sets a function that decides which requests are cacheable. Default: the marks of the
    /// callers, which the function replaces. A request without a key or with `cache-control:
    /// no-store` still bypasses the cache.
    ///
    /// Only Messages requests are cached, whatever the function returns. A request to a service
    /// other than Claude is reported as a bypass, and the first one by an `Inactive` event.
    pub fn with_policy<F>(self, policy: F) -> Self
    where
        F: Fn(&Request<RequestBody>) -> Option<Cacheable> + Send + Sync + 'static,
    {
        self.with(|settings| settings.policy.choose = Some(Arc::new(policy)))
    }

    /// Caches marked token counts too. Default: off.
    pub fn with_count_tokens(self) -> Self {
        self.with(|settings| settings.policy.count_tokens = true)
    }

    /// Stores responses that call tools of the caller too. Default: off. Use it only if the caller
    /// may carry out the same tool call again.
    pub fn with_tool_use(self) -> Self {
        self.with(|settings| settings.tool_use = true)
    }

    /// Sets the secret that keys are made with. Default: random, so that keys have no meaning
    /// outside of the process.
    ///
    /// Processes that share a store need the same secret. Keep it confidential: with the secret and
    /// the keys it can be tested whether a known request was made.
    pub fn with_secret(self, secret: [u8; 32]) -> Self {
        self.with(|settings| settings.policy.secret = Secret(secret))
    }

    /// Adds a header whose value distinguishes requests. Default: none. Use it for headers of your
    /// own that identify the caller, such as the key of a gateway. For a caller whose token
    /// changes, see [`CredentialId`](tower_claude_core::CredentialId).
    pub fn with_key_header(self, name: HeaderName) -> Self {
        self.with(|settings| settings.policy.key_headers.push(name))
    }

    /// Shares responses among requests without a known credential too. Default: off, and such
    /// requests bypass the cache. Use it where an inner layer or the client adds the credential,
    /// and all callers have the same rights.
    ///
    /// Known are `x-api-key`, `authorization`, `api-key`, `x-goog-api-key`, `cf-aig-authorization`,
    /// AWS signatures, and the extension [`CredentialId`]. A header of
    /// [`with_key_header`](Self::with_key_header) counts as well.
    ///
    /// [`CredentialId`]: tower_claude_core::CredentialId
    pub fn with_anonymous(self) -> Self {
        self.with(|settings| settings.policy.anonymous = true)
    }

    /// Sets how many callers may share one call, including its leader. Default: 1,024. Further
    /// callers make calls of their own.
    pub fn with_max_waiters(self, most: NonZeroUsize) -> Self {
        self.with(|settings| settings.max_waiters = most.get())
    }

    /// Sets the memory limit of one response, in bytes. Default: 4 MiB. Longer responses pass
    /// through and are not stored, and a reader that is further than this behind the fastest reader
    /// gets an `error` event.
    pub fn with_entry_limit(self, bytes: usize) -> Self {
        self.with(|settings| settings.entry_limit = bytes)
    }

    /// Sets how long a shared call may make no progress, which is a head or a frame. Default: ten
    /// minutes.
    ///
    /// After it, the callers that still wait for the response share a new call, and a
    /// [detached](Self::detached) call ends. Its readers get an `error` event. A call that only its
    /// own caller waits for is left to the timers of that caller and of the inner layers.
    pub fn with_idle_timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.idle_timeout = timeout)
    }

    /// Sets how long a call waits for [`Store::get`], but no longer than to its deadline. Default:
    /// one second. After it the call is a miss. [`MemoryStore`] answers at once.
    pub fn with_store_timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.store_timeout = timeout)
    }

    /// Sets the observer that gets the events. Default: none. They go to `tracing` in any case.
    pub fn with_observer(self, observer: impl Observer + 'static) -> Self {
        self.with(|settings| settings.observers = EventSink::new(observer))
    }

    /// Sets up to how many bytes request bodies are buffered. Default: 32 MiB. Longer bodies pass
    /// through. In a stack the limit of the outermost layer applies.
    pub fn with_body_limit(self, bytes: usize) -> Self {
        self.with(|settings| settings.body_limit = bytes)
    }

    /// Sets the store. Default: a [`MemoryStore`] of 64 MiB.
    pub fn with_store<U: Store>(self, store: U) -> CacheLayer<D, U> {
        let config = Config {
            settings: Arc::unwrap_or_clone(self.config).settings,
            store,
            state: Arc::default(),
        };
        CacheLayer {
            config: Arc::new(config),
            detach: self.detach,
        }
    }

    /// Runs the calls that fill the cache in tokio tasks, which continue when their callers are
    /// gone, until they make no progress for the [idle timeout](Self::with_idle_timeout). Default:
    /// off. The inner service must be `Send + 'static`.
    pub fn detached(self) -> CacheLayer<Spawn, T> {
        self.with_detach(Spawn)
    }

    /// Sets how the calls that fill the cache are run. Default: [`Inline`].
    pub fn with_detach<D2>(self, detach: D2) -> CacheLayer<D2, T> {
        CacheLayer {
            config: self.config,
            detach,
        }
    }

    /// Returns a handle to inspect the layer.
    #[must_use]
    pub fn handle(&self) -> CacheHandle<T> {
        CacheHandle::new(self.config.clone())
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut Arc::make_mut(&mut self.config).settings);
        self
    }
}

impl<S, D: Clone, T> Layer<S> for CacheLayer<D, T>
where
    S: Service<Request<RequestBody>>,
{
    type Service = BufferRequest<Cache<S, D, T>>;

    fn layer(&self, inner: S) -> Self::Service {
        let cache = Cache::new(inner, self.config.clone(), self.detach.clone());
        BufferRequest::with_limit(cache, self.config.settings.body_limit)
    }
}

impl<D, T> fmt::Debug for CacheLayer<D, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.config.settings;
        f.debug_struct("CacheLayer")
            .field("ttl", &settings.ttl)
            .field("stale_for", &settings.stale_for)
            .field("policy", &settings.policy)
            .finish_non_exhaustive()
    }
}
