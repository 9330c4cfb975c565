//! The driver of a shared limiter: the exchange of messages with Redis, and its outages.

use std::{
    collections::{BTreeMap, HashMap},
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};
use tower_claude_core::event::{Event, EventSink, emit};
use tower_claude_limiter::{
    ShareQueue, SharedScope,
    pool::{ShareMessage, ShareReply},
};

use crate::{
    error::RedisError,
    limiter::message,
    link::{Link, Script},
};

pub(crate) static SHARE: Script = Script::new(include_str!("share.lua"));

/// Writes as the other script does, so that it fails if that fails.
static PROBE: Script = Script::new(
    "redis.call('HSET', KEYS[1], 'a', '1') redis.call('PEXPIRE', KEYS[1], 1000) return {1}",
);

/// The name of the limiter in events.
const NAME: &str = "redis-limiter";

/// The failures within [`FAILURES_WITHIN`] after which Redis counts as lost.
const MAX_FAILURES: usize = 3;
const FAILURES_WITHIN: Duration = Duration::from_secs(1);

/// The pauses between two probes. The longest is short, since processes that are back later use
/// their local share beside those that are back.
const PROBES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];

/// The time without a loss after which the next loss is probed as often as the first one.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// The time after which a scope whose keys cannot be used is tried again.
const BROKEN_FOR: Duration = Duration::from_secs(4);

/// The shortest time between two lines about a lost state.
const LOST_EVERY: Duration = Duration::from_secs(60);

/// The most scopes whose state is remembered.
const MAX_EPOCHS: usize = 4_096;

/// The state of the store of a [`RedisLimiter`](crate::RedisLimiter).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreState {
    /// Redis answers, and the limits are shared.
    #[default]
    Shared,
    /// Redis does not answer, and each process uses its share of the limits.
    LocalShare,
    /// Redis does not answer, and requests are rejected.
    Refusing,
}

/// The state of the store of a [`RedisLimiter`](crate::RedisLimiter), and counters since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisLimiterSnapshot {
    /// The state.
    pub state: StoreState,
    /// The number of losses of Redis.
    pub losses: u64,
    /// The messages that were answered.
    pub answered: u64,
    /// The messages that were sent a second time, because the first answer was lost.
    pub repeated: u64,
    /// The scopes whose state in Redis was lost.
    pub states_lost: u64,
    /// The messages that failed, by cause.
    pub failures: BTreeMap<&'static str, u64>,
}

/// The state that the limiter and its driver share.
pub(crate) struct Status {
    fail_closed: bool,
    events: EventSink,
    /// Changed for each message, so not behind the lock.
    answered: AtomicU64,
    snapshot: Mutex<RedisLimiterSnapshot>,
}

impl Status {
    pub(crate) fn new(fail_closed: bool, events: EventSink) -> Self {
        Self {
            fail_closed,
            events,
            answered: AtomicU64::new(0),
            snapshot: Mutex::default(),
        }
    }

    pub(crate) fn snapshot(&self) -> RedisLimiterSnapshot {
        let mut snapshot = self.lock().clone();
        snapshot.answered = self.answered.load(Ordering::Relaxed);
        snapshot
    }

    /// Sets the state without Redis.
    fn set_lost(&self) {
        self.lock().state = if self.fail_closed {
            StoreState::Refusing
        } else {
            StoreState::LocalShare
        };
    }

    fn count(&self, error: &RedisError) {
        let failures = &mut self.lock().failures;
        *failures.entry(error.cause()).or_default() += 1;
    }

