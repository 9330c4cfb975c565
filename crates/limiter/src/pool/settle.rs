//! What is given back, and when.

use tower_claude_wire::Usage;

use super::{
    Pool, ReservationId,
    bucket::MAX_CHARGE,
    float::rounded,
    lane::{Charge, Counted, INPUT, LANES, OUTPUT, TOTAL},
    queue::Turn,
};
use crate::Settlement;

/// No request uses so many tokens: what says so has run below zero somewhere, and as a debt would never be repaid.
const TOO_MANY: u64 = 1 << 26;

/// From here on the slow start holds nothing back.
pub(super) const SLOW_START_ENDS: u64 = 4_096;

impl Pool {
    /// Corrects the input of a reservation once the server's count is known.
    pub fn true_up_input(&mut self, now: u64, id: ReservationId, actual: u64) {
        self.advance(now);
        if let Some(record) = self.book.get_mut(id) {
            record.teaches = false;
        }
        self.recharge(id, believed(Some(actual)), None);
    }

    /// Reports the output produced so far. An answer longer than expected extends its reservation in
    /// steps of a quarter, so that the level stays honest while it runs.
    pub fn produced(&mut self, now: u64, id: ReservationId, output: u64) {
        self.advance(now);
        let Some(record) = self.book.get_mut(id) else {
            return;
        };
        record.produced = record.produced.max(believed(Some(output)).unwrap_or(0));
        let produced = record.produced;
        if produced > record.charge[OUTPUT] {
            let most = record.max_output.unwrap_or(u64::MAX);
            let extended = (produced + produced / 4).min(most).max(produced);
            self.recharge(id, None, Some(extended));
        }
    }

    /// Ends a reservation; once, later calls are ignored.
    pub fn settle(&mut self, now: u64, id: ReservationId, settlement: &Settlement) {
        let now = self.advance(now);
        let Some(record) = self.book.get(id) else {
            return;
        };
        let produced = record.produced;
        if *settlement == Settlement::Rejected {
            self.refused(now, id, None);
        }
        self.ramp.active(now);
        match settlement {
            Settlement::NotSent | Settlement::Rejected => {
                self.refund(id);
            }
            Settlement::Invalid => self.recharge(id, Some(0), Some(0)),
            Settlement::Failed { usage } | Settlement::Dropped { usage } => {
                let output = believed(usage.limited_output()).unwrap_or(0);
                let input = believed(usage.limited_input());
                self.recharge(id, input, Some(output.max(produced)));
            }
            Settlement::Used { usage } => self.used(id, usage, produced),
        }
        self.close(id);
    }

    fn used(&mut self, id: ReservationId, usage: &Usage, produced: u64) {
        let input = believed(usage.limited_input());
        let output = believed(usage.limited_output());
        self.recharge(id, input, output.map(|output| output.max(produced)));
        self.learn_use(id, usage);
        self.pause.succeeded();
        self.answered(id);
    }

    fn learn_use(&mut self, id: ReservationId, usage: &Usage) {
        let Some(record) = self.book.get(id) else {
            return;
        };
        if let Some(output) = believed(usage.limited_output()).filter(|_| self.config.learn_output)
        {
            self.output.learn(record.output_place, output);
        }
        if let Some(input) = believed(usage.limited_input()).filter(|_| self.config.calibrate_input)
        {
            let (estimate, workload) = (record.estimate, record.workload);
            let read = usage.cache_read_input_tokens.unwrap_or(0);
            let cached = record.cached.unwrap_or(read);
            if record.counted_input {
                self.input.stray(estimate, input);
            } else if about(cached, read) {
                self.input.learn(workload, estimate, input);
            } else if read < cached {
                // A read that did not come says nothing about text, nor does one that came unforeseen; and
                // that one is no error to guard against.
                let expected = estimate as f64 * self.input.ratio_of(workload);
                self.input.stray(rounded(expected), input);
            }
        }
    }

