//! State that all clones of one server share, behind one lock.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::batches::outcome::{BatchOutcome, LostCreation};
use crate::batches::store::BatchStore;
use crate::cloud::FakeCloud;
use crate::cloud::credential::FakeCredential;
use crate::config::Config;
use crate::fault::Fault;
use crate::log::Attempt;
use crate::model::{Accounting, AdmissionId, CacheTokens, CacheWrite, PromptCache};
use crate::script::Reply;
use crate::validate::ValidCall;

pub(crate) struct Shared {
    pub(crate) config: Config,
    start: Instant,
    wall: SystemTime,
    state: Mutex<State>,
    /// Notified after every change of the log.
    pub(crate) changed: Notify,
}

pub(crate) struct State {
    pub(crate) accounting: Accounting,
    pub(crate) priority: Option<Accounting>,
    pub(crate) log: Vec<Attempt>,
    pub(crate) injected: VecDeque<(Fault, u64)>,
    pub(crate) replies: VecDeque<Reply>,
    /// By `custom_id`.
    pub(crate) batch_outcomes: HashMap<String, BatchOutcome>,
    /// The ends of the next creations.
    pub(crate) lost_creations: VecDeque<LostCreation>,
    pub(crate) batches: BatchStore,
    pub(crate) cache: PromptCache,
    /// The cache entries of requests whose responses have not begun.
    pub(crate) cache_writes: HashMap<AdmissionId, CacheWrite>,
    /// The index of the oldest attempt whose request is kept.
    pub(crate) oldest_request: usize,
    /// The size of the bodies of the kept requests.
    pub(crate) request_bytes: usize,
    pub(crate) rng: fastrand::Rng,
    /// The names of the credentials that were expired before their time.
    pub(crate) expired: HashSet<String>,
}

/// A point in time: nanoseconds since the start, for the accounting, and the wall clock.
#[derive(Clone, Copy)]
pub(crate) struct Now {
    pub(crate) nanos: u64,
    pub(crate) wall: SystemTime,
}

impl Now {
    pub(crate) fn since_start(self) -> Duration {
        Duration::from_nanos(self.nanos)
    }
}

impl Shared {
    pub(crate) fn new(config: Config, state: State) -> Self {
        Self {
            config,
            start: Instant::now(),
            wall: SystemTime::now(),
            state: Mutex::new(state),
            changed: Notify::new(),
        }
    }

    /// Returns the current time. The wall clock follows tokio's clock, so that a paused clock
    /// pauses `date` too.
    pub(crate) fn now(&self) -> Now {
        let elapsed = self.start.elapsed();
        Now {
            nanos: u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
            wall: self.wall + elapsed,
        }
    }

    /// Returns a known credential, and true if it has expired.
    pub(crate) fn find_credential<'a>(
        &self,
        cloud: &'a FakeCloud,
        is: impl Fn(&FakeCredential) -> bool,
    ) -> Option<(&'a FakeCredential, bool)> {
        let known = cloud.credentials.iter().find(|known| is(known))?;
        let is_over = known.has_expired(self.now().since_start());
        let has_expired = is_over || self.lock().expired.contains(known.name());
        Some((known, has_expired))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in a caller's predicate cannot leave a partial change, since nothing is changed
        // meanwhile.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns the tokens of a valid request that are read from the prompt cache and written to
    /// it, and the entries that it writes.
    pub(crate) fn cache_tokens(
        &mut self,
        call: &ValidCall,
        now: u64,
    ) -> (CacheTokens, Option<CacheWrite>) {
        match (call.scripted_cache, &call.cached) {
            (None, Some(prompt)) => {
                let (blocks, markers) = (&prompt.blocks, &prompt.markers);
                let (tokens, write) = self.cache.start(now, blocks, markers, prompt.least);
                (tokens, Some(write))
            }
            (scripted, _) => (scripted.unwrap_or_default(), None),
        }
    }

    /// Makes the cache entries of a request readable, because its response has begun.
    fn begin_response(&mut self, id: AdmissionId, now: u64) {
        if let Some(write) = self.cache_writes.remove(&id) {
            self.cache.begin_response(now, write);
        }
    }

    /// Appends an attempt and returns its index. Drops the oldest requests over the limits.
    pub(crate) fn record(&mut self, mut attempt: Attempt, config: &Config) -> usize {
        let index = self.log.len();
        attempt.seq = index as u64;
        self.request_bytes += body_bytes(&attempt);
        self.log.push(attempt);
        while self.oldest_request < self.log.len()
            && (self.log.len() - self.oldest_request > config.kept_requests
                || self.request_bytes > KEPT_BYTES)
        {
            let oldest = &mut self.log[self.oldest_request];
            self.request_bytes -= body_bytes(oldest);
            oldest.request = None;
            self.oldest_request += 1;
        }
        index
    }
}

