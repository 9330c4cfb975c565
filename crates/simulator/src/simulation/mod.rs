//! The simulation of clients, network and server in virtual time.

mod in_flight_cost;
mod parts;
mod request_gate;
mod server;
mod tally;

use std::collections::VecDeque;

use tower_claude_limiter::pool::MemoryStore;

use crate::{
    client::{Action, ActualUse, JobId, NewRequest, ResponseHead},
    event_queue::EventQueue,
    random::{Purpose, exponential, stream},
    setup::{ClockFault, Setup},
    units::{MS, SECOND, nanos, seconds},
    workload::{BIG, Sizes, When},
};
use in_flight_cost::InFlightCost;
use parts::{Client, Job, SimulationEvent};

pub(crate) use server::{STREAM, Server};
pub(crate) use tally::{Sample, Tally};

/// The limiter's layers report output from this count on, and then after every increase by a
/// quarter.
const FIRST_REPORT: u64 = 256;

/// The complete state of one run.
pub(crate) struct Simulation {
    setup: Setup,
    events: EventQueue<SimulationEvent>,
    server: Server,
    /// The store of processes that share their limits.
    store: MemoryStore,
    clients: Vec<Client>,
    jobs: Vec<Job>,
    free: Vec<JobId>,
    io: Action,
    network: fastrand::Rng,
    oracle_queue: VecDeque<JobId>,
    /// Output tokens of all requests that the oracle's queue has admitted.
    promised: u64,
    has_oracle_queue: bool,
    measuring: bool,
    tally: Tally,
    /// Requests, input tokens admitted and output tokens produced since the warm-up.
    charged: [u64; 3],
    /// Requests in flight, and the output of responses whose end has reached the client.
    flight: InFlightCost,
    settled: u64,
    last_admission: u64,
    second: (u32, u32),
}

impl Simulation {
    pub(crate) fn new(setup: Setup) -> Self {
        let seed = setup.seed;
        let count = setup.clients.len();
        let client = |(index, spec)| Client::new(spec, seed, index, count);
        Self {
            clients: setup.clients.iter().enumerate().map(client).collect(),
            // The oracle's queue only tests for admission, so a failed test must not cost a
            // request.
            server: Server::new(
                &setup,
                setup.switches.refused_cost && !setup.has_oracle_queue(),
            ),
            store: MemoryStore::new(),
            events: EventQueue::new(),
            jobs: Vec::new(),
            free: Vec::new(),
            io: Action::default(),
            network: stream(seed, Purpose::Network, 0),
            oracle_queue: VecDeque::new(),
            promised: 0,
            has_oracle_queue: setup.has_oracle_queue(),
            measuring: false,
            tally: Tally {
                tokens: vec![0; count],
                ..Tally::default()
            },
            charged: [0; 3],
            flight: InFlightCost::default(),
            settled: 0,
            last_admission: 0,
            second: (0, 0),
            setup,
        }
    }

    /// Runs the simulation to its end.
    pub(crate) fn run(mut self) -> Tally {
        self.begin();
        let end = self.setup.end();
        while let Some(event) = self.events.next(end) {
            self.handle(event);
        }
        self.server.gauges(end);
        self.charged[2] = self.server.produced - self.charged[2];
        let allowance = self.setup.allowance();
        let mut tally = self.tally;
        tally.used = std::array::from_fn(|index| self.charged[index] as f64 / allowance[index]);
        let mut counted = self.clients.iter().map(|client| client.counted);
        tally.tokens.retain(|_| counted.next() == Some(true));
        tally.longest_gap = tally
            .longest_gap
            .max(end.saturating_sub(self.last_admission));
        tally
    }

