//! A small discrete-event simulation: one pool, one server, virtual nanoseconds, one seed.

pub(crate) mod server;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    num::NonZeroU32,
};

use server::{Head, Server};
use tower_claude_core::{Cost, Scope};
use tower_claude_limiter::{
    LimiterConfig, Limits, Pool, Settlement,
    pool::{Enqueued, Next, PoolAsk, ReservationId, Seen, Ticket},
};
use tower_claude_wire::Usage;

pub(crate) const MS: u64 = 1_000_000;

/// What is simulated.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) requests: usize,
    pub(crate) input_per_minute: f64,
    pub(crate) requests_per_minute: f64,
    pub(crate) burst_seconds: f64,
    /// Range of the time from sending to the response's head, log-uniform.
    pub(crate) latency_ms: (f64, f64),
    /// The true input is this far off the estimate, uniformly, either way.
    pub(crate) input_error: f64,
    /// The true input is this multiple of the estimate on top.
    pub(crate) input_bias: f64,
    /// The head shows the level when it leaves, not when the request was admitted.
    pub(crate) snapshot_at_response: bool,
    /// Share of requests that fail with a 529 before the server charges them.
    pub(crate) overloaded: f64,
    /// Nobody asks between these times.
    pub(crate) idle: Option<(u64, u64)>,
    pub(crate) limits: Limits,
    pub(crate) slow_start: Option<NonZeroU32>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            seed: 1,
            requests: 3_000,
            input_per_minute: 6_000_000.0,
            requests_per_minute: 60_000.0,
            burst_seconds: 5.0,
            latency_ms: (5.0, 500.0),
            input_error: 0.1,
            input_bias: 1.0,
            snapshot_at_response: false,
            overloaded: 0.0,
            idle: None,
            limits: Limits::unlimited(),
            slow_start: NonZeroU32::new(8),
        }
    }
}

/// What came of it.
#[derive(Debug)]
#[allow(dead_code)] // printed when an assertion fails
pub(crate) struct Report {
    pub(crate) rejected: u32,
    pub(crate) utilisation: f64,
    pub(crate) seconds: f64,
    pub(crate) answered: usize,
}

enum Event {
    Arrive(usize, ReservationId),
    Respond(usize, ReservationId, Box<Head>, Answer),
    Timer,
    Feed,
}

#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Answered,
    Rejected,
    Overloaded,
}

struct Job {
    estimate: u64,
    actual: u64,
    up: u64,
    down: u64,
    arrival: u64,
}

struct Simulation {
    world: World,
    rng: fastrand::Rng,
    jobs: Vec<Job>,
    server: Server,
    pool: Pool,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    payload: HashMap<u64, Event>,
    sequence: u64,
    waiting: HashMap<Ticket, usize>,
    answered: usize,
    now: u64,
    armed: u64,
}

impl World {
    pub(crate) fn run(self) -> Report {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let jobs = (0..self.requests).map(|_| job(&self, &mut rng)).collect();
        let scope = Scope::named("simulated");
        let config = LimiterConfig::new().with_slow_start(self.slow_start);
        let pool = Pool::new(scope.clone(), &self.limits.for_scope(&scope), config, 0);
        let server = Server::new(
            self.requests_per_minute,
            self.input_per_minute,
            self.burst_seconds,
        );
        let simulation = Simulation {
            rng,
            jobs,
            server,
            pool,
            events: BinaryHeap::new(),
            payload: HashMap::new(),
            sequence: 0,
            waiting: HashMap::new(),
            answered: 0,
            now: 0,
            armed: u64::MAX,
            world: self,
        };
        simulation.run()
    }
}