    /// The head of an answer has arrived: the server has surely counted the request.
    pub(super) fn heard(&mut self, id: ReservationId) {
        let Some(record) = self.book.get_mut(id) else {
            return;
        };
        if record.heard {
            return;
        }
        record.heard = true;
        for (lane, counted) in self.lanes.iter_mut().zip(record.counted) {
            if lane.counted == Counted::AtHead {
                lane.seen = lane.seen.wrapping_add(counted as i64);
            }
        }
    }

    /// Gives everything back: it never was sent, as far as the levels know.
    pub(super) fn refund(&mut self, id: ReservationId) {
        let Some(record) = self.book.get_mut(id) else {
            return;
        };
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if let Some(bucket) = &mut lane.bucket {
                bucket.give(record.charge[index]);
            }
            let counted = record.counted[index] as i64;
            lane.sent = lane.sent.wrapping_sub(counted);
            if record.heard && lane.counted == Counted::AtHead {
                lane.seen = lane.seen.wrapping_sub(counted);
            }
        }
        let (sent_at, turn, old) = (record.sent_at, record.turn, record.charge);
        record.charge = [0; LANES];
        record.counted = [0; LANES];
        self.recharge_more(sent_at, turn, &old, &[0; LANES]);
    }

    /// Replaces the tokens charged, where the new count is known.
    fn recharge(&mut self, id: ReservationId, input: Option<u64>, output: Option<u64>) {
        let Some(record) = self.book.get_mut(id) else {
            return;
        };
        let mut new = record.charge;
        if let Some(input) = input {
            new[INPUT] = input.min(MAX_CHARGE);
            self.guessed_input -= std::mem::take(&mut record.guessed_input);
        }
        if let Some(output) = output {
            new[OUTPUT] = output.min(MAX_CHARGE);
        }
        new[TOTAL] = new[INPUT] + new[OUTPUT];
        for index in [INPUT, OUTPUT, TOTAL] {
            let lane = &mut self.lanes[index];
            lane.recharge(record.charge[index], new[index]);
            if lane.counted == Counted::AtEnd {
                record.counted[index] = new[index];
            }
        }
        let (sent_at, turn, old) = (record.sent_at, record.turn, record.charge);
        record.charge = new;
        self.recharge_more(sent_at, turn, &old, &new);
    }

    /// The same for extra limits, and for the turn of the flow.
    fn recharge_more(&mut self, sent_at: u64, turn: Option<Turn>, old: &Charge, new: &Charge) {
        for extra in &mut self.extras {
            extra.recharge(sent_at, old, new);
        }
        if let Some(turn) = turn.filter(|_| old != new) {
            let (old, new) = (self.turn_work(old), self.turn_work(new));
            self.queue
                .fair_mut()
                .correct(turn.flow, turn.epoch, old, new);
        }
    }

    /// Everything still counted in the flows counts as seen from here on; the slot is free.
    fn close(&mut self, id: ReservationId) {
        self.heard(id);
        if let Some(record) = self.book.get_mut(id) {
            self.guessed_input -= std::mem::take(&mut record.guessed_input);
            for (lane, counted) in self.lanes.iter_mut().zip(record.counted) {
                if lane.counted == Counted::AtEnd {
                    lane.seen = lane.seen.wrapping_add(counted as i64);
                }
            }
            self.output.ended(record.output_place);
        }
        self.book.remove(id);
    }

    /// One more answer: the slow start opens further.
    fn answered(&mut self, id: ReservationId) {
        let Some(record) = self.book.get_mut(id) else {
            return;
        };
        if let (Some(most), false) = (self.initial_concurrency, record.answered) {
            record.answered = true;
            let most = most.saturating_mul(2);
            self.initial_concurrency = (most < SLOW_START_ENDS).then_some(most);
        }
    }
}

/// What was reported as used, if it can be.
fn believed(tokens: Option<u64>) -> Option<u64> {
    tokens.filter(|tokens| *tokens < TOO_MANY)
}

/// Whether a forecast came true, near enough that what differs is an error of its own tokens.
const fn about(expected: u64, actual: u64) -> bool {
    let longer = if expected > actual { expected } else { actual };
    expected.abs_diff(actual) <= longer / 8
}
