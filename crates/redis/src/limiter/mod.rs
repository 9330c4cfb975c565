//! A limiter whose limits several processes share.

mod driver;
pub(crate) mod message;

use std::{fmt, num::NonZeroU32, pin::Pin, sync::Arc, time::Duration};

use tokio::time::Instant;
use tower_claude_core::{
    Cost, Priority, Scope,
    event::{EventSink, Observer},
    toolkit::{AsScope, LimiterId, set_credential_key},
};
use tower_claude_limiter::{
    AcquireRequest, Limiter, LimiterConfig, Limits, LocalAcquire, LocalLimiter, QueuePlace,
    Reservation, ScopeSnapshot, SharePolicy,
};

pub use driver::{RedisLimiterSnapshot, StoreState};

use crate::{
    config::RedisConfig,
    error::RedisError,
    limiter::driver::{Driver, Status},
    link::{Link, LinkDriver, Script},
};

pub(crate) static CHECK: Script = Script::new(include_str!("check.lua"));

/// The time beyond the deadline of an answer after which requests are admitted without it.
const GRACE: Duration = Duration::from_millis(5);

/// The settings of a [`RedisLimiter`]: its limits, and what to do without Redis.
#[derive(Clone, Debug)]
#[must_use]
pub struct SharedLimits {
    limits: Limits,
    config: LimiterConfig,
    policy: SharePolicy,
    events: EventSink,
}

impl SharedLimits {
    /// Creates the recommended settings with these limits of all processes together.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            config: LimiterConfig::new(),
            policy: SharePolicy::new(),
            events: EventSink::default(),
        }
    }

    /// Sets the configuration of the limiter. Default: [`LimiterConfig::new`]. Its
    /// [`sharing`](LimiterConfig::sharing) is not used, since Redis has all use.
    pub fn with_config(mut self, config: LimiterConfig) -> Self {
        self.config = config;
        self
    }

    /// Rejects requests with 529 while Redis does not answer. By default they are admitted by the
    /// local share: the limits divided by the number of processes.
    pub fn fail_closed(mut self) -> Self {
        self.policy = self.policy.with_fail_closed(true);
        self
    }

    /// Sets the number of processes by which limits are divided if Redis has never answered. The
    /// default is 4.
    pub fn with_assumed_processes(mut self, processes: NonZeroU32) -> Self {
        self.policy = self.policy.with_assumed_processes(processes);
        self
    }

    /// Reports the loss and the return of Redis to this observer, in addition to `tracing`.
    pub fn with_observer(mut self, observer: impl Observer + 'static) -> Self {
        self.events = EventSink::new(observer);
        self
    }
}

impl From<Limits> for SharedLimits {
    fn from(limits: Limits) -> Self {
        Self::new(limits)
    }
}

/// A limiter whose limits several processes share through Redis.
///
/// Each process queues and orders its own requests, as a [`LocalLimiter`] does. Redis has the
/// levels. The first request of a queue charges its own cost and that of a share of the requests
/// behind it, in one round trip, and Redis returns the time from which on they may be sent. So all
/// processes together use the whole rate of the limits, and busy processes get equal shares.
///
/// ```no_run
/// use std::num::NonZeroU64;
/// use tower_claude_limiter::Limits;
/// use tower_claude_redis::{RedisConfig, RedisLimiter};
///
/// # async fn make() -> Result<(), tower_claude_redis::RedisError> {
/// let config = RedisConfig::new("redis://127.0.0.1")?.with_hash_key("a text of all processes");
/// let limits = Limits::new().with_requests_per_minute(NonZeroU64::new(1_000).unwrap());
/// let (limiter, driver) = RedisLimiter::connect(&config, limits).await?;
/// tokio::spawn(driver);
/// // TokenBucketLayer::over(limiter), or recommended().with_limiter(limiter)
/// # Ok(())
/// # }
/// ```
///
/// * **Make it before the first request.** Scopes contain hashes of credentials, whose key the
///   limiter sets, so that all processes agree.
/// * **Limits** may differ between processes. The smallest configured one holds, until no process
///   has had it for 30 s. Limits and levels in the response headers of one process hold for all.
/// * **A 429** of one process pauses all, within a round trip.
/// * **Classes**: a request of class batch leaves an eighth of each bucket to others, one of class
///   normal a 64th.
/// * **Without Redis**, each process uses its share of the limits, from the last known level on,
///   and paces itself by response headers. It never waits for Redis longer than the
///   [deadline](RedisConfig::with_deadline) and 5 ms. What it used lowers the levels when Redis is
///   back. A state that was lost begins with half-full buckets at most.
/// * The limit on requests **in flight** counts in each process.
#[derive(Clone)]
pub struct RedisLimiter {
    local: LocalLimiter,
    status: Arc<Status>,
}

