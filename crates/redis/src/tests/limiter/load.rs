//! Clients that are kept busy, and what they have used.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tower_claude_limiter::{Limiter, Settlement};

use crate::{
    config::RedisConfig,
    limiter::{RedisLimiter, StoreState},
    tests::limiter::{connect, request, tokens},
};

/// One request: its tokens, the time of its admission, and its wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admitted {
    pub(super) at: Instant,
    pub(super) tokens: u64,
    pub(super) wait: Duration,
}

/// The use of a limit by several clients.
#[derive(Default)]
pub(super) struct Consumer(pub(super) Mutex<Vec<Admitted>>);

impl Consumer {
    pub(super) fn record(&self, since: Instant, tokens: u64) {
        let at = Instant::now();
        let wait = at - since;
        self.0.lock().unwrap().push(Admitted { at, tokens, wait });
    }

    /// Returns the admissions in their order.
    pub(super) fn sorted(&self) -> Vec<Admitted> {
        let mut admitted = self.0.lock().unwrap().clone();
        admitted.sort_by_key(|it| it.at);
        admitted
    }

    /// Returns the most by which any window exceeds the limit, in tokens, and the used share of all
    /// until `end`.
    pub(super) fn check(
        &self,
        per_minute: u64,
        burst: Duration,
        start: Instant,
        end: Instant,
    ) -> (f64, f64) {
        let rate = per_minute as f64 / 60.0;
        let capacity = rate * burst.as_secs_f64();
        let (mut level, mut at, mut lowest, mut sum) = (capacity, start, capacity, 0.0);
        for admitted in self.sorted().into_iter().filter(|it| it.at <= end) {
            let tokens = admitted.tokens as f64;
            level += rate * admitted.at.saturating_duration_since(at).as_secs_f64();
            level = level.min(capacity) - tokens;
            sum += tokens;
            at = admitted.at;
            lowest = lowest.min(level);
        }
        let all = capacity + rate * (end - start).as_secs_f64();
        ((-lowest).max(0.0), sum / all)
    }
}

/// Lets tasks of each limiter send requests of one token: each at this pace, or the next one as
/// soon as one is admitted.
pub(super) async fn run(
    limiters: &[RedisLimiter],
    consumer: &Arc<Consumer>,
    tasks: usize,
    pace: Option<Duration>,
    time: Duration,
) {
    let stop = Arc::new(AtomicBool::new(false));
    let mut set = JoinSet::new();
    for limiter in limiters {
        for _ in 0..tasks {
            let (limiter, stop, consumer) = (limiter.clone(), stop.clone(), consumer.clone());
            set.spawn(async move {
                let mut ticks = pace.map(interval);
                if let Some(ticks) = &mut ticks {
                    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                }
                while !stop.load(Ordering::Relaxed) {
                    let since = match &mut ticks {
                        Some(ticks) => ticks.tick().await,
                        None => Instant::now(),
                    };
                    let acquired = limiter.acquire(request("load", 1)).await;
                    let mut reservation = acquired.expect("admitted");
                    consumer.record(since, 1);
                    reservation.sent();
                    reservation.settle(Settlement::dropped());
                    tokio::task::yield_now().await;
                }
            });
        }
    }
    sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    set.abort_all();
    while set.join_next().await.is_some() {}
}

/// The result of a load with a fault.
#[derive(Debug)]
pub(super) struct Report {
    /// The tokens by which any window exceeded the limit.
    over: f64,
    #[expect(dead_code, reason = "printed")]
    used: f64,
    /// The longest time without an admission.
    gap: Duration,
    /// The time from the end of the fault until both clients shared again.
    back: Duration,
    /// The longest wait of 99 of 100 requests before the fault, and in the second after its begin.
    #[expect(dead_code, reason = "printed")]
    p99: [Duration; 2],
    pub(super) losses: u64,
}

/// Held by each load, since two at once measure each other.
pub(super) static LOAD: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Loads two clients, with a fault after one second. Each client must admit in spite of it, and
/// share again after it, and no window may exceed the limit by more than `most` tokens. The load is
/// all of the limit, or half of it if the environment has `REDIS_LIMITER_LOAD=half`, so that each
/// wait is due to the fault.
pub(super) async fn under_load(
    name: &str,
    limiters: &[RedisLimiter],
    most: f64,
    fault: impl AsyncFnOnce(),
) -> Report {
    let _alone = LOAD.lock().await;
    let (per_minute, burst) = FAULT_LIMIT;
    let consumer = Arc::new(Consumer::default());
    let start = Instant::now();
    let load = {
        let (limiters, consumer) = (limiters.to_vec(), consumer.clone());
        let time = Duration::from_secs(60);
        let is_half = std::env::var("REDIS_LIMITER_LOAD").is_ok_and(|load| load == "half");
        let pace = is_half.then_some(Duration::from_millis(32)); // 16 tasks
        tokio::spawn(async move { run(&limiters, &consumer, 8, pace, time).await })
    };
    sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    fault().await;
    let ended = Instant::now();
    let before: Vec<_> = limiters.iter().map(|it| it.store().answered).collect();
    let mut back = Duration::MAX;
    while ended.elapsed() < Duration::from_secs(10) {
        let shares = limiters.iter().zip(&before).all(|(limiter, before)| {
            let store = limiter.store();
            store.state == StoreState::Shared && store.answered > *before
        });
        if shares {
            back = ended.elapsed();
            break;
        }
        sleep(Duration::from_millis(5)).await;
    }
    sleep(Duration::from_secs(1)).await;
    let end = Instant::now();
    assert!(!load.is_finished(), "no request was lost");
    load.abort();
    let (over, used) = consumer.check(per_minute, burst, start, end);
    let admitted = consumer.sorted();
    let gaps = admitted.windows(2).map(|pair| pair[1].at - pair[0].at);
    let second = Duration::from_secs(1);
    let p99 = [start + second / 2, begun].map(|from| {
        let until = from + second;
        let within = admitted.iter().filter(|it| {
            let since = it.at - it.wait;
            since >= from && since < until && (from >= begun || it.at < begun)
        });
        let mut waits: Vec<_> = within.map(|it| it.wait).collect();
        waits.sort_unstable();
        waits
            .get(waits.len() * 99 / 100)
            .copied()
            .unwrap_or_default()
    });
    let report = Report {
        over,
        used,
        gap: gaps.max().unwrap_or_default(),
        back,
        p99,
        losses: limiters.iter().map(|it| it.store().losses).sum(),
    };
    println!("{name}: {report:?} {:?}", limiters[0].store().failures);
    assert!(report.over <= most, "{name}: {report:?}");
    assert!(report.back <= Duration::from_secs(5), "{name}: {report:?}");
    assert!(report.gap <= Duration::from_secs(1), "{name}: {report:?}");
    report
}

/// The limit under faults: 1,000 requests a second, with a burst of a second.
pub(super) const FAULT_LIMIT: (u64, Duration) = (60_000, Duration::from_secs(1));

/// Returns two clients of one limit.
pub(super) async fn two(config: &RedisConfig) -> Vec<RedisLimiter> {
    let (per_minute, burst) = FAULT_LIMIT;
    let limits = || tokens(per_minute, burst);
    vec![
        connect(config, limits()).await,
        connect(config, limits()).await,
    ]
}
