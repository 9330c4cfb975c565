//! Client events.

use super::{Event, Job, STREAM, Simulation};
use crate::{
    client::{ActualUse, Head, JobId, NewRequest},
    random::exponential,
    units::{MS, SECOND, nanos},
    workload::{Sizes, When},
};

/// The limiter's layers report output from this count on, and then after every increase by a
/// quarter.
const FIRST_REPORT: u64 = 256;

impl Simulation {
    pub(super) fn handle(&mut self, event: Event) {
        let client = match event {
            Event::Submit { client, .. } | Event::Wake(client) => Some(client),
            Event::Deliver(job) | Event::Progress(job) | Event::Done(job) => {
                Some(self.jobs[job as usize].client)
            }
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
            Event::Submit { client, source } => self.submit(client, source),
            Event::Arrive(job) => self.arrive(job),
            Event::Stream(job) => self.stream(job),
            Event::Deliver(job) => self.deliver(job),
            Event::Progress(job) => self.progress(job),
            Event::Finish(job) => self.finish(job),
            Event::Done(job) => self.done(job),
            Event::Wake(client) => self.wake(client),
            Event::OracleQueue => self.advance_oracle_queue(),
            Event::WarmUpEnd => {
                self.measuring = true;
                self.server.gauges(self.events.now());
                self.charged = [0, 0, self.server.produced];
            }
            Event::Change => {
                if let Some((at, quota)) = self.setup.change {
                    self.server.change(at, quota);
                }
            }
            Event::Fault => self.fault(),
            Event::Sample => self.sample(),
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
            self.events.add(at, Event::Submit { client, source });
        }
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
            head: Head::default(),
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
                self.events.add(at, Event::Wake(client));
            }
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
        self.events.add(now + up, Event::Arrive(id));
    }

    /// Frees the slot. In a closed loop, the worker submits the next request.
    fn close(&mut self, id: JobId) {
        let job = &self.jobs[id as usize];
        let (client, source) = (job.client, job.source);
        self.free.push(id);
        let kind = &self.clients[client as usize].sources[source as usize];
        if matches!(kind.when, When::Closed(_)) {
            let now = self.events.now();
            self.events.add(now, Event::Submit { client, source });
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
                self.events.add(at, Event::Progress(id));
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

    /// Returns the delay of one direction of the network.
    pub(super) fn delay(&mut self) -> u64 {
        20 * MS + nanos(exponential(&mut self.network, 0.02))
    }
}
