//! The layer and its settings.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderName, Request};
use tokio::time::Instant;
use tower_claude_core::{
    RequestBody,
    event::{EventSink, Observer},
    toolkit::BufferRequest,
};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    driver::BatchDriver,
    handle::BatchHandle,
    journal::{Journal, MemoryJournal},
    scheduler::{Scheduler, SchedulerSettings},
    service::Batch,
    shared::{Settings, Shared},
};

/// The greatest size of a batch that the API takes, less a margin.
const MOST_BYTES: usize = 256 * 1024 * 1024 / 100 * 95;
/// The most calls of a batch that the API takes.
const MOST_ITEMS: usize = 100_000;

/// The settings of a [`BatchLayer`] and its [`BatchDriver`]. [`pair`](Self::pair) creates both.
#[must_use = "`pair` creates the layer and the driver"]
pub struct BatchBuilder<J> {
    journal: J,
    settings: Settings,
    scheduler: SchedulerSettings,
}

impl<J: Journal> BatchBuilder<J> {
    fn new(journal: J) -> Self {
        Self {
            settings: Settings {
                min_tolerance: Duration::from_secs(600),
                ignored: Vec::new(),
                policy: None,
                body_limit: RequestBody::DEFAULT_LIMIT,
                events: EventSink::default(),
                clock: Arc::new(clock(Instant::now(), SystemTime::now())),
            },
            scheduler: SchedulerSettings {
                persistent: journal.is_persistent(),
                ..SchedulerSettings::default()
            },
            journal,
        }
    }

    /// Sets the shortest tolerance with which a call is queued. Default: ten minutes. Calls with a
    /// shorter one are sent at once, as are calls whose tolerance is shorter than the batches of
    /// their model usually take.
    pub const fn with_min_tolerance(mut self, least: Duration) -> Self {
        self.settings.min_tolerance = least;
        self
    }

    /// Sets the longest time in the queue. Default: five minutes. A call waits for a tenth of its
    /// tolerance if that is shorter, and is sent earlier if its batch would be late otherwise.
    pub const fn with_max_age(mut self, age: Duration) -> Self {
        self.scheduler.max_age = age;
        self
    }

    /// Sets the most calls and bytes of a batch. Default: 100,000 calls, 32 MiB. At most 100,000
    /// calls and 243 MiB, and at least one call. A queue that reaches a limit is sent at once.
    pub fn with_max_batch(mut self, calls: usize, bytes: usize) -> Self {
        self.scheduler.max_items = calls.clamp(1, MOST_ITEMS);
        self.scheduler.max_bytes = bytes.min(MOST_BYTES);
        self
    }

    /// Sets the most calls and bytes in the queue, of all pools together. Default: 200,000 calls,
    /// 1 GiB. Further calls are sent at once.
    pub const fn with_max_queue(mut self, calls: usize, bytes: usize) -> Self {
        self.scheduler.max_queued = calls;
        self.scheduler.max_queued_bytes = bytes;
        self
    }

    /// Sets the time that an ordinary call needs, its wait for rate limits included. Default: two
    /// minutes. A call without an answer is sent as an ordinary call that long before its tolerance
    /// is over.
    pub const fn with_live_time(mut self, time: Duration) -> Self {
        self.scheduler.live_time = time;
        self
    }

    /// Sets the time after its delivery for which an answer is returned once more if the same
    /// question is asked after a restart, because the caller may have lost it. Default: one hour.
    /// It needs a persistent journal. With zero, a question that was answered is a new one.
    pub const fn with_redelivery(mut self, time: Duration) -> Self {
        self.scheduler.redelivery = time;
        self
    }

    /// Sets a function that returns the tolerance of a Messages request without one. Default: none,
    /// so that such requests pass through.
    pub fn with_policy<F>(mut self, policy: F) -> Self
    where
        F: Fn(&Request<RequestBody>) -> Option<Duration> + Send + Sync + 'static,
    {
        self.settings.policy = Some(Arc::new(policy));
        self
    }

