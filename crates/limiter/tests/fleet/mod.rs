//! A discrete-event simulation of several processes, each with a pool of its own, on one key of one
//! server. Virtual nanoseconds, one seed.
//!
//! Assumed: the head shows the level at admission and comes after the time to the first token; refused
//! requests cost nothing; output is charged as it is produced.

mod server;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

pub(crate) use server::Faults;
use server::{Head, Server, Verdict};
use tower_claude_core::{Cost, Scope};
use tower_claude_limiter::{
    LimiterConfig, Limits, Pool, ScopeSnapshot, Settlement,
    pool::{Enqueued, Next, PoolAsk, ReservationId, Seen, Ticket},
};
use tower_claude_wire::Usage;

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const S: u64 = 1_000_000_000;

/// What is simulated.
#[derive(Clone)]
pub(crate) struct Fleet {
    pub(crate) seed: u64,
    pub(crate) pools: usize,
    /// Callers per pool; each asks again when it is answered.
    pub(crate) workers: usize,
    pub(crate) seconds: u64,
    /// Nothing is counted before.
    pub(crate) warm_up: u64,
    /// Requests, input and output per minute.
    pub(crate) limits: [f64; 3],
    pub(crate) burst: f64,
    /// How full the server's buckets are at first, from 0 to 1.
    pub(crate) start: f64,
    pub(crate) configured: Limits,
    pub(crate) config: LimiterConfig,
    /// Somebody else takes this share of the input limit, evenly, without looking.
    pub(crate) external: f64,
    /// Requests at once that no header shows.
    pub(crate) concurrency: usize,
    /// At this second all limits are multiplied.
    pub(crate) scale: Option<(u64, f64)>,
    /// The workers rest between these seconds.
    pub(crate) idle: Option<(u64, u64)>,
    pub(crate) input_error: f64,
    pub(crate) faults: Faults,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            seed: 1,
            pools: 1,
            workers: 32,
            seconds: 660,
            warm_up: 60,
            limits: [4_000.0, 2_000_000.0, 400_000.0],
            burst: 60.0,
            start: 1.0,
            configured: Limits::unlimited(),
            config: LimiterConfig::new().with_slow_start(std::num::NonZeroU32::new(8)),
            external: 0.0,
            concurrency: usize::MAX,
            scale: None,
            idle: None,
            input_error: 0.03,
            faults: Faults::default(),
        }
    }
}

/// What came of it.
#[derive(Debug, Default)]
#[allow(dead_code)] // printed
pub(crate) struct Report {
    pub(crate) answered: u64,
    /// 429s after the warm-up, and before it.
    pub(crate) refused: u64,
    pub(crate) refused_early: u64,
    /// Of what the input limit allows; what the bucket held at first or holds at last aside.
    pub(crate) used: f64,
    pub(crate) jain: f64,
    /// How many pools end as shared.
    pub(crate) shared: usize,
    pub(crate) most_at_once: usize,
    pub(crate) mean_level: f64,
    pub(crate) rejected_by_level: u64,
    /// Mean requests in service after the warm-up.
    pub(crate) in_service: f64,
}

impl Report {
    pub(crate) fn per_thousand(&self) -> f64 {
        self.refused as f64 * 1_000.0 / self.answered.max(1) as f64
    }
}

enum Event {
    Arrive(usize, Job, ReservationId),
    Head(usize, Job, ReservationId, Box<Head>, Verdict),
    End(usize, Job, ReservationId),
    /// The server is done; the client learns a little later.
    Done,
    Timer(usize),
    External,
    Scale,
    Resume,
}

#[derive(Clone, Copy)]
struct Job {
    estimate: u64,
    input: u64,
    output: u64,
    up: u64,
    down: u64,
    first_token: u64,
    arrival: u64,
}

struct Process {
    pool: Pool,
    waiting: HashMap<Ticket, Job>,
    armed: u64,
    charged: f64,
}

struct Run {
    fleet: Fleet,
    rng: fastrand::Rng,
    server: Server,
    processes: Vec<Process>,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    payload: HashMap<u64, Event>,
    sequence: u64,
    now: u64,
    resting: Vec<usize>,
    external: f64,
    report: Report,
    levels: (f64, f64),
    /// The input level at the end of the warm-up.
    stock: Option<f64>,
    /// Time-weighted sum of what is in service.
    busy: f64,
}

impl Fleet {
    pub(crate) fn run(self) -> Report {
        self.run_to_the_end().0
    }