fn job(world: &World, rng: &mut fastrand::Rng) -> Job {
    let normal = (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
    let estimate = (1_500.0 * (0.9 * normal).exp()).clamp(20.0, 60_000.0);
    let error = 1.0 + world.input_error * (2.0 * rng.f64() - 1.0);
    let (low, high) = world.latency_ms;
    let latency = low * (high / low).powf(rng.f64());
    let up = latency * 0.3 * rng.f64();
    Job {
        estimate: estimate as u64,
        actual: (estimate * error * world.input_bias) as u64,
        up: (up * MS as f64) as u64,
        down: ((latency - up) * MS as f64) as u64,
        arrival: 0,
    }
}

impl Simulation {
    fn run(mut self) -> Report {
        let feed_until = self.world.idle.map_or(usize::MAX, |_| self.jobs.len() / 2);
        for index in 0..self.jobs.len().min(feed_until) {
            self.ask(index);
        }
        if let Some((_, until)) = self.world.idle {
            self.at(until, Event::Feed);
        }
        let mut last_admission = 0;
        let mut idle_spill = 0.0;
        while let Some(Reverse((at, sequence))) = self.events.pop() {
            assert!(at >= self.now, "time goes back");
            self.now = at;
            match self.payload.remove(&sequence).expect("an event") {
                Event::Arrive(index, id) => {
                    self.arrive(index, id);
                    last_admission = at;
                }
                Event::Respond(index, id, head, answer) => self.respond(index, id, &head, answer),
                Event::Timer => {
                    if self.armed <= at {
                        self.armed = u64::MAX;
                    }
                }
                Event::Feed => {
                    self.server.refill(at);
                    idle_spill = self.server.input.spilt;
                    for index in feed_until..self.jobs.len() {
                        self.ask(index);
                    }
                }
            }
            self.poll();
        }
        assert_eq!(self.pool.in_flight(), 0);
        assert_eq!(self.pool.queued(), 0);
        let seconds = last_admission as f64 / 1e9;
        let could =
            self.server.input.capacity + seconds * self.server.input.per_minute / 60.0 - idle_spill;
        Report {
            rejected: self.server.rejected,
            utilisation: self.server.charged / could,
            seconds,
            answered: self.answered,
        }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence)));
        self.payload.insert(self.sequence, event);
    }

    fn ask(&mut self, index: usize) {
        if self.jobs[index].arrival == 0 {
            self.jobs[index].arrival = self.now.max(1);
        }
        let cost = Cost::new(self.jobs[index].estimate, 0);
        let ask = PoolAsk::new(cost, self.jobs[index].arrival);
        match self.pool.enqueue(self.now, ask).expect("it fits") {
            Enqueued::Granted(id) => self.send(index, id),
            Enqueued::Waiting(ticket) => {
                self.waiting.insert(ticket, index);
            }
        }
    }

    fn send(&mut self, index: usize, id: ReservationId) {
        let at = self.now + self.jobs[index].up;
        self.at(at, Event::Arrive(index, id));
    }

    fn poll(&mut self) {
        let mut granted = Vec::new();
        let next = self.pool.poll(self.now, &mut granted);
        for (ticket, id) in granted {
            let index = self.waiting.remove(&ticket).expect("it waited");
            self.send(index, id);
        }
        if let Next::At(at) = next {
            // As coarse as a real timer.
            let at = at.div_ceil(MS) * MS;
            if at < self.armed {
                self.armed = at;
                self.at(at, Event::Timer);
            }
        }
    }

    fn arrive(&mut self, index: usize, id: ReservationId) {
        let down = self.jobs[index].down;
        let answer;
        let mut retry_after = None;
        if self.rng.f64() < self.world.overloaded {
            self.server.refill(self.now);
            answer = Answer::Overloaded;
        } else {
            retry_after = self.server.arrive(self.now, self.jobs[index].actual as f64);
            answer = if retry_after.is_some() {
                Answer::Rejected
            } else {
                Answer::Answered
            };
        }
        let head = Box::new(self.server.head(self.now, retry_after));
        self.at(self.now + down, Event::Respond(index, id, head, answer));
    }

    fn respond(&mut self, index: usize, id: ReservationId, head: &Head, answer: Answer) {
        let now = self.now;
        let fresh = self.world.snapshot_at_response.then(|| {
            self.server.refill(now);
            self.server.head(now, head.retry_after)
        });
        let head = fresh.as_ref().unwrap_or(head);
        let seen =
            Seen::new(&head.limits, Some(head.date)).with_rejected(answer == Answer::Rejected);
        self.pool.observe(now, id, &seen);
        match answer {
            Answer::Answered => {
                let mut usage = Usage::default();
                usage.input_tokens = Some(self.jobs[index].actual);
                self.pool.settle(now, id, &Settlement::Used { usage });
                self.answered += 1;
            }
            Answer::Rejected => {
                let jitter = self.rng.f64();
                self.pool.rate_limited(now, id, head.retry_after, jitter);
                self.pool.settle(now, id, &Settlement::Rejected);
                self.ask(index);
            }
            Answer::Overloaded => {
                let usage = Usage::default();
                self.pool.settle(now, id, &Settlement::Failed { usage });
                self.ask(index);
            }
        }
    }
}
