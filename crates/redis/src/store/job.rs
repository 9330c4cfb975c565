//! The work of the store's driver.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};
use tower_claude_cache::{Entry, Freshness, Key, MemoryStore, Store};

use crate::{
    error::RedisError,
    link::{Item, Link, LinkDriver, Script},
    store::{
        codec::{Saved, decode, encode},
        expiry::{early, remaining},
        shared::Shared,
    },
};

static LOCK: Script = Script::new(include_str!("lock.lua"));
static UNLOCK: Script = Script::new(include_str!("unlock.lua"));
/// Jobs under way at once. Further ones wait in the queue.
const MAX_RUNNING: usize = 1024;
/// Pauses between two lookups of a process that waits for another one.
const WAITS: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(250)];

/// A task of the driver.
pub(crate) enum Job {
    Lookup(Lookup, oneshot::Sender<Option<Entry>>),
    Put {
        key: Key,
        entry: Entry,
        took: Duration,
        max_value: usize,
        is_locked: bool,
    },
    Remove {
        key: Key,
    },
}

/// A lookup of a response that is not fresh in memory.
pub(crate) struct Lookup {
    pub(crate) key: Key,
    /// The response in memory.
    pub(crate) known: Option<Entry>,
    pub(crate) memory: MemoryStore,
    pub(crate) single_flight: Option<Duration>,
}

/// Runs the connection and the jobs, until the last store is dropped.
pub(crate) async fn drive(
    link: Link,
    driver: LinkDriver,
    mut queue: mpsc::Receiver<Job>,
    shared: Arc<Shared>,
) {
    let work = async move {
        let work = Work {
            link,
            shared: &shared,
        };
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                job = queue.recv(), if running.len() < MAX_RUNNING => match job {
                    Some(job) => running.push(work.run(job)),
                    None => break,
                },
                Some(()) = running.next(), if !running.is_empty() => {}
            }
        }
        while running.next().await.is_some() {}
        drop(running);
        drop(work); // and its link, which ends the driver of the connection
    };
    tokio::join!(driver.run(), work);
}

/// The means of the jobs.
pub(crate) struct Work<'a> {
    link: Link,
    shared: &'a Shared,
}

impl Work<'_> {
    async fn run(&self, job: Job) {
        match job {
            Job::Lookup(lookup, mut answer) => {
                let entry = tokio::select! {
                    entry = self.look_up(&lookup) => entry,
                    () = answer.closed() => return,
                };
                // The caller may have left.
                let _ = answer.send(entry);
            }
            Job::Put {
                key,
                entry,
                took,
                max_value,
                is_locked,
            } => {
                let result = self.put(&key, &entry, took, max_value).await;
                self.record(result);
                if is_locked {
                    let lock = self.name(&key, "l");
                    let result = self.link.eval(&UNLOCK, &[lock], &[self.shared.token]).await;
                    self.record(result);
                }
            }
            Job::Remove { key } => {
                let result = self.link.del(&self.name(&key, "v")).await;
                self.record(result);
            }
        }
    }

    /// Returns the response to serve, which is also kept in memory. If there is none, or if it is
    /// to be refreshed, this process makes the call, unless another one does.
    async fn look_up(&self, lookup: &Lookup) -> Option<Entry> {
        let counters = &self.shared.counters;
        let hit = |entry: Entry| {
            counters.hits.fetch_add(1, Ordering::Relaxed);
            lookup.memory.insert(lookup.key, entry.clone());
            Some(entry)
        };
        let until = Instant::now() + lookup.single_flight.unwrap_or_default();
        let [mut wait, longest] = WAITS;
        let mut has_waited = false;
        let mut old = lookup.known.clone();
        loop {
            let value = match self.link.get(&self.name(&lookup.key, "v")).await {
                Err(RedisError::WrongType { .. }) => Ok(Some(Vec::new())), // as a foreign value
                value => value,
            };
            let Some(value) = self.record(value) else {
                break;
            };
            let now = Instant::now();
            let mut whole = None;
            if let Some(saved) = value.and_then(|value| self.decode(&lookup.key, value)) {
                let entry = early(lookup.known.as_ref(), &saved);
                if entry.freshness(now) == Freshness::Fresh {
                    return hit(entry);
                }
                old = Some(entry);
                whole = Some(Entry::from(saved.parts));
            }
            let Some(locked_for) = self.locked_for(lookup).await else {
                break;
            };
            // Another process makes the call.
            if let Some(whole) = whole.filter(|whole| whole.freshness(now) == Freshness::Fresh) {
                return hit(whole);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if !has_waited {
                has_waited = true;
                counters.waited.fetch_add(1, Ordering::Relaxed);
            }
            let jittered = wait.mul_f64(0.5 + fastrand::f64());
            sleep(
                jittered
                    .min(left)
                    .min(locked_for + Duration::from_millis(1)),
            )
            .await;
            wait = (wait * 2).min(longest);
        }
        counters.misses.fetch_add(1, Ordering::Relaxed);
        self.shared.began_miss(lookup.key);
        old
    }

    fn decode(&self, key: &Key, value: Vec<u8>) -> Option<Saved> {
        let saved = decode(&self.shared.config, key, value);
        if saved.is_none() {
            self.shared.counters.invalid.fetch_add(1, Ordering::Relaxed);
        }
        saved
    }

    /// Returns the time for which another process has the lock. `None` if this process has it, if
    /// it needs none, or if Redis fails.
    async fn locked_for(&self, lookup: &Lookup) -> Option<Duration> {
        let time = lookup.single_flight?.as_millis().to_string();
        let args = [&self.shared.token[..], time.as_bytes()];
        let left = self
            .link
            .eval(&LOCK, &[self.name(&lookup.key, "l")], &args)
            .await;
        match self.record(left)?[..] {
            [Item::Int(left)] => u64::try_from(left).ok().map(Duration::from_millis),
            _ => None,
        }
    }

    async fn put(
        &self,
        key: &Key,
        entry: &Entry,
        took: Duration,
        max_value: usize,
    ) -> Result<(), RedisError> {
        let name = self.name(key, "v");
        let time = remaining(entry.parts());
        let value = encode(&self.shared.config, key, entry.parts(), took);
        match value.filter(|value| value.len() <= max_value && !time.is_zero()) {
            Some(value) => {
                self.link.set_px(&name, &value, time).await?;
                self.shared.counters.written.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            None => {
                self.shared.counters.dropped();
                self.link.del(&name).await // the previous response
            }
        }
    }

    /// Returns the name of a key of Redis.
    fn name(&self, key: &Key, kind: &str) -> Vec<u8> {
        self.shared.config.key(key.as_bytes(), kind)
    }

    /// Counts a failure, and logs the first one and the end of failures.
    fn record<T>(&self, result: Result<T, RedisError>) -> Option<T> {
        self.shared.counters.record(result.as_ref().err());
        result.ok()
    }
}
