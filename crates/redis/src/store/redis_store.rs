//! The store and its lookups.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, Sleep, sleep},
};
use tower_claude_cache::{Entry, Freshness, Key, MemoryStore, Store};

use crate::{
    config::RedisConfig,
    error::RedisError,
    link::{Link, LinkDriver, Script},
    store::{
        expiry::refreshed_early,
        job::{self, Job, Lookup},
        shared::{RedisStoreSnapshot, Shared},
    },
};

static CHECK: Script = Script::new(include_str!("check.lua"));
/// Lookups and writes that may wait for the driver. Further ones are dropped.
const QUEUE: usize = 256;

/// A cache store in memory and, behind it, in Redis, so that processes share responses.
///
/// ```no_run
/// use std::time::Duration;
/// use tower_claude_cache::CacheLayer;
/// use tower_claude_redis::{RedisConfig, RedisStore};
///
/// # async fn make() -> Result<(), tower_claude_redis::RedisError> {
/// let config = RedisConfig::new("redis://127.0.0.1")?;
/// let (store, driver) = RedisStore::connect(&config).await?;
/// tokio::spawn(driver);
/// let secret = [0; 32]; // of all processes
/// let layer = CacheLayer::new(Duration::from_secs(300)).with_secret(secret).with_store(store);
/// # Ok(())
/// # }
/// ```
///
/// **All processes need the same secret**
/// ([`with_secret`](tower_claude_cache::CacheLayer::with_secret)), the same
/// [prefix](RedisConfig::with_prefix) and the same [hash key](RedisConfig::with_hash_key).
/// Otherwise they share nothing.
///
/// * A response that is fresh in memory needs no Redis. Other responses are looked up in Redis
///   within the [deadline](RedisConfig::with_deadline). If Redis fails or hangs, the lookup is a
///   miss.
/// * Each process refreshes a response early, at a random time before its end (`XFetch`): the
///   longer the API took for it, the earlier. So the first process refreshes it for all, in place
///   of all at once. If that fails, the response is still there.
/// * Values carry a version and a keyed hash. A damaged or foreign value is a miss.
/// * Values contain responses and the names of tenants in plain text. Names of keys contain only
///   hashes.
/// * A removed or replaced response may stay in the memory of other processes until it is no longer
///   fresh.
///
/// The store has a connection of its own. All clones share it.
#[derive(Clone)]
pub struct RedisStore {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    memory: MemoryStore,
    max_value: usize,
    single_flight: Option<Duration>,
}

impl RedisStore {
    /// Connects, and returns the store with its driver. Spawn the driver: without it, the store
    /// is one in memory. It ends after the last clone of the store is dropped.
    ///
    /// # Errors
    ///
    /// The reason why Redis cannot be used, with the right or setting that is missing.
    pub async fn connect(
        config: &RedisConfig,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static + use<>), RedisError> {
        Ok(Self::over(Link::open(config, &CHECK).await?))
    }

    /// Returns the store with its driver, which connects. The store works without Redis too, so
    /// that a process can start while Redis is away.
    pub fn connect_later(
        config: &RedisConfig,
    ) -> (Self, impl Future<Output = ()> + Send + 'static + use<>) {
        Self::over(Link::lazy(config, &CHECK))
    }

    fn over(
        (link, driver): (Link, LinkDriver),
    ) -> (Self, impl Future<Output = ()> + Send + 'static + use<>) {
        let shared = Arc::new(Shared::new(link.config().clone()));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let store = Self {
            shared: shared.clone(),
            jobs,
            memory: MemoryStore::default(),
            max_value: 1024 * 1024,
            single_flight: None,
        };
        (store, job::drive(link, driver, queue, shared))
    }

    /// Sets the store in memory. Default: 64 MiB.
    #[must_use]
    pub fn with_memory(mut self, memory: MemoryStore) -> Self {
        self.memory = memory;
        self
    }

    /// Sets the greatest size of a value in Redis, in bytes. Default: 1 MiB. A larger response is
    /// stored in memory only.
    #[must_use]
    pub fn with_max_value(mut self, bytes: usize) -> Self {
        self.max_value = bytes;
        self
    }

