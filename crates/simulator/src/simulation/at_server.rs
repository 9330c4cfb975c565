//! Server events.

use super::{Event, STREAM, Sample, Simulation, Tally};
use crate::{
    client::{Head, HeaderGauge, JobId},
    units::{MS, SECOND, seconds},
    workload::{BIG, Sizes},
};

impl Simulation {
    pub(super) fn arrive(&mut self, id: JobId) {
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
                self.events.add(now + down, Event::Deliver(id));
            }
        }
    }

    /// Admits queued requests, first in, first out, each at the time at which it fits.
    pub(super) fn advance_oracle_queue(&mut self) {
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
                    self.events.add(now + wait.max(MS / 10), Event::OracleQueue);
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

    pub(super) fn admitted(&mut self, id: JobId) {
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
            self.jobs[id as usize].head = self.levels();
        }
        let think = self.jobs[id as usize].think;
        self.events.add(now + think, Event::Stream(id));
    }

    pub(super) fn count_admission(&mut self, now: u64, id: JobId) {
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

    pub(super) fn stream(&mut self, id: JobId) {
        let now = self.events.now();
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
        self.events.add(job.delivered, Event::Deliver(id));
        self.events.add(now + length, Event::Finish(id));
    }

    pub(super) fn finish(&mut self, id: JobId) {
        let now = self.events.now();
        self.server.stream_ends(now);
        let job = &self.jobs[id as usize];
        let down = job.delivered - job.streaming;
        // After the last report, even if both have the same time.
        self.events.add(now + down + 1, Event::Done(id));
    }

    pub(super) fn sample(&mut self) {
        let now = self.events.now();
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
            self.events.add(now + SECOND, Event::Sample);
        }
    }

    /// Returns the headers of a response at the current time.
    pub(super) fn levels(&mut self) -> Head {
        let now = self.events.now();
        let gauges = self.server.gauges(now);
        let shown = |limit, remaining, full_in: std::time::Duration| {
            // The second at which the bucket is full, rounded up like in the fake server's headers.
            let full = now + full_in.as_nanos() as u64;
            let full = if full_in.is_zero() {
                full / SECOND
            } else {
                full.div_ceil(SECOND)
            };
            HeaderGauge {
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
}