    /// Adds a header that differs from call to call and does not matter to the answer. Default: the
    /// usual ones, such as `x-request-id`, `traceparent` and `user-agent`. Calls that differ in any
    /// other header do not share a batch.
    pub fn with_ignored_header(mut self, name: HeaderName) -> Self {
        self.settings.ignored.push(name);
        self
    }

    /// Sets the most bytes of a request body that are buffered. Default: 32 MiB. Longer bodies pass
    /// through. In a stack the limit of the outermost layer applies.
    pub const fn with_body_limit(mut self, bytes: usize) -> Self {
        self.settings.body_limit = bytes;
        self
    }

    /// Sets the observer that gets the events. Default: none. They go to `tracing` in any case.
    pub fn with_observer(mut self, observer: impl Observer + 'static) -> Self {
        self.settings.events = EventSink::new(observer);
        self
    }

    /// Sets the clock for the age of batches. Default: the system's, or tokio's if that is ahead,
    /// so that time can be paused in tests. A test that replays a journal needs one clock for all
    /// layers.
    pub fn with_clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.settings.clock = Arc::new(now);
        self
    }

    /// Creates the layer and its driver. The driver does all the work, so spawn
    /// [`BatchDriver::run`].
    #[must_use = "without its driver the layer creates no batches"]
    pub fn pair(mut self) -> (BatchLayer, BatchDriver<J>) {
        let secret = self.journal.secret();
        let mut scheduler = Scheduler::new(self.scheduler, fastrand::u64(..));
        let wall = (self.settings.clock)();
        scheduler.replay(self.journal.replay(), Instant::now(), wall);
        let shared = Arc::new(Shared::new(scheduler, self.settings, secret));
        let driver = BatchDriver::new(shared.clone(), self.journal);
        (BatchLayer { shared }, driver)
    }
}

/// Returns the system's clock, or tokio's if that is ahead.
fn clock(start: Instant, at: SystemTime) -> impl Fn() -> SystemTime + Send + Sync {
    move || {
        let tokio = at.checked_add(start.elapsed());
        tokio.map_or_else(SystemTime::now, |tokio| tokio.max(SystemTime::now()))
    }
}

impl<J> fmt::Debug for BatchBuilder<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchBuilder")
            .field("scheduler", &self.scheduler)
            .field("min_tolerance", &self.settings.min_tolerance)
            .finish_non_exhaustive()
    }
}

/// A layer that answers calls that can wait by Message Batches. See the [crate
/// documentation](crate).
///
/// Every clone of the layer and every service made from it share the queue and the batches.
#[derive(Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct BatchLayer {
    shared: Arc<Shared>,
}

impl BatchLayer {
    /// Returns the settings of a layer with this journal.
    #[expect(clippy::new_ret_no_self, reason = "the layer is one half of a pair")]
    pub fn new<J: Journal>(journal: J) -> BatchBuilder<J> {
        BatchBuilder::new(journal)
    }

    /// Returns the settings of a layer that forgets its batches when the program ends.
    pub fn in_memory() -> BatchBuilder<MemoryJournal> {
        Self::new(MemoryJournal::new())
    }

    /// Returns a handle to inspect the layer.
    #[must_use]
    pub fn handle(&self) -> BatchHandle {
        BatchHandle::new(self.shared.clone())
    }
}

impl<S> Layer<S> for BatchLayer
where
    S: Service<Request<RequestBody>>,
{
    type Service = BufferRequest<Batch<S>>;

    fn layer(&self, inner: S) -> Self::Service {
        let batch = Batch::new(inner, self.shared.clone());
        BufferRequest::with_limit(batch, self.shared.settings.body_limit)
    }
}

impl fmt::Debug for BatchLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchLayer").finish_non_exhaustive()
    }
}
