//! Limits that no header names, on servers of any rate, bucket and window: the rate is learned from
//! 429s, no scope is shut, and none stays unlimited.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    num::NonZeroU32,
    time::Duration,
};

use tower_claude_core::{Cost, Dimension, Scope};
use tower_claude_limiter::{
    LimiterConfig, Limits, Pool, Settlement,
    pool::{Enqueued, Next, ObservedHead, PoolRequest, ReservationId, WaiterId},
};
use tower_claude_wire::{RateLimits, Usage};

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;
const MINUTE: u64 = 60 * S;

/// The documented longest pause without `retry-after`, and the longest hold.
const LONGEST: u64 = 300 * S;

enum Rule {
    /// A bucket that holds so many requests.
    Bucket {
        level: f64,
        capacity: f64,
    },
    Fixed {
        window: u64,
        count: u64,
    },
    Sliding(VecDeque<u64>),
}

struct Server {
    per_minute: u64,
    rule: Rule,
    at: u64,
    gives_retry_after: bool,
}

impl Server {
    /// Admits a request, or returns the nanoseconds until the next one fits.
    fn admit(&mut self, now: u64) -> Result<(), u64> {
        let per_minute = self.per_minute;
        let passed = (now - self.at) as f64;
        self.at = now;
        match &mut self.rule {
            Rule::Bucket { level, capacity } => {
                let rate = per_minute as f64 / MINUTE as f64;
                *level = (*level + passed * rate).min(*capacity);
                if *level < 1.0 {
                    return Err(((1.0 - *level) / rate) as u64 + 1);
                }
                *level -= 1.0;
            }
            Rule::Fixed { window, count } => {
                if now / MINUTE > *window {
                    (*window, *count) = (now / MINUTE, 0);
                }
                if *count >= per_minute {
                    return Err((*window + 1) * MINUTE - now);
                }
                *count += 1;
            }
            Rule::Sliding(times) => {
                while times.front().is_some_and(|at| at + MINUTE <= now) {
                    times.pop_front();
                }
                if times.len() as u64 >= per_minute {
                    return Err(times[0] + MINUTE - now);
                }
                times.push_back(now);
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive(u64),
    Rejected(u64, Option<u64>),
    Head(u64),
    End(u64),
    Wake,
}

/// Workers that send the next request when the last one is answered.
struct Run {
    rng: fastrand::Rng,
    pool: Pool,
    server: Server,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    admitted: u64,
    rejected: u64,
    last_admission: u64,
    longest_gap: u64,
    granted: Vec<(WaiterId, ReservationId)>,
    /// The earliest time for which a wake is due.
    armed: u64,
}

impl Run {
    fn new(seed: u64, server: Server) -> Self {
        let scope = Scope::named("unknown");
        let config = LimiterConfig::new().with_initial_concurrency(NonZeroU32::new(8));
        let limits = Limits::unlimited().for_scope(&scope);
        Self {
            rng: fastrand::Rng::with_seed(seed),
            pool: Pool::new(scope, &limits, config, 0),
            server,
            events: BinaryHeap::new(),
            admitted: 0,
            rejected: 0,
            last_admission: 0,
            longest_gap: 0,
            granted: Vec::new(),
            armed: u64::MAX,
        }
    }

    fn delay(&mut self) -> u64 {
        10 * MS + self.rng.u64(0..40 * MS)
    }

    fn ask(&mut self, now: u64) {
        match self
            .pool
            .enqueue(now, PoolRequest::new(Cost::new(100, 100), now))
        {
            Ok(Enqueued::Granted(id)) => self.send(now, id),
            Ok(Enqueued::Waiting(_)) => {}
            Err(rejection) => panic!("{rejection}"),
        }
    }

    fn send(&mut self, now: u64, id: ReservationId) {
        let at = now + self.delay();
        self.events.push(Reverse((at, Event::Arrive(id.to_bits()))));
    }

    fn poll(&mut self, now: u64) {
        let mut granted = std::mem::take(&mut self.granted);
        if let Next::At(at) = self.pool.poll(now, &mut granted) {
            assert!(
                at <= now + LONGEST + LONGEST / 2,
                "shut until {at} at {now}"
            );
            if at < self.armed {
                self.armed = at;
                self.events.push(Reverse((at, Event::Wake)));
            }
        }
        for (_, id) in granted.drain(..) {
            self.send(now, id);
        }
        self.granted = granted;
    }

    fn handle(&mut self, now: u64, event: Event) {
        let silent = RateLimits::default();
        let id = ReservationId::from_bits;
        match event {
            Event::Wake if self.armed > now => return, // of an earlier time
            Event::Wake => self.armed = u64::MAX,
            Event::Arrive(bits) => {
                let down = self.delay();
                let event = match self.server.admit(now) {
                    Ok(()) => {
                        self.longest_gap = self.longest_gap.max(now - self.last_admission);
                        self.last_admission = now;
                        self.admitted += 1;
                        Event::Head(bits)
                    }
                    Err(wait) => {
                        self.rejected += 1;
                        let wait = self.server.gives_retry_after.then_some(wait.div_ceil(S));
                        Event::Rejected(bits, wait)
                    }
                };
                let think = if matches!(event, Event::Head(_)) {
                    200 * MS
                } else {
                    0
                };
                self.events.push(Reverse((now + think + down, event)));
                return;
            }
            Event::Rejected(bits, wait) => {
                let jitter = self.rng.f64();
                let wait = wait.map(Duration::from_secs);
                self.pool.rate_limited(now, id(bits), wait, jitter);
                let head = ObservedHead::new(&silent, None).with_rejected(true);
                self.pool.observe(now, id(bits), &head);
                self.pool.settle(now, id(bits), &Settlement::Rejected);
                self.ask(now);
            }
            Event::Head(bits) => {
                self.pool
                    .observe(now, id(bits), &ObservedHead::new(&silent, None));
                let end = now + 500 * MS;
                self.events.push(Reverse((end, Event::End(bits))));
            }
            Event::End(bits) => {
                let mut usage = Usage::default();
                (usage.input_tokens, usage.output_tokens) = (Some(100), Some(100));
                self.pool.settle(now, id(bits), &Settlement::Used { usage });
                self.ask(now);
            }
        }
        self.poll(now);
    }

    fn until(&mut self, end: u64) {
        while let Some(Reverse((now, event))) = self.events.pop() {
            if now > end {
                self.events.push(Reverse((now, event)));
                return;
            }
            self.handle(now, event);
        }
    }
}

/// Runs 200 workers for so many minutes against a server. Returns 429s per 1,000 successes and the
/// use in percent, both after the first ten minutes.
fn run(seed: u64, per_minute: u64, rule: Rule, minutes: u64) -> (f64, f64) {
    let server = Server {
        per_minute,
        rule,
        at: 0,
        gives_retry_after: !seed.is_multiple_of(3),
    };
    let mut run = Run::new(seed, server);
    for _ in 0..200 {
        run.ask(0);
    }
    let begin = 10 * MINUTE;
    run.until(begin);
    (run.admitted, run.rejected) = (0, 0);
    let end = begin + minutes * MINUTE;
    run.until(end);
    assert!(
        run.longest_gap <= LONGEST,
        "{per_minute}: {}",
        run.longest_gap / S
    );
    let limit = run.pool.snapshot(end);
    match limit.dimension(Dimension::Requests) {
        Some(learned) => {
            let limit = learned.limit;
            assert!(limit <= per_minute * 2, "{per_minute}: {limit}");
        }
        // Nothing is learned from a few 429s among many successes.
        None => assert!(run.rejected * 60 <= run.admitted, "{per_minute}"),
    }
    let allowed = (per_minute * minutes) as f64;
    let rejected = run.rejected as f64 * 1e3 / run.admitted as f64;
    (rejected, run.admitted as f64 * 100.0 / allowed)
}

#[test]
fn rate_of_any_server_is_learned_from_its_429s() {
    let mut rng = fastrand::Rng::with_seed(1);
    for seed in 0..if cfg!(debug_assertions) { 12 } else { 120 } {
        let per_minute = (20.0 * 50_f64.powf(rng.f64())) as u64;
        let rule = match seed % 4 {
            0 => Rule::Fixed {
                window: 0,
                count: 0,
            },
            1 => Rule::Sliding(VecDeque::new()),
            _ => {
                let capacity = (per_minute as f64 * rng.f64()).max(1.0);
                Rule::Bucket {
                    level: capacity,
                    capacity,
                }
            }
        };
        let (rejected, used) = run(seed, per_minute, rule, 60);
        assert!(
            rejected <= 40.0,
            "{seed}: {per_minute}: {rejected:.1} per 1,000"
        );
        assert!(used >= 75.0, "{seed}: {per_minute}: {used:.1} %");
    }
}

/// With one response per request and no 429 of a rate, a single 429 must not throttle for long.
#[test]
fn single_429_is_forgotten_within_some_successes() {
    let capacity = 1e9;
    let server = Server {
        per_minute: 1_000_000_000,
        rule: Rule::Bucket {
            level: capacity,
            capacity,
        },
        at: 0,
        gives_retry_after: true,
    };
    let mut run = Run::new(1, server);
    for _ in 0..4 {
        run.ask(0);
    }
    run.until(60 * S);
    let id = ReservationId::from_bits(0);
    run.pool
        .rate_limited(60 * S, id, Some(Duration::from_secs(1)), 0.0);
    let silent = RateLimits::default();
    let head = ObservedHead::new(&silent, None).with_rejected(true);
    run.pool.observe(60 * S, id, &head);
    let before = run.admitted;
    run.until(180 * S);
    let minute = before;
    let after = run.admitted - before;
    assert!(
        after >= minute * 3 / 2,
        "{after} in two minutes after {minute} in one"
    );
}

/// One in a hundred requests gets a 429, at any rate, for twenty minutes.
#[test]
fn few_429s_at_random_begin_no_rate() {
    for seed in 0..10 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let scope = Scope::named("random");
        let limits = Limits::unlimited().for_scope(&scope);
        let mut pool = Pool::new(scope, &limits, LimiterConfig::new(), 0);
        let (mut now, mut granted) = (0, Vec::new());
        while now < 20 * MINUTE {
            now += 50 * MS;
            let request = PoolRequest::new(Cost::new(100, 0), now);
            let id = match pool.enqueue(now, request).expect("room") {
                Enqueued::Granted(id) => id,
                Enqueued::Waiting(_) => loop {
                    if let Next::At(at) = pool.poll(now, &mut granted) {
                        now = now.max(at);
                    }
                    if let Some((_, id)) = granted.pop() {
                        break id;
                    }
                },
            };
            if rng.u8(0..100) == 0 {
                pool.rate_limited(now, id, None, 0.0);
                let silent = RateLimits::default();
                let head = ObservedHead::new(&silent, None).with_rejected(true);
                pool.observe(now, id, &head);
                pool.settle(now, id, &Settlement::Rejected);
            } else {
                let mut usage = Usage::default();
                usage.input_tokens = Some(100);
                pool.settle(now, id, &Settlement::Used { usage });
            }
        }
        let snapshot = pool.snapshot(now);
        let learned = snapshot.dimension(Dimension::Requests);
        assert!(learned.is_none(), "{seed}: {learned:?}");
    }
}