    fn lock(&self) -> MutexGuard<'_, RedisLimiterSnapshot> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of the exchange of one message.
struct Exchanged {
    scope: SharedScope,
    message: ShareMessage,
    result: Result<ShareReply, RedisError>,
}

/// The outage of Redis.
#[derive(Debug)]
struct Outage {
    since: Instant,
    /// The time of the next probe, and the pause before it.
    probe_at: Instant,
    pause: Duration,
}

/// The driver of a limiter.
pub(crate) struct Driver {
    link: Link,
    queue: ShareQueue,
    status: Arc<Status>,
    process: String,
    outage: Option<Outage>,
    /// The times of the last failures.
    failures: Vec<Instant>,
    regained_at: Option<(Instant, Duration)>,
    /// Scopes whose keys cannot be used, with their message, until they are tried again.
    broken: Vec<(Instant, SharedScope, u64)>,
    epochs: HashMap<u64, u64>,
    reported_lost_at: Option<Instant>,
    has_warned_of_limits: bool,
    has_warned_of_keys: bool,
}

impl Driver {
    pub(crate) fn new(link: Link, queue: ShareQueue, status: Arc<Status>) -> Self {
        Self {
            link,
            queue,
            status,
            process: format!("{:x}", fastrand::u64(..)),
            outage: None,
            failures: Vec::new(),
            regained_at: None,
            broken: Vec::new(),
            epochs: HashMap::new(),
            reported_lost_at: None,
            has_warned_of_limits: false,
            has_warned_of_keys: false,
        }
    }

    /// Exchanges messages until the last clone of the limiter is dropped.
    pub(crate) async fn run(mut self) {
        let mut running = FuturesUnordered::new();
        loop {
            let probe_at = self.outage.as_ref().map(|outage| outage.probe_at);
            let retry_at = self.broken.first().map(|(at, ..)| *at);
            let next = poll_fn(|cx| self.queue.poll_next(cx));
            tokio::select! {
                biased;
                Some(exchanged) = running.next(), if !running.is_empty() => {
                    self.on_exchanged(exchanged);
                }
                scope = next => match scope {
                    Some(scope) => {
                        if let Some(message) = scope.take_message() {
                            let (link, process) = (self.link.clone(), self.process.clone());
                            let status = self.status.clone();
                            running.push(exchange(link, process, status, scope, message));
                        }
                    }
                    None => return,
                },
                () = wait_until(probe_at) => {
                    if is_usable(&self.link).await {
                        self.on_regained();
                    } else if let Some(outage) = &mut self.outage {
                        outage.delay();
                    }
                }
                () = wait_until(retry_at) => {
                    let (_, scope, id) = self.broken.remove(0);
                    scope.on_reply(id, None);
                }
            }
        }
    }

    fn on_exchanged(&mut self, exchanged: Exchanged) {
        let Exchanged {
            scope,
            message,
            result,
        } = exchanged;
        let error = match result {
            Ok(reply) => {
                self.status.answered.fetch_add(1, Ordering::Relaxed);
                self.check(&scope, &message, &reply);
                scope.on_reply(message.id, Some(&reply));
                return;
            }
            Err(error) => error,
        };
        self.status.count(&error);
        let now = Instant::now();
        match error {
            RedisError::WrongType { .. } | RedisError::ScriptFailed { .. } => {
                if !std::mem::replace(&mut self.has_warned_of_keys, true) {
                    tracing::warn!(
                        target: "tower_claude", layer = NAME, decision = "store_lost",
                        because = error.cause(), "a scope goes on without Redis: {error}",
                    );
                }
                self.broken.push((now + BROKEN_FOR, scope, message.id));
                return;
            }
            _ => {}
        }
        if self.outage.is_none() {
            self.failures
                .retain(|at| now.saturating_duration_since(*at) < FAILURES_WITHIN);
            self.failures.push(now);
            let is_certain = !matches!(error, RedisError::Timeout { .. } | RedisError::Busy);
            if is_certain || self.failures.len() >= MAX_FAILURES {
                self.on_lost(now, &error);
            }
        }
        scope.on_reply(message.id, None);
    }