    pub(crate) fn run_to_the_end(self) -> (Report, Vec<ScopeSnapshot>) {
        let scope = Scope::named("fleet");
        let processes = (0..self.pools).map(|_| Process {
            pool: Pool::new(
                scope.clone(),
                &self.configured.for_scope(&scope),
                self.config.clone(),
                0,
            ),
            waiting: HashMap::new(),
            armed: u64::MAX,
            charged: 0.0,
        });
        let run = Run {
            rng: fastrand::Rng::with_seed(self.seed),
            server: Server::new(&self),
            processes: processes.collect(),
            events: BinaryHeap::new(),
            payload: HashMap::new(),
            sequence: 0,
            now: 0,
            resting: Vec::new(),
            external: 0.0,
            report: Report::default(),
            levels: (0.0, 0.0),
            stock: None,
            busy: 0.0,
            fleet: self,
        };
        run.run()
    }
}

fn normal(rng: &mut fastrand::Rng) -> f64 {
    (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0
}

fn exponential(rng: &mut fastrand::Rng, mean: f64) -> f64 {
    -mean * (1.0 - rng.f64()).ln()
}

impl Run {
    fn job(&mut self) -> Job {
        let rng = &mut self.rng;
        let estimate = (1_500.0 * (0.9 * normal(rng)).exp()).clamp(20.0, 60_000.0);
        let input = estimate * (1.0 + self.fleet.input_error * normal(rng)).max(0.2);
        let output = (230.0 * (0.9 * normal(rng)).exp()).clamp(1.0, 8_000.0);
        let ms = |value: f64| (value * MS as f64) as u64;
        Job {
            estimate: estimate as u64,
            input: input as u64,
            output: output as u64,
            up: ms(20.0 + exponential(rng, 20.0)),
            down: ms(20.0 + exponential(rng, 20.0)),
            first_token: ms(400.0 + exponential(rng, 300.0)),
            arrival: self.now,
        }
    }

    fn run(mut self) -> (Report, Vec<ScopeSnapshot>) {
        let end = self.fleet.seconds * S;
        for index in 0..self.fleet.pools {
            for _ in 0..self.fleet.workers {
                self.next_job(index);
            }
        }
        if self.fleet.external > 0.0 {
            self.at(0, Event::External);
        }
        if let Some((at, _)) = self.fleet.scale {
            self.at(at * S, Event::Scale);
        }
        if let Some((_, until)) = self.fleet.idle {
            self.at(until * S, Event::Resume);
        }
        let mut could = 0.0;
        while let Some(Reverse((at, sequence))) = self.events.pop() {
            if at >= end {
                break;
            }
            let passed = (at - self.now) as f64 / 1e9;
            if self.counts() {
                self.server.refill(self.now);
                let level = self.server.input_level();
                self.stock.get_or_insert(level);
                could += passed * self.server.input_rate();
                self.levels.0 += passed * self.server.input_level();
                self.levels.1 += passed;
                self.busy += passed * self.server.in_service as f64;
            }
            self.now = at;
            let event = self.payload.remove(&sequence).expect("an event");
            self.step(event);
            let most = self.report.most_at_once.max(self.server.in_service);
            self.report.most_at_once = most;
        }
        let charged: Vec<f64> = self.processes.iter().map(|p| p.charged).collect();
        let sum = charged.iter().sum::<f64>();
        let squares = charged.iter().map(|c| c * c).sum::<f64>();
        let mut report = self.report;
        report.jain = sum * sum / (squares * charged.len() as f64);
        let stock = self.server.input_level() - self.stock.unwrap_or(0.0);
        report.used = (sum + self.external + stock) / could;
        report.mean_level = self.levels.0 / self.levels.1;
        report.in_service = self.busy / self.levels.1;
        let seen: Vec<_> = self
            .processes
            .iter()
            .map(|process| process.pool.snapshot(self.now))
            .collect();
        report.shared = seen.iter().filter(|seen| seen.shared).count();
        (report, seen)
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Arrive(index, job, id) => self.arrive(index, job, id),
            Event::Head(index, job, id, head, verdict) => {
                self.head(index, job, id, &head, verdict);
                self.poll(index);
            }
            Event::End(index, job, id) => {
                let mut usage = Usage::default();
                usage.input_tokens = Some(job.input);
                usage.output_tokens = Some(job.output);
                let pool = &mut self.processes[index].pool;
                pool.settle(self.now, id, &Settlement::Used { usage });
                if self.counts() {
                    self.report.answered += 1;
                }
                self.next_job(index);
                self.poll(index);
            }
            Event::Done => self.server.in_service -= 1,
            Event::Timer(index) => {
                if self.processes[index].armed <= self.now {
                    self.processes[index].armed = u64::MAX;
                }
                self.poll(index);
            }
            Event::External => self.take_externally(),
            Event::Scale => {
                let (_, by) = self.fleet.scale.expect("it is scaled");
                self.server.scale(self.now, by);
            }
            Event::Resume => {
                for index in std::mem::take(&mut self.resting) {
                    self.next_job(index);
                }
            }
        }
    }

    fn counts(&self) -> bool {
        self.now >= self.fleet.warm_up * S
    }

    fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence)));
        self.payload.insert(self.sequence, event);
    }

    fn next_job(&mut self, index: usize) {
        let idle = self.fleet.idle;
        if idle.is_some_and(|(from, to)| (from * S..to * S).contains(&self.now)) {
            self.resting.push(index);
            return;
        }
        let job = self.job();
        self.ask(index, job);
    }

    fn ask(&mut self, index: usize, job: Job) {
        let process = &mut self.processes[index];
        let ask = PoolAsk::new(Cost::new(job.estimate, 300), job.arrival);
        match process.pool.enqueue(self.now, ask).expect("it fits") {
            Enqueued::Granted(id) => self.at(self.now + job.up, Event::Arrive(index, job, id)),
            Enqueued::Waiting(ticket) => {
                process.waiting.insert(ticket, job);
                self.poll(index);
            }
        }
    }

    fn poll(&mut self, index: usize) {
        let mut granted = Vec::new();
        let process = &mut self.processes[index];
        let next = process.pool.poll(self.now, &mut granted);
        let sent: Vec<_> = granted
            .into_iter()
            .map(|(ticket, id)| (process.waiting.remove(&ticket).expect("it waited"), id))
            .collect();
        if let Next::At(at) = next {
            // As coarse as a real timer.
            let at = at.div_ceil(MS) * MS;
            if at < process.armed {
                process.armed = at;
                self.at(at, Event::Timer(index));
            }
        }
        for (job, id) in sent {
            self.at(self.now + job.up, Event::Arrive(index, job, id));
        }
    }

    fn arrive(&mut self, index: usize, job: Job, id: ReservationId) {
        let produced = self.now + job.first_token + job.output * S / 80;
        let (input, output) = (job.input as f64, job.output as f64);
        let verdict = self.server.arrive(self.now, input, output, produced);
        let head = Box::new(self.server.head(self.now, verdict));
        let mut at = self.now + job.down;
        if verdict == Verdict::Taken {
            if self.counts() {
                self.processes[index].charged += input;
            }
            at += job.first_token;
            self.at(produced, Event::Done);
        } else if self.counts() {
            self.report.refused += 1;
            self.report.rejected_by_level += u64::from(verdict == Verdict::NoLevel);
        } else {
            self.report.refused_early += 1;
        }
        self.at(at, Event::Head(index, job, id, head, verdict));
    }

    fn head(&mut self, index: usize, job: Job, id: ReservationId, head: &Head, verdict: Verdict) {
        let now = self.now;
        let refused = verdict != Verdict::Taken;
        let pool = &mut self.processes[index].pool;
        if refused {
            let jitter = self.rng.f64();
            pool.rate_limited(now, id, head.retry_after, jitter);
        }
        let seen = Seen::new(&head.limits, Some(head.date)).with_rejected(refused);
        pool.observe(now, id, &seen);
        if refused {
            pool.settle(now, id, &Settlement::Rejected);
            self.ask(index, job);
        } else {
            pool.true_up_input(now, id, job.input);
            let end = now + job.output * S / 80;
            self.at(end, Event::End(index, job, id));
        }
    }

    fn take_externally(&mut self) {
        let mean = 2_200.0;
        let every = mean / (self.fleet.external * self.server.input_rate());
        let gap = exponential(&mut self.rng, every);
        let end = self.now + S;
        let verdict = self.server.arrive(self.now, mean, 1.0, end);
        if verdict == Verdict::Taken {
            self.at(end, Event::Done);
            if self.counts() {
                self.external += mean;
            }
        }
        self.at(self.now + (gap * 1e9) as u64 + 1, Event::External);
    }
}
