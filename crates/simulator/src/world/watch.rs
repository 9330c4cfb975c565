//! Faults of clocks, and the comparison of what a client believes with what is there.

use super::{Client, Event, World};
use crate::{setup::Fault, workload::OUTPUT};

impl World {
    /// Compares what the client believes with what is there.
    pub(super) fn probe(&mut self, now: u64, client: u32) {
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
            *most = most.max(off);
        }
    }

    pub(super) fn fault(&mut self) {
        let now = self.agenda.now();
        match self.setup.fault {
            Some((_, Fault::Date(seconds))) => self.date_off = seconds,
            Some((_, Fault::Reset(seconds))) => self.reset_off = seconds,
            Some((_, Fault::Standstill(time))) => self.stand_still(now + time),
            Some((_, Fault::ClockStop(time))) => {
                self.clients[0].behind = time;
                self.stand_still(now + time);
            }
            None => {}
        }
    }

    fn stand_still(&mut self, until: u64) {
        let first = &mut self.clients[0];
        first.asleep_until = until;
        // A timer that has run out meanwhile runs out then.
        if first.armed < u64::MAX {
            first.armed = until;
            self.agenda.add(until, Event::Wake(0));
        }
        self.last_admission = until;
    }
}

/// What an answer of this length may be charged with, here or there, before it has ended.
pub(super) fn in_flight(output: u64) -> f64 {
    (output + output / 4).max(2 * OUTPUT.0 as u64) as f64
}