impl RedisLimiter {
    /// Connects, and returns the limiter with its driver. Spawn the driver: without it, the limiter
    /// uses the local share. The driver ends after the last clone of the limiter is dropped.
    ///
    /// # Errors
    ///
    /// The reason why Redis cannot be used, with the right or setting that is missing.
    /// [`RedisError::MadeTooLate`] after the first request, or after a limiter with another hash
    /// key.
    pub async fn connect(
        config: &RedisConfig,
        limits: impl Into<SharedLimits>,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), RedisError> {
        let limits = limits.into();
        agree(config)?;
        Ok(Self::over(Link::open(config, &CHECK).await?, limits))
    }

    /// Returns the limiter with its driver, which connects. The limiter works without Redis too, so
    /// that a process can start while Redis is away.
    ///
    /// # Errors
    ///
    /// [`RedisError::MadeTooLate`] after the first request, or after a limiter with another hash
    /// key.
    pub fn connect_later(
        config: &RedisConfig,
        limits: impl Into<SharedLimits>,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), RedisError> {
        agree(config)?;
        Ok(Self::over(Link::lazy(config, &CHECK), limits.into()))
    }

    fn over(
        (link, connection): (Link, LinkDriver),
        limits: SharedLimits,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let patience = link.config().deadline + GRACE;
        let policy = limits.policy.with_patience(patience);
        let (local, queue) = LocalLimiter::shared(limits.limits, limits.config, policy);
        let status = Arc::new(Status::new(policy.fail_closed, limits.events));
        let driver = Driver::new(link, queue, status.clone());
        let driver = async move {
            tokio::join!(connection.run(), driver.run());
        };
        (Self { local, status }, driver)
    }

    /// Returns the state of the connection, and counters since the start.
    #[must_use]
    pub fn store(&self) -> RedisLimiterSnapshot {
        self.status.snapshot()
    }

    /// Returns the state of one scope, or `None` before its first request.
    #[must_use]
    pub fn scope(&self, scope: &Scope) -> Option<ScopeSnapshot> {
        self.local.scope(scope)
    }
}

fn agree(config: &RedisConfig) -> Result<(), RedisError> {
    if set_credential_key(config.credential_key()) {
        Ok(())
    } else {
        Err(RedisError::MadeTooLate)
    }
}

impl Limiter for RedisLimiter {
    type Acquire = LocalAcquire;

    fn acquire(&self, request: AcquireRequest) -> LocalAcquire {
        self.local.acquire(request)
    }

    fn try_acquire(
        &self,
        scope: &dyn AsScope,
        cost: &Cost,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Option<Reservation> {
        self.local.try_acquire(scope, cost, deadline, now)
    }

    fn is_estimate_doubtful(&self, scope: &dyn AsScope, cost: &Cost, now: Instant) -> bool {
        self.local.is_estimate_doubtful(scope, cost, now)
    }

    fn place(&self, acquire: &LocalAcquire) -> Option<QueuePlace> {
        self.local.place(acquire)
    }

    fn revise(&self, acquire: Pin<&mut LocalAcquire>, cost: Cost) {
        self.local.revise(acquire, cost);
    }

    fn raise_priority(&self, acquire: Pin<&mut LocalAcquire>, priority: Priority) {
        self.local.raise_priority(acquire, priority);
    }

    fn expect_headers(&self) {
        self.local.expect_headers();
    }

    fn id(&self) -> LimiterId {
        self.local.id()
    }

    fn snapshot(&self) -> Vec<ScopeSnapshot> {
        self.local.snapshot()
    }
}

impl fmt::Debug for RedisLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLimiter")
            .field("local", &self.local)
            .field("store", &self.store())
            .finish()
    }
}
