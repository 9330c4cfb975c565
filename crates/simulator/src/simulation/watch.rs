//! Clock faults, and the comparison of a client's levels with the server's.

use super::{Client, Event, Simulation};
use crate::setup::Fault;

/// Tolerated error of the client's correction of its estimates.
const ESTIMATE_ERROR: f64 = 0.05;

/// Requests in flight between all clients and the server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flight {
    /// Requests without a decision of the server, or whose rejection has not reached the client.
    pub(super) sent: f64,
    /// Their estimated input.
    pub(super) asked: f64,
    /// Estimated input, and input charged by the server, of admitted requests whose head has not
    /// reached the client.
    pub(super) charged: f64,
    pub(super) counted: f64,
}

impl Simulation {
    /// Compares the client's levels with the server's.
    pub(super) fn probe(&mut self, now: u64, client: u32) {
        let of: &Client = &self.clients[client as usize];
        let Some(believed) = of.strategy.levels(now - of.behind) else {
            return;
        };
        let gauges = self.server.gauges(now);
        let flight = self.flight;
        // Requests that the client has just admitted and the simulation has not sent.
        let mut leaving = (0.0, 0.0);
        for job in &self.io.send {
            leaving.0 += 1.0;
            leaving.1 += self.jobs[*job as usize].sizes.estimate as f64;
        }
        // The expected levels: the server's levels, less the charges that the client has made and
        // the server has not. The tolerance allows for the client's own correction of estimates.
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
        let now = self.events.now();
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
        // A timer that expires meanwhile fires at the end of the suspension.
        if first.armed < u64::MAX {
            first.armed = until;
            self.events.add(until, Event::Wake(0));
        }
        self.last_admission = until;
    }
}
