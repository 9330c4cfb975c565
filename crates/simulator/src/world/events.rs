//! What each event does.

use super::{Client, Event, Job, STREAM, Sample, Tally, World};
use crate::{
    client::{Ask, Head, JobId, Shown, Used},
    random::exponential,
    setup::Fault,
    units::{MS, SECOND, nanos, seconds},
    workload::{BIG, Sizes, When},
};

/// The limiter's layers report output from here on, and then after every quarter more.
const FIRST_REPORT: u64 = 256;

impl World {
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
            if until > self.agenda.now() {
                self.agenda.add(until, event);
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
            Event::Door => self.open_door(),
            Event::Mark => {
                self.measuring = true;
                self.server.gauges(self.agenda.now());
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
        let now = self.agenda.now();
        let from = &mut self.clients[client as usize];
        let kind = &from.sources[source as usize];
        let index = from.counts[source as usize];
        from.counts[source as usize] += 1;
        let of = match &kind.when {
            When::Trace(trace) => Some(trace.sizes(index)),
            _ => None,
        };
        if let Some(at) = kind.next(now, index + 1, &mut from.arrivals) {
            self.agenda.add(at, Event::Submit { client, source });
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
        let ask = |id| Ask {
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

    /// Does what a strategy wants.
    fn act(&mut self, client: u32) {
        let now = self.agenda.now();
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
                self.agenda.add(at, Event::Wake(client));
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
        let Sizes {
            input,
            estimate,
            output,
        } = job.sizes;
        self.flying[0] += 1.0;
        self.flying[1] += input.max(estimate) as f64;
        self.flying[2] += in_flight(output);
        self.agenda.add(now + up, Event::Arrive(id));
    }

    /// Frees the slot; a worker asks again.
    fn close(&mut self, id: JobId) {
        let job = &self.jobs[id as usize];
        let (client, source) = (job.client, job.source);
        self.free.push(id);
        let kind = &self.clients[client as usize].sources[source as usize];
        if matches!(kind.when, When::Closed(_)) {
            let now = self.agenda.now();
            self.agenda.add(now, Event::Submit { client, source });
        }
    }

    fn arrive(&mut self, id: JobId) {
        let now = self.agenda.now();
        self.jobs[id as usize].arrived = now;
        if self.has_door {
            self.door.push_back(id);
            if self.door.len() == 1 {
                self.open_door();
            }
            return;
        }
        match self.server.admit(now, self.jobs[id as usize].sizes.input) {
            Ok(()) => self.admitted(id),
            Err(wait) => {
                let mut head = self.levels();
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
                }
                self.agenda.add(now + down, Event::Deliver(id));
            }
        }
    }

    /// First in, first out, each at the instant when it fits.
    fn open_door(&mut self) {
        let now = self.agenda.now();
        while let Some(id) = self.door.front().copied() {
            match self.server.admit(now, self.jobs[id as usize].sizes.input) {
                Ok(()) => {
                    self.door.pop_front();
                    self.admitted(id);
                }
                Err(wait) => {
                    self.agenda.add(now + wait.max(MS / 10), Event::Door);
                    return;
                }
            }
        }
    }

    fn admitted(&mut self, id: JobId) {
        let now = self.agenda.now();
        self.count_admission(now, id);
        let at_response = self.setup.switches.at_response;
        if !at_response {
            self.jobs[id as usize].head = self.levels();
        }
        let think = self.jobs[id as usize].think;
        self.agenda.add(now + think, Event::Stream(id));
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
        tally.longest_gap = tally.longest_gap.max(now - self.last_admission);
        self.last_admission = now;
        if !self.measuring {
            tally.admitted_before += 1;
            return;
        }
        let wait = if self.has_door {
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
        let now = self.agenda.now();
        if self.setup.switches.at_response {
            self.jobs[id as usize].head = self.levels();
        }
        self.server.stream_starts(now);
        let down = self.delay();
        let job = &mut self.jobs[id as usize];
        job.head.input = job.sizes.input;
        job.streaming = now;
        job.delivered = now + down;
        let length = job.sizes.output * SECOND / STREAM;
        self.agenda.add(job.delivered, Event::Deliver(id));
        self.agenda.add(now + length, Event::Finish(id));
    }

    fn deliver(&mut self, id: JobId) {
        let now = self.agenda.now();
        let job = &self.jobs[id as usize];
        let (client, head, sizes, attempts) = (job.client, job.head, job.sizes, job.attempts);
        let refused = head.refused.is_some();
        self.flying[0] -= 1.0;
        self.flying[1] -= sizes.input.max(sizes.estimate) as f64;
        if refused {
            self.flying[2] -= in_flight(sizes.output);
        } else {
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

    /// Compares what the client believes with what is there.
    fn probe(&mut self, now: u64, client: u32) {
        let of: &Client = &self.clients[client as usize];
        let Some(believed) = of.strategy.levels(now - of.behind) else {
            return;
        };
        let gauges = self.server.gauges(now);
        let true_levels = [
            gauges.requests.level,
            gauges.input_tokens.level,
            gauges.output_tokens.level,
        ];
        // Let out just now, and not sent yet as far as the world knows.
        let mut flying = self.flying;
        for job in &self.io.send {
            let sizes = self.jobs[*job as usize].sizes;
            flying[0] += 1.0;
            flying[1] += sizes.input.max(sizes.estimate) as f64;
            flying[2] += in_flight(sizes.output);
        }
        let drift = self.tally.drift.get_or_insert([0.0; 3]);
        for (index, most) in drift.iter_mut().enumerate() {
            let off = (believed[index] - true_levels[index]).abs() as f64 - flying[index];
            if std::env::var("DBG").is_ok() && off > *most && off > 1000.0 {
                eprintln!("{now} {index} {off} {believed:?} {true_levels:?} {flying:?}");
            }
            *most = most.max(off);
        }
    }

    fn progress(&mut self, id: JobId) {
        let now = self.agenda.now();
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
            // What a client that stood still finds late, it finds at the end.
            // The way down is the same for all of one answer.
            let down = job.delivered - job.streaming;
            let at = job.streaming + job.report * SECOND / STREAM + down;
            if at > self.agenda.now() {
                self.agenda.add(at, Event::Progress(id));
            }
        }
    }

    fn finish(&mut self, id: JobId) {
        let now = self.agenda.now();
        self.server.stream_ends(now);
        let job = &self.jobs[id as usize];
        let down = job.delivered - job.streaming;
        // After the last report, if both fall on one instant.
        self.agenda.add(now + down + 1, Event::Done(id));
    }

    fn done(&mut self, id: JobId) {
        let now = self.agenda.now();
        let job = &self.jobs[id as usize];
        let (client, sizes) = (job.client, job.sizes);
        self.flying[2] -= in_flight(sizes.output);
        let used = Used {
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
        let now = self.agenda.now();
        let to = &mut self.clients[client as usize];
        if to.armed > now {
            return; // of an earlier time
        }
        to.armed = u64::MAX;
        let local = now - to.behind;
        to.strategy.wake(local, &mut self.io);
        self.act(client);
    }

    fn fault(&mut self) {
        let now = self.agenda.now();
        match self.setup.fault {
            Some((_, Fault::Date(seconds))) => self.date_off = seconds,
            Some((_, Fault::Reset(seconds))) => self.reset_off = seconds,
            Some((_, Fault::Standstill(time))) => {
                let first = &mut self.clients[0];
                first.behind = time;
                first.asleep_until = now + time;
                // Its timers ran by its own clock.
                if first.armed < u64::MAX {
                    first.armed = now + time;
                    self.agenda.add(now + time, Event::Wake(0));
                }
                self.last_admission = now + time;
            }
            None => {}
        }
    }

    fn sample(&mut self) {
        let now = self.agenda.now();
        let gauges = self.server.gauges(now);
        let readings = [gauges.requests, gauges.input_tokens, gauges.output_tokens];
        let shares = readings.map(|reading| reading.level as f64 / reading.capacity.max(1) as f64);
        let level = shares.into_iter().fold(1.0, f64::min).max(0.0);
        let (admitted, refused) = std::mem::take(&mut self.second);
        self.tally.samples.push(Sample {
            level,
            admitted,
            refused,
        });
        if now < self.setup.sample {
            self.agenda.add(now + SECOND, Event::Sample);
        }
    }

    /// The headers of a response that is made now.
    fn levels(&mut self) -> Head {
        let now = self.agenda.now();
        let gauges = self.server.gauges(now);
        let shown = |limit, remaining, full_in: std::time::Duration| {
            // The second in which it is full, rounded up, as the fake server's headers say.
            let full = now + full_in.as_nanos() as u64;
            let full = if full_in.is_zero() {
                full / SECOND
            } else {
                full.div_ceil(SECOND)
            };
            Shown {
                limit,
                remaining,
                reset: full as i64 + self.date_off + self.reset_off,
            }
        };
        let (requests, input) = (gauges.requests, gauges.input_tokens);
        let output = gauges.output_tokens;
        Head {
            shown: [
                shown(requests.limit, requests.remaining(), requests.full_in),
                shown(input.limit, input.remaining_rounded(), input.full_in),
                shown(output.limit, output.remaining_rounded(), output.full_in),
            ],
            date: (now / SECOND) as i64 + self.date_off,
            refused: None,
            input: 0,
        }
    }

    /// One way through the network.
    fn delay(&mut self) -> u64 {
        20 * MS + nanos(exponential(&mut self.network, 0.02))
    }
}

/// What an answer of this length may be charged with, here or there, before it has ended.
fn in_flight(output: u64) -> f64 {
    (output + output / 4).max(2 * crate::workload::OUTPUT.0 as u64) as f64
}
