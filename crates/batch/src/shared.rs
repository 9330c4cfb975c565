//! The state that the services of a layer and its driver share.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use tokio::{sync::Notify, time::Instant};
use tower_claude_core::{
    RequestBody,
    event::{Event, EventSink, emit},
};

use crate::{
    id::PoolId,
    request::{LAYER, Template},
    scheduler::{Scheduler, Ticket, Verdict},
};

pub(crate) type PolicyFn = dyn Fn(&Request<RequestBody>) -> Option<Duration> + Send + Sync;

/// The settings of a layer beside those of its scheduler.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) min_tolerance: Duration,
    pub(crate) ignored: Vec<HeaderName>,
    pub(crate) policy: Option<Arc<PolicyFn>>,
    pub(crate) body_limit: usize,
    pub(crate) events: EventSink,
    pub(crate) clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
}

/// The end of the wait of a call.
pub(crate) enum Word {
    /// It is sent as an ordinary call.
    Live,
    /// It is answered.
    Answer(Box<Response<Bytes>>),
}

/// The place of a waiting call.
#[derive(Default)]
struct Slot {
    waker: Option<Waker>,
    word: Option<Word>,
}

pub(crate) struct Inner {
    pub(crate) scheduler: Scheduler,
    slots: HashMap<Ticket, Slot>,
    templates: HashMap<PoolId, Arc<Template>>,
    pub(crate) journal_failures: u64,
}

/// The time of one step.
#[derive(Clone, Copy)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    pub(crate) wall: SystemTime,
}

pub(crate) struct Shared {
    inner: Mutex<Inner>,
    pub(crate) settings: Settings,
    pub(crate) secret: [u8; 32],
    pub(crate) wake: Notify,
    /// Set when the driver has gone away.
    is_ended: AtomicBool,
}

impl Shared {
    pub(crate) fn new(scheduler: Scheduler, settings: Settings, secret: [u8; 32]) -> Self {
        Self {
            inner: Mutex::new(Inner {
                scheduler,
                slots: HashMap::new(),
                templates: HashMap::new(),
                journal_failures: 0,
            }),
            settings,
            secret,
            wake: Notify::new(),
            is_ended: AtomicBool::new(false),
        }
    }

    /// Changes the state. Then notifies the callers whose wait is over, and emits the events, both
    /// without the lock.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Inner, Now) -> T) -> T {
        self.change_with(None, change)
    }

    /// Changes the state by an error that callers may be answered with.
    pub(crate) fn change_with<T>(
        &self,
        error: Option<&Response<Bytes>>,
        change: impl FnOnce(&mut Inner, Now) -> T,
    ) -> T {
        let now = Now {
            instant: Instant::now(),
            wall: (self.settings.clock)(),
        };
        let mut wakers = Vec::new();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut inner, now);
        for (ticket, verdict) in inner.scheduler.take_verdicts() {
            let word = match (verdict, error) {
                (Verdict::Denied, Some(error)) => Word::Answer(Box::new(error.clone())),
                (Verdict::Denied | Verdict::Live(_), _) => Word::Live,
            };
            wakers.extend(inner.set_word(ticket, word));
        }
        let decisions = inner.scheduler.take_decisions();
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
        for decision in decisions {
            let event = Event::Batch {
                layer: LAYER,
                decision: decision.decision,
                because: decision.because,
                calls: decision.calls,
                batch: decision.batch.as_deref(),
                model: decision.model.as_deref(),
                latency: decision.latency,
                cost: decision.cost,
                saved: decision.saved,
            };
            emit(&self.settings.events, &event);
        }
        result
    }

    pub(crate) fn set_ended(&self) {
        self.is_ended.store(true, Ordering::Release);
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::Acquire)
    }
}

impl Inner {
    /// Makes a place for a waiting call, and keeps the head of its request for its pool.
    pub(crate) fn wait(&mut self, ticket: Ticket, pool: PoolId, template: Template) {
        /// The number of pools from which those without calls are searched for.
        const MANY: usize = 64;
        if self.templates.len() >= MANY && !self.templates.contains_key(&pool) {
            let scheduler = &self.scheduler;
            self.templates.retain(|pool, _| scheduler.has_pool(*pool));
        }
        // The newest, because a credential may have been renewed.
        self.templates.insert(pool, Arc::new(template));
        self.slots.insert(ticket, Slot::default());
    }

    /// Returns the head of requests about the batches of a pool.
    pub(crate) fn template(&self, pool: PoolId) -> Option<Arc<Template>> {
        self.templates.get(&pool).cloned()
    }

    /// Ends the wait of a call, and returns the waker of its caller.
    pub(crate) fn set_word(&mut self, ticket: Ticket, word: Word) -> Option<Waker> {
        let slot = self.slots.get_mut(&ticket)?;
        slot.word = Some(word);
        slot.waker.take()
    }

    /// Returns the end of the wait of a call. Otherwise keeps the waker, and puts the old one in
    /// its place.
    ///
    /// The caller drops the old waker without the lock, because that may drop a task with calls.
    pub(crate) fn poll_word(&mut self, ticket: Ticket, waker: &mut Option<Waker>) -> Option<Word> {
        let slot = self.slots.get_mut(&ticket)?;
        let word = slot.word.take();
        if word.is_some() {
            *waker = self.forget(ticket);
        } else {
            std::mem::swap(&mut slot.waker, waker);
        }
        word
    }

    /// Removes the place of a call, and returns its waker, which is dropped without the lock.
    #[must_use]
    pub(crate) fn forget(&mut self, ticket: Ticket) -> Option<Waker> {
        self.slots.remove(&ticket)?.waker
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