    fn begin(&mut self) {
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            for (number, source) in client.sources.iter().enumerate() {
                let event = SimulationEvent::Submit {
                    client: index as u32,
                    source: number as u32,
                };
                match source.when {
                    When::Closed(workers) => {
                        // Spread over a second.
                        for _ in 0..workers {
                            self.events.add(client.arrivals.u64(..SECOND), event);
                        }
                    }
                    _ => {
                        let first = source.next(0, 0, &mut client.arrivals);
                        self.events.add(first.unwrap_or(0), event);
                    }
                }
            }
        }
        self.events
            .add(self.setup.warm_up, SimulationEvent::WarmUpEnd);
        for (at, quota) in &self.setup.changes {
            self.events.add(*at, SimulationEvent::Change(*quota));
        }
        if let Some((at, _)) = self.setup.fault {
            self.events.add(at, SimulationEvent::Fault);
        }
        if self.setup.sample > 0 {
            self.events.add(SECOND, SimulationEvent::Sample);
        }
    }

    fn handle(&mut self, event: SimulationEvent) {
        let client = match event {
            SimulationEvent::Submit { client, .. }
            | SimulationEvent::Reply(client)
            | SimulationEvent::Wake(client) => Some(client),
            SimulationEvent::Deliver(job)
            | SimulationEvent::Progress(job)
            | SimulationEvent::Done(job) => Some(self.jobs[job as usize].client),
            _ => None,
        };
        if let Some(client) = client {
            let until = self.clients[client as usize].asleep_until;
            if until > self.events.now() {
                self.events.add(until, event);
                return;
            }
        }
        match event {
            SimulationEvent::Submit { client, source } => self.submit(client, source),
            SimulationEvent::Arrive(job) => self.arrive(job),
            SimulationEvent::Stream(job) => self.stream(job),
            SimulationEvent::Deliver(job) => self.deliver(job),
            SimulationEvent::Progress(job) => self.progress(job),
            SimulationEvent::Finish(job) => self.finish(job),
            SimulationEvent::Done(job) => self.done(job),
            SimulationEvent::Store(client) => self.reach_store(client),
            SimulationEvent::Reply(client) => self.reply(client),
            SimulationEvent::Wake(client) => self.wake(client),
            SimulationEvent::OracleQueue => self.advance_oracle_queue(),
            SimulationEvent::WarmUpEnd => {
                self.measuring = true;
                self.server.gauges(self.events.now());
                self.charged = [0, 0, self.server.produced];
            }
            SimulationEvent::Change(quota) => self.server.change(self.events.now(), quota),
            SimulationEvent::Fault => self.fault(),
            SimulationEvent::Sample => self.sample(),
        }
    }

    fn submit(&mut self, client: u32, source: u32) {
        let now = self.events.now();
        let from = &mut self.clients[client as usize];
        let kind = &from.sources[source as usize];
        let index = from.counts[source as usize];
        from.counts[source as usize] += 1;
        let of = match &kind.when {
            When::Trace(trace) => Some(trace.sizes(index)),
            _ => None,
        };
        if let Some(at) = kind.next(now, index + 1, &mut from.arrivals) {
            self.events
                .add(at, SimulationEvent::Submit { client, source });
        }
        let of = self.setup.input.map(|input| (input, 340)).or(of);
        let sizes = Sizes::draw(&mut from.sizes, self.setup.estimate_error, of);
        let job = Job {
            client,
            source,
            class: kind.class,
            sizes,
            think: nanos(0.4 + exponential(&mut from.sizes, 0.3)),
            submitted: now,
            sent: 0,
            arrived: 0,
            streaming: 0,
            delivered: 0,
            attempts: 0,
            report: FIRST_REPORT,
            head: ResponseHead::default(),
        };
        let ask = |id| NewRequest {
            job: id,
            estimate: sizes.estimate,
            class: kind.class,
        };
        let ask = if let Some(id) = self.free.pop() {
            self.jobs[id as usize] = job;
            ask(id)
        } else {
            self.jobs.push(job);
            ask((self.jobs.len() - 1) as JobId)
        };
        let local = now - from.behind;
        from.strategy.submit(local, ask, &mut self.io);
        self.act(client);
    }

    /// Executes the actions of a strategy.
    fn act(&mut self, client: u32) {
        let now = self.events.now();
        let mut send = std::mem::take(&mut self.io.send);
        for job in send.drain(..) {
            self.send(now, job);
        }
        self.io.send = send;
        let from = &mut self.clients[client as usize];
        if let Some(at) = self.io.wake.take() {
            let at = at.saturating_add(from.behind).max(now);
            if at < from.armed {
                from.armed = at;
                self.events.add(at, SimulationEvent::Wake(client));
            }
        }
        if let Some(message) = from.strategy.take_message(now - from.behind) {
            from.message = Some(message);
            let up = self.store_delay();
            self.events.add(now + up, SimulationEvent::Store(client));
        }
        while let Some(job) = self.io.failed.pop() {
            if self.measuring && self.clients[client as usize].counted {
                self.tally.failed += 1;
            }
            self.close(job);
        }
    }

    fn send(&mut self, now: u64, id: JobId) {
        let up = self.delay();
        let job = &mut self.jobs[id as usize];
        job.sent = now;
        job.attempts += 1;
        self.flight.sent += 1.0;
        self.flight.asked += job.sizes.estimate as f64;
        self.events.add(now + up, SimulationEvent::Arrive(id));
    }

    /// Frees the slot. In a closed loop, the worker submits the next request.
    fn close(&mut self, id: JobId) {
        let job = &self.jobs[id as usize];
        let (client, source) = (job.client, job.source);
        self.free.push(id);
        let kind = &self.clients[client as usize].sources[source as usize];
        if matches!(kind.when, When::Closed(_)) {
            let now = self.events.now();
            self.events
                .add(now, SimulationEvent::Submit { client, source });
        }
    }

    fn deliver(&mut self, id: JobId) {
        let now = self.events.now();
        let job = &self.jobs[id as usize];
        let (client, head, sizes, attempts) = (job.client, job.head, job.sizes, job.attempts);
        let refused = head.refused.is_some();
        if refused {
            self.flight.sent -= 1.0;
            self.flight.asked -= sizes.estimate as f64;
        } else {
            self.flight.charged -= sizes.estimate as f64;
            self.flight.counted -= sizes.input as f64;
            self.next_report(id);
        }
        let to = &mut self.clients[client as usize];
        let local = now - to.behind;
        to.strategy.on_response(local, id, &head, &mut self.io);
        if self.setup.probe && self.measuring && !refused && attempts > 0 {
            self.probe(now, client);
        }
        self.act(client);
    }

    fn progress(&mut self, id: JobId) {
        let now = self.events.now();
        let job = &mut self.jobs[id as usize];
        let (client, output) = (job.client, job.report);
        job.report += job.report / 4;
        self.next_report(id);
        let to = &mut self.clients[client as usize];
        let local = now - to.behind;
        to.strategy.on_progress(local, id, output, &mut self.io);
        self.act(client);
    }

    fn next_report(&mut self, id: JobId) {
        let job = &self.jobs[id as usize];
        if job.report < job.sizes.output {
            // A suspended client gets late reports at the end. All events of one response have the
            // same delay.
            let down = job.delivered - job.streaming;
            let at = job.streaming + job.report * SECOND / STREAM + down;
            if at > self.events.now() {
                self.events.add(at, SimulationEvent::Progress(id));
            }
        }
    }

    fn done(&mut self, id: JobId) {
        let now = self.events.now();
        let job = &self.jobs[id as usize];
        let (client, sizes) = (job.client, job.sizes);
        self.settled += sizes.output;
        let used = ActualUse {
            input: sizes.input,
            output: sizes.output,
        };
        let to = &mut self.clients[client as usize];
        let local = now - to.behind;
        to.strategy.on_end(local, id, used, &mut self.io);
        self.close(id);
        self.act(client);
    }

    fn wake(&mut self, client: u32) {
        let now = self.events.now();
        let to = &mut self.clients[client as usize];
        if to.armed > now {
            return; // of an earlier time
        }
        to.armed = u64::MAX;
        let local = now - to.behind;
        to.strategy.wake(local, &mut self.io);
        self.act(client);
    }

    /// Applies the message of a client at the store.
    fn reach_store(&mut self, client: u32) {
        let now = self.events.now();
        let from = &mut self.clients[client as usize];
        let Some(message) = &from.message else { return };
        from.reply = Some(self.store.apply(now / 1_000, client.into(), message));
        let down = self.store_delay();
        self.events.add(now + down, SimulationEvent::Reply(client));
    }

    fn reply(&mut self, client: u32) {
        let to = &mut self.clients[client as usize];
        let (Some(message), Some(reply)) = (to.message.take(), to.reply.take()) else {
            return;
        };
        let local = self.events.now() - to.behind;
        to.strategy
            .on_reply(local, message.id, &reply, &mut self.io);
        self.act(client);
    }

    /// Returns the delay of one direction between a process and the store.
    fn store_delay(&mut self) -> u64 {
        MS / 4 + nanos(exponential(&mut self.network, 0.000_1))
    }

    /// Returns the delay of one direction of the network.
    fn delay(&mut self) -> u64 {
        20 * MS + nanos(exponential(&mut self.network, 0.02))
    }

    // At the server.

    fn arrive(&mut self, id: JobId) {
        let now = self.events.now();
        self.jobs[id as usize].arrived = now;
        if self.has_oracle_queue {
            self.oracle_queue.push_back(id);
            if self.oracle_queue.len() == 1 {
                self.advance_oracle_queue();
            }
            return;
        }
        match self.server.admit(now, self.jobs[id as usize].sizes.input) {
            Ok(()) => self.admitted(id),
            Err(wait) => {
                let mut head = self.server.head(now);
                head.refused = Some(wait.div_ceil(SECOND).max(1));
                let down = self.delay();
                let job = &mut self.jobs[id as usize];
                job.head = head;
                self.second.1 += 1;
                if self.clients[job.client as usize].counted {
                    if self.measuring {
                        self.tally.refused += 1;
                    } else {
                        self.tally.refused_before += 1;
                    }
                    if self.setup.fault.is_some_and(|(at, _)| now >= at) {
                        self.tally.refused_after_fault += 1;
                    }
                }
                self.events.add(now + down, SimulationEvent::Deliver(id));
            }
        }
    }

    /// Admits queued requests, first in, first out, each at the time at which it fits.
    fn advance_oracle_queue(&mut self) {
        let now = self.events.now();
        while let Some(id) = self.oracle_queue.front().copied() {
            let Sizes { input, output, .. } = self.jobs[id as usize].sizes;
            let wait = self.until_produced(output);
            let admitted = if wait > 0 {
                Err(wait)
            } else {
                self.server.admit(now, input)
            };
            match admitted {
                Ok(()) => {
                    self.oracle_queue.pop_front();
                    self.promised += output;
                    self.admitted(id);
                }
                Err(wait) => {
                    self.events
                        .add(now + wait.max(MS / 10), SimulationEvent::OracleQueue);
                    return;
                }
            }
        }
    }

    /// Returns the nanoseconds until this response fits after all output that is still to be
    /// produced. The oracle knows the length of every response, while the server only checks that
    /// there are tokens.
    fn until_produced(&mut self, output: u64) -> u64 {
        let gauge = self.server.gauges(self.events.now()).output_tokens;
        let ahead = self.promised - self.server.produced;
        let missing = (ahead + output) as i64 - gauge.level;
        if missing <= 0 || ahead == 0 {
            return 0;
        }
        (missing as u64).saturating_mul(60 * SECOND) / gauge.limit.max(1)
    }

    fn admitted(&mut self, id: JobId) {
        let now = self.events.now();
        let Sizes {
            input, estimate, ..
        } = self.jobs[id as usize].sizes;
        self.flight.sent -= 1.0;
        self.flight.asked -= estimate as f64;
        self.flight.charged += estimate as f64;
        self.flight.counted += input as f64;
        self.count_admission(now, id);
        let at_response = self.setup.switches.at_response;
        if !at_response {
            self.jobs[id as usize].head = self.server.head(now);
        }
        let think = self.jobs[id as usize].think;
        self.events.add(now + think, SimulationEvent::Stream(id));
    }

    fn count_admission(&mut self, now: u64, id: JobId) {
        let job = &self.jobs[id as usize];
        let Sizes { input, output, .. } = job.sizes;
        self.second.0 += 1;
        if self.measuring {
            self.charged[0] += 1;
            self.charged[1] += input;
        }
        let tally = &mut self.tally;
        if !self.clients[job.client as usize].counted {
            return;
        }
        let gap = now.saturating_sub(self.last_admission);
        tally.longest_gap = tally.longest_gap.max(gap);
        self.last_admission = self.last_admission.max(now);
        if !self.measuring {
            tally.admitted_before += 1;
            return;
        }
        let wait = if self.has_oracle_queue {
            now - job.arrived
        } else {
            job.sent - job.submitted
        };
        let wait = seconds(wait) as f32;
        let class = Tally::class(job.class);
        tally.admitted += 1;
        tally.tokens[job.client as usize] += input + output;
        tally.waits[class].push(wait);
        let work = self.setup.quota.work(input, output);
        tally.works[class].push(work as f32);
        tally.attempts.0 += u64::from(job.attempts);
        tally.attempts.1 += 1;
        if input > BIG {
            tally.big_waits.push(wait);
            tally.big_attempts.0 += u64::from(job.attempts);
            tally.big_attempts.1 += 1;
        }
    }

    fn stream(&mut self, id: JobId) {
        let now = self.events.now();
        if self.setup.switches.at_response {
            self.jobs[id as usize].head = self.server.head(now);
        }
        self.server.stream_starts(now);
        let down = self.delay();
        let job = &mut self.jobs[id as usize];
        job.head.input = job.sizes.input;
        job.streaming = now;
        job.delivered = now + down;
        let length = job.sizes.output * SECOND / STREAM;
        self.events.add(job.delivered, SimulationEvent::Deliver(id));
        self.events.add(now + length, SimulationEvent::Finish(id));
    }

    fn finish(&mut self, id: JobId) {
        let now = self.events.now();
        self.server.stream_ends(now);
        let job = &self.jobs[id as usize];
        let down = job.delivered - job.streaming;
        // After the last report, even if both have the same time.
        self.events.add(now + down + 1, SimulationEvent::Done(id));
    }

    fn sample(&mut self) {
        let now = self.events.now();
        let level = self.server.level(now);
        let (admitted, refused) = std::mem::take(&mut self.second);
        self.tally.samples.push(Sample {
            level,
            admitted,
            refused,
        });
        if now < self.setup.sample {
            self.events.add(now + SECOND, SimulationEvent::Sample);
        }
    }

    /// Compares the client's levels with the server's.
    fn probe(&mut self, now: u64, client: u32) {
        let client = &self.clients[client as usize];
        let Some(believed) = client.strategy.levels(now - client.behind) else {
            return;
        };
        // Requests that the client has just admitted and the simulation has not sent.
        let mut flight = self.flight;
        for job in &self.io.send {
            flight.sent += 1.0;
            flight.asked += self.jobs[*job as usize].sizes.estimate as f64;
        }
        // The gauges come first: reading them advances the output that the server has produced.
        let gauges = self.server.gauges(now);
        let produced = (self.server.produced - self.settled) as f64;
        let drift = flight.drift(&gauges, produced, &believed);
        let most = self.tally.drift.get_or_insert([f64::NEG_INFINITY; 3]);
        for (most, drift) in most.iter_mut().zip(drift) {
            *most = most.max(drift);
        }
    }

    fn fault(&mut self) {
        let now = self.events.now();
        match self.setup.fault {
            Some((_, ClockFault::Date(seconds))) => self.server.date_off = seconds,
            Some((_, ClockFault::Reset(seconds))) => self.server.reset_off = seconds,
            Some((_, ClockFault::Standstill(time))) => self.stand_still(now + time),
            Some((_, ClockFault::ClockStop(time))) => {
                self.clients[0].behind = time;
                self.stand_still(now + time);
            }
            None => {}
        }
    }

    fn stand_still(&mut self, until: u64) {
        let first = &mut self.clients[0];
        first.asleep_until = until;
        // A timer that expires meanwhile fires at the end of the suspension.
        if first.armed < u64::MAX {
            first.armed = until;
            self.events.add(until, SimulationEvent::Wake(0));
        }
        self.last_admission = until;
    }
}