    fn on_lost(&mut self, now: Instant, error: &RedisError) {
        self.failures.clear();
        let recent = self
            .regained_at
            .filter(|(at, _)| now.saturating_duration_since(*at) < STABLE_AFTER);
        let pause = recent.map_or(PROBES[0], |(_, pause)| (pause * 2).min(PROBES[1]));
        let mut outage = Outage {
            since: now,
            probe_at: now,
            pause,
        };
        outage.schedule(now);
        self.outage = Some(outage);
        self.status.lock().losses += 1;
        self.status.set_lost();
        let because = error.cause();
        emit(
            &self.status.events,
            &Event::StoreLost {
                layer: NAME,
                because,
            },
        );
        self.queue.set_down(true);
    }

    fn on_regained(&mut self) {
        let Some(outage) = self.outage.take() else {
            return;
        };
        let now = Instant::now();
        self.regained_at = Some((now, outage.pause));
        self.status.lock().state = StoreState::Shared;
        let outage = now.saturating_duration_since(outage.since);
        let event = Event::StoreRegained {
            layer: NAME,
            outage,
        };
        emit(&self.status.events, &event);
        self.queue.set_down(false);
    }

    /// Reports limits that differ between processes, once, and a state that was lost.
    fn check(&mut self, scope: &SharedScope, message: &ShareMessage, reply: &ShareReply) {
        let pairs = message.limits.iter().zip(&reply.limits);
        let differs = pairs
            .filter_map(|(own, shared)| Some((own.settings.configured?, shared.configured)))
            .find(|(own, smallest)| *smallest > 0 && smallest != own);
        if let Some((own, smallest)) = differs
            && !std::mem::replace(&mut self.has_warned_of_limits, true)
        {
            tracing::warn!(
                target: "tower_claude", layer = NAME, decision = "limit_differs",
                scope = %scope.scope(), configured = own, limit = smallest,
                "the configured limit is {own}, another process has {smallest}, which holds",
            );
        }
        if reply.epoch == 0 {
            return;
        }
        if self.epochs.len() >= MAX_EPOCHS {
            self.epochs.clear();
        }
        let old = self.epochs.insert(scope.number(), reply.epoch);
        if old.is_some_and(|old| old != reply.epoch) {
            self.status.lock().states_lost += 1;
            let now = Instant::now();
            let is_recent = |at: Instant| now.saturating_duration_since(at) < LOST_EVERY;
            if !self.reported_lost_at.is_some_and(is_recent) {
                self.reported_lost_at = Some(now);
                tracing::warn!(
                    target: "tower_claude", layer = NAME, decision = "state_lost",
                    scope = %scope.scope(), "the state of the limits in Redis was lost",
                );
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.status.set_lost();
    }
}

impl Outage {
    fn delay(&mut self) {
        self.pause = (self.pause * 2).min(PROBES[1]);
        self.schedule(Instant::now());
    }

    fn schedule(&mut self, now: Instant) {
        self.probe_at = now + self.pause.mul_f64(0.5 + fastrand::f64() / 2.0);
    }
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Sends a message, and once more if its answer is lost. The script applies it once.
async fn exchange(
    link: Link,
    process: String,
    status: Arc<Status>,
    scope: SharedScope,
    message: ShareMessage,
) -> Exchanged {
    let keys = message::keys(link.config(), scope.scope());
    let id = format!("{process}-{:x}-{:x}", scope.number(), message.id);
    let arguments = message::arguments(id, &process, &message);
    let mut result = link.eval(&SHARE, &keys, &arguments).await;
    let may_pass = matches!(
        result,
        Err(RedisError::Timeout { .. }
            | RedisError::Unreachable { .. }
            | RedisError::ReadOnly
            | RedisError::Loading)
    );
    if may_pass {
        status.lock().repeated += 1;
        result = link.eval(&SHARE, &keys, &arguments).await;
    }
    let result = result.and_then(|items| message::reply(&items));
    Exchanged {
        scope,
        message,
        result,
    }
}

/// Returns true if Redis accepts a write in time.
async fn is_usable(link: &Link) -> bool {
    let key = link.config().key(b"", "probe");
    link.eval(&PROBE, &[key], &[b""]).await.is_ok()
}