/// The maximum size of the bodies of all kept requests.
const KEPT_BYTES: usize = 64 * 1024 * 1024;

fn body_bytes(attempt: &Attempt) -> usize {
    attempt
        .request
        .as_ref()
        .map_or(0, |request| request.body.len())
}

/// End of an admitted request.
#[derive(Clone, Copy)]
pub(crate) enum AttemptEnd {
    /// The successful response was complete.
    Complete,
    /// The server broke off the response, or ended it with an error.
    Broken,
    /// The caller dropped the future or the body.
    ClientGone,
}

/// An admitted request. Dropping it ends the attempt, because only the caller can drop it before
/// its end.
pub(crate) struct InFlightAttempt {
    pub(crate) shared: Arc<Shared>,
    pub(crate) index: usize,
    pub(crate) id: AdmissionId,
    pub(crate) priority: Option<AdmissionId>,
    pub(crate) ended: bool,
}

impl InFlightAttempt {
    /// Charges output that was just produced.
    pub(crate) fn produce(&self, tokens: u64) {
        if tokens > 0 && !self.ended {
            self.update(|this, state, now| {
                state.accounting.produce(now, this.id, tokens);
                state.begin_response(this.id, now);
                if let (Some(pool), Some(id)) = (&mut state.priority, this.priority) {
                    pool.produce(now, id, tokens);
                }
                state.log[this.index].charged_output += tokens;
            });
        }
    }

    /// Records that a successful head is sent.
    pub(crate) fn head(&self) {
        self.update(|this, state, _| state.log[this.index].status = 200);
    }

    /// Records that content is sent.
    pub(crate) fn content(&self) {
        self.update(|this, state, now| {
            state.log[this.index].content_sent = true;
            state.begin_response(this.id, now);
        });
    }

    /// Records an error at the end of the response, and its status if the head is not sent yet.
    pub(crate) fn error(&self, status: Option<u16>, kind: &'static str) {
        self.update(|this, state, _| {
            let attempt = &mut state.log[this.index];
            attempt.error_type = Some(kind);
            attempt.status = status.unwrap_or(attempt.status);
        });
    }

    /// Ends the attempt. Further calls do nothing.
    pub(crate) fn end(&mut self, ending: AttemptEnd) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.update(|this, state, now| {
            state.accounting.finish(now, this.id);
            if let (Some(pool), Some(id)) = (&mut state.priority, this.priority) {
                pool.finish(now, id);
            }
            let attempt = &mut state.log[this.index];
            attempt.finished_at = Some(Duration::from_nanos(now));
            match ending {
                AttemptEnd::Complete => {
                    attempt.completed = true;
                    attempt.content_sent = true;
                    state.begin_response(this.id, now);
                }
                AttemptEnd::Broken => attempt.broken_after_content = attempt.content_sent,
                AttemptEnd::ClientGone => attempt.client_gone = true,
            }
            // Without content, nothing was written to the prompt cache.
            state.cache_writes.remove(&this.id);
        });
    }

    fn update(&self, change: impl FnOnce(&Self, &mut State, u64)) {
        let mut state = self.shared.lock();
        change(self, &mut state, self.shared.now().nanos);
        drop(state);
        self.shared.changed.notify_waiters();
    }
}

impl Drop for InFlightAttempt {
    fn drop(&mut self) {
        self.end(AttemptEnd::ClientGone);
    }
}
