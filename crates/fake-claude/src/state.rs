//! What all clones of one server share, behind one lock.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::builder::Config;
use crate::fault::Fault;
use crate::log::Attempt;
use crate::model::{Accounting, AdmissionId};

pub(crate) struct Shared {
    pub(crate) config: Config,
    start: Instant,
    wall: SystemTime,
    state: Mutex<State>,
    /// Woken after every change of the log.
    pub(crate) changed: Notify,
}

pub(crate) struct State {
    pub(crate) accounting: Accounting,
    pub(crate) priority: Option<Accounting>,
    pub(crate) log: Vec<Attempt>,
    pub(crate) injected: VecDeque<(Fault, u64)>,
    pub(crate) rng: fastrand::Rng,
}

/// One instant: nanoseconds since the start, for the accounts, and the wall clock that goes with it.
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

    /// The wall clock moves with tokio's clock, so that a paused clock pauses `date` too.
    pub(crate) fn now(&self) -> Now {
        let elapsed = self.start.elapsed();
        Now {
            nanos: u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
            wall: self.wall + elapsed,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in a caller's predicate leaves the state whole: nothing is changed while one runs.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Appends an attempt and says where it is.
    pub(crate) fn record(&mut self, mut attempt: Attempt) -> usize {
        let index = self.log.len();
        attempt.seq = index as u64;
        self.log.push(attempt);
        index
    }
}

/// How an admitted request ended.
#[derive(Clone, Copy)]
pub(crate) enum Ending {
    /// A whole successful answer was made.
    Complete,
    /// The server broke off, or answered with an error after all.
    Broken,
    /// The caller dropped the future or the body.
    ClientGone,
}

/// An admitted request. Dropping it ends the attempt: whoever holds it last was left by the caller.
pub(crate) struct Ticket {
    pub(crate) shared: Arc<Shared>,
    pub(crate) index: usize,
    pub(crate) id: AdmissionId,
    pub(crate) priority: Option<AdmissionId>,
    pub(crate) ended: bool,
}

impl Ticket {
    /// Charges output just made.
    pub(crate) fn produce(&self, tokens: u64) {
        if tokens > 0 && !self.ended {
            self.update(|ticket, state, now| {
                state.accounting.produce(now, ticket.id, tokens);
                if let (Some(pool), Some(id)) = (&mut state.priority, ticket.priority) {
                    pool.produce(now, id, tokens);
                }
                state.log[ticket.index].charged_output += tokens;
            });
        }
    }

    /// Notes that a successful head goes out.
    pub(crate) fn head(&self) {
        self.update(|ticket, state, _| state.log[ticket.index].status = 200);
    }

    /// Notes that content went out.
    pub(crate) fn content(&self) {
        self.update(|ticket, state, _| state.log[ticket.index].content_sent = true);
    }

    /// Notes an error that the answer ends with; the status too where the head is not made yet.
    pub(crate) fn error(&self, status: Option<u16>, kind: &'static str) {
        self.update(|ticket, state, _| {
            let attempt = &mut state.log[ticket.index];
            attempt.error_type = Some(kind);
            attempt.status = status.unwrap_or(attempt.status);
        });
    }

    /// Ends the attempt; only the first ending counts.
    pub(crate) fn end(&mut self, ending: Ending) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.update(|ticket, state, now| {
            state.accounting.finish(now, ticket.id);
            if let (Some(pool), Some(id)) = (&mut state.priority, ticket.priority) {
                pool.finish(now, id);
            }
            let attempt = &mut state.log[ticket.index];
            attempt.finished_at = Some(Duration::from_nanos(now));
            match ending {
                Ending::Complete => {
                    attempt.completed = true;
                    attempt.content_sent = true;
                }
                Ending::Broken => attempt.broken_after_content = attempt.content_sent,
                Ending::ClientGone => attempt.client_gone = true,
            }
        });
    }

    fn update(&self, change: impl FnOnce(&Self, &mut State, u64)) {
        let mut state = self.shared.lock();
        change(self, &mut state, self.shared.now().nanos);
        drop(state);
        self.shared.changed.notify_waiters();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.end(Ending::ClientGone);
    }
}