    /// Lets processes that miss the same response wait for the first of them, for this time at
    /// most. Default: none waits. Range: 1 ms to 10 minutes, other values are moved into it.
    ///
    /// The first process takes a lock for this time. If it fails or loses the lock, another process
    /// makes the call. That costs a call and does no harm.
    ///
    /// The cache layer waits for a store for one second. Set
    /// [`with_store_timeout`](tower_claude_cache::CacheLayer::with_store_timeout) to a time that is
    /// longer than this one. A store without Redis still answers within the deadline.
    #[must_use]
    pub fn with_single_flight(mut self, time: Duration) -> Self {
        self.single_flight = Some(time.clamp(Duration::from_millis(1), Duration::from_secs(600)));
        self
    }

    /// Returns the counters.
    #[must_use]
    pub fn snapshot(&self) -> RedisStoreSnapshot {
        self.shared.counters.snapshot()
    }

    fn submit(&self, job: Job) -> bool {
        let is_queued = self.jobs.try_send(job).is_ok();
        if !is_queued {
            self.shared.counters.dropped();
        }
        is_queued
    }
}

impl Store for RedisStore {
    type Get = RedisGet;

    fn get(&self, key: &Key) -> RedisGet {
        let known = poll_ready(self.memory.get(key));
        let is_fresh = |entry: &Entry| entry.freshness(Instant::now()) == Freshness::Fresh;
        if known.as_ref().is_some_and(is_fresh) {
            return RedisGet(Get::Ready(known));
        }
        RedisGet(Get::Unsent(Box::new((self.clone(), *key, known))))
    }

    fn insert(&self, key: Key, entry: Entry) {
        let took = self.shared.ended_miss(&key);
        self.memory
            .insert(key, refreshed_early(entry.parts().clone(), took).into());
        self.submit(Job::Put {
            key,
            entry,
            took,
            max_value: self.max_value,
            is_locked: self.single_flight.is_some(),
        });
    }

    fn remove(&self, key: &Key) {
        self.memory.remove(key);
        self.submit(Job::Remove { key: *key });
    }

    /// Returns the bytes in memory.
    fn bytes(&self) -> u64 {
        self.memory.bytes()
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("config", &self.shared.config)
            .field("memory", &self.memory)
            .field("max_value", &self.max_value)
            .field("single_flight", &self.single_flight)
            .finish()
    }
}

/// Returns the output of a future that is ready.
fn poll_ready<T>(mut future: impl Future<Output = Option<T>> + Unpin) -> Option<T> {
    match Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => None,
    }
}

/// Future of [`RedisStore::get`](Store::get).
///
/// A poll with [`Waker::noop`] is answered from memory, because no task would be woken.
#[must_use = "futures do nothing unless polled"]
pub struct RedisGet(Get);

enum Get {
    Ready(Option<Entry>),
    Unsent(Box<(RedisStore, Key, Option<Entry>)>),
    Sent {
        answer: oneshot::Receiver<Option<Entry>>,
        /// The end of waiting for a driver that is not polled.
        timer: Pin<Box<Sleep>>,
        known: Option<Entry>,
    },
}

impl Future for RedisGet {
    type Output = Option<Entry>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Entry>> {
        if let Get::Unsent(unsent) = &mut self.0 {
            let (store, key, known) = &mut **unsent;
            let known = known.take();
            let (sender, answer) = oneshot::channel();
            let lookup = Lookup {
                key: *key,
                known: known.clone(),
                memory: store.memory.clone(),
                single_flight: store.single_flight,
            };
            let is_watched = !cx.waker().will_wake(Waker::noop());
            if !is_watched || !store.submit(Job::Lookup(lookup, sender)) {
                return Poll::Ready(known);
            }
            // Twice the deadline: for its way through the driver, too.
            let time = store.shared.config.deadline * 2 + store.single_flight.unwrap_or_default();
            self.0 = Get::Sent {
                answer,
                timer: Box::pin(sleep(time)),
                known,
            };
        }
        match &mut self.0 {
            Get::Ready(entry) => Poll::Ready(entry.take()),
            Get::Unsent(_) => Poll::Ready(None),
            Get::Sent {
                answer,
                timer,
                known,
            } => {
                if let Poll::Ready(entry) = Pin::new(answer).poll(cx) {
                    return Poll::Ready(entry.unwrap_or_else(|_| known.take()));
                }
                timer.as_mut().poll(cx).map(|()| known.take())
            }
        }
    }
}

impl fmt::Debug for RedisGet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisGet").finish_non_exhaustive()
    }
}
