//! Faults of clocks, and the comparison of what a client believes with what is there.

use super::{Client, Event, World};
use crate::setup::Fault;

/// How far the client's correction of its estimates may be off.
const ESTIMATE_ERROR: f64 = 0.05;

/// What is under way between the client and the server, of all clients.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flight {
    /// Requests that the server has not judged, or whose refusal is on its way back.
    pub(super) sent: f64,
    /// The input that was estimated for them.
    pub(super) asked: f64,
    /// The input that was estimated for those admitted whose head has not been seen, and what the server
    /// charged.
    pub(super) charged: f64,
    pub(super) counted: f64,
}

impl World {
    /// Compares what the client believes with what is there.
    pub(super) fn probe(&mut self, now: u64, client: u32) {
        let of: &Client = &self.clients[client as usize];
        let Some(believed) = of.strategy.levels(now - of.behind) else {
            return;
        };
        let gauges = self.server.gauges(now);
        let flight = self.flight;
        // Let out just now, and not sent yet as far as the world knows.
        let mut leaving = (0.0, 0.0);
        for job in &self.io.send {
            leaving.0 += 1.0;
            leaving.1 += self.jobs[*job as usize].sizes.estimate as f64;
        }
        // What it should believe: what is there, less what it has taken and the server has not, or not in
        // that amount; and by how much that may be off, since its correction of estimates is its own.
        let produced = (self.server.produced - self.settled) as f64;
        let expected = [
            gauges.requests.level as f64 - flight.sent - leaving.0,
            gauges.input_tokens.level as f64
                - (flight.asked + flight.charged - flight.counted)
                - leaving.1,
            gauges.output_tokens.level as f64 + produced - believed.outstanding_output as f64,
        ];
        let unsure = [
            // Both levels are rounded down.
            1.0,
            (flight.asked + flight.charged + leaving.1) * ESTIMATE_ERROR,
            0.0,
        ];
        let drift = self.tally.drift.get_or_insert([f64::NEG_INFINITY; 3]);
        for (index, most) in drift.iter_mut().enumerate() {
            let off = (believed.levels[index] as f64 - expected[index]).abs() - unsure[index];
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
