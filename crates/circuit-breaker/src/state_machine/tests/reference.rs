//! A slow reference of the state machine. It keeps the whole history, counts in milliseconds, and
//! derives everything anew.

use super::super::{BreakerState, CircuitOutcome};

/// The settings, in milliseconds and thousandths.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) failures: usize,
    pub(super) within: u64,
    /// Least number of calls, and the share.
    pub(super) failure_rate: Option<(usize, u64)>,
    /// Slow from, least number of calls, and the share.
    pub(super) slow_calls: Option<(u64, usize, u64)>,
    pub(super) cool_down: u64,
    pub(super) longest: u64,
    pub(super) forget_after: u64,
    pub(super) probes: usize,
    pub(super) successes: usize,
    pub(super) lease: u64,
    pub(super) ramp: Option<u64>,
}

/// A permit for one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReferencePermit {
    pub(super) epoch: usize,
    pub(super) probe: bool,
    number: usize,
    since: u64,
    /// The number of notes when it was sent.
    pub(super) order: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open { until: u64 },
    HalfOpen,
}

#[derive(Clone, Copy, Debug)]
enum Note {
    Success {
        slow: bool,
    },
    /// `counted` in the row as a moment of its own, and `rated` in the window. Sent after this
    /// number of notes.
    Failure {
        counted: bool,
        rated: bool,
        is_incident: bool,
        order: usize,
    },
}

#[derive(Debug)]
struct Probe {
    number: usize,
    claimed: u64,
    sent: Option<u64>,
    ended: Option<CircuitOutcome>,
}

#[derive(Debug)]
pub(super) struct Reference {
    rules: Rules,
    epoch: usize,
    phase: Phase,
    /// The outcomes of this epoch.
    notes: Vec<(u64, Note)>,
    probes: Vec<Probe>,
    /// The openings since the history was last forgotten.
    openings: Vec<u64>,
    closed_at: Option<u64>,
    passes: Vec<u64>,
    numbers: usize,
    /// The number and the order of each call of this epoch that was sent and has no outcome.
    live: Vec<(usize, usize)>,
}

impl Reference {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            epoch: 0,
            phase: Phase::Closed,
            notes: Vec::new(),
            probes: Vec::new(),
            openings: Vec::new(),
            closed_at: None,
            passes: Vec::new(),
            numbers: 0,
            live: Vec::new(),
        }
    }

    /// Returns a permit, or the wait.
    pub(super) fn admit(&mut self, now: u64, chance: u64) -> Result<ReferencePermit, u64> {
        self.expire(now, chance);
        if let Phase::Open { until } = self.phase {
            if now < until {
                return Err(until - now);
            }
            self.phase = Phase::HalfOpen;
        }
        if self.phase == Phase::HalfOpen {
            let out = self.probes.iter().filter(|probe| probe.ended.is_none());
            let newest = out.map(|probe| probe.sent.unwrap_or(probe.claimed)).max();
            let hangs = newest.is_some_and(|newest| now - newest > 60_000);
            if self.out() >= self.rules.probes && !hangs {
                return Err(1000);
            }
            let number = self.number();
            self.probes.push(Probe {
                number,
                claimed: now,
                sent: None,
                ended: None,
            });
            return Ok(self.permit(number, true, now));
        }
        if let (Some(ramp), Some(closed)) = (self.rules.ramp, self.closed_at)
            && now - closed < ramp
        {
            let reached = 900 * (now - closed) >= chance.saturating_sub(100) * ramp;
            let last = self.passes.last().copied().unwrap_or(closed);
            if !reached && now - last < 1000 {
                // Up to a rounding.
                return Err((chance - 100) * ramp / 900 - (now - closed));
            }
            self.passes.push(now);
        }
        let number = self.number();
        Ok(self.permit(number, false, now))
    }

    pub(super) fn sent(&mut self, now: u64, permit: &mut ReferencePermit) {
        permit.since = now;
        if permit.epoch == self.epoch {
            permit.order = self.notes.len();
            self.live.retain(|(number, _)| *number != permit.number);
            self.live.push((permit.number, permit.order));
        }
        if self.counts(permit) {
            for probe in &mut self.probes {
                if probe.number == permit.number {
                    probe.sent = Some(now);
                }
            }
        }
    }

    pub(super) fn settle(
        &mut self,
        now: u64,
        permit: ReferencePermit,
        outcome: CircuitOutcome,
        in_flight: u32,
        chance: u64,
    ) {
        if !self.counts(&permit) {
            return;
        }
        self.live.retain(|(number, _)| *number != permit.number);
        let took = now - permit.since;
        let slow = outcome == CircuitOutcome::Success
            && self.rules.slow_calls.is_some_and(|(slow, ..)| took >= slow);
        if permit.probe {
            for probe in &mut self.probes {
                if probe.number == permit.number {
                    probe.ended = Some(outcome);
                }
            }
            match outcome {
                CircuitOutcome::Success | CircuitOutcome::Alive if !slow => {
                    if self.successes() >= self.rules.successes {
                        self.begin(Phase::Closed);
                        self.closed_at = Some(now);
                    }
                }
                CircuitOutcome::Ignored => {}
                _ => self.open(now, outcome, chance),
            }
        } else {
            let order = (permit.order, in_flight);
            self.record(now, order, outcome, slow, chance);
        }
    }

    pub(super) fn stream_failed(
        &mut self,
        now: u64,
        permit: ReferencePermit,
        outcome: CircuitOutcome,
        in_flight: u32,
        chance: u64,
    ) {
        if permit.epoch != self.epoch {
            return;
        }
        match self.phase {
            Phase::Closed => self.record(now, (permit.order, in_flight), outcome, false, chance),
            Phase::HalfOpen => self.open(now, outcome, chance),
            Phase::Open { .. } => {}
        }
    }

    /// State, openings in a row, probes out, probes that succeeded.
    pub(super) fn looks(&self, now: u64) -> (BreakerState, usize, usize, usize) {
        let ramps = self
            .rules
            .ramp
            .is_some_and(|ramp| self.closed_at.is_some_and(|closed| now - closed < ramp));
        let state = match self.phase {
            Phase::Closed if ramps => BreakerState::Ramping,
            Phase::Closed => BreakerState::Closed,
            Phase::Open { until } if now < until => BreakerState::Open,
            _ => BreakerState::HalfOpen,
        };
        (state, self.openings.len(), self.out(), self.successes())
    }

    fn record(
        &mut self,
        now: u64,
        (order, in_flight): (usize, u32),
        outcome: CircuitOutcome,
        slow: bool,
        chance: u64,
    ) {
        match outcome {
            CircuitOutcome::Success => self.notes.push((now, Note::Success { slow })),
            CircuitOutcome::Failure { .. } | CircuitOutcome::Broken => {
                let counted = !self.fails_together(now, order, outcome);
                let is_incident = outcome == CircuitOutcome::Broken;
                let rated = counted || !is_incident;
                let note = Note::Failure {
                    counted,
                    rated,
                    is_incident,
                    order,
                };
                self.notes.push((now, note));
            }
            CircuitOutcome::Fatal { .. } => return self.open(now, outcome, chance),
            _ => return,
        }
        if self.in_a_row(now, in_flight) || self.too_many_failed() || (slow && self.too_many_slow())
        {
            self.open(now, outcome, chance);
        }
    }

    /// The index of the first failure after the last success.
    fn row(&self) -> usize {
        let success = |(_, note): &(u64, Note)| matches!(note, Note::Success { .. });
        self.notes.iter().rposition(success).map_or(0, |at| at + 1)
    }

    /// The index and the time of each counted failure of the row.
    fn counted(&self) -> Vec<(usize, u64)> {
        let counted = |note: &Note| matches!(note, Note::Failure { counted: true, .. });
        let notes = self.notes.iter().enumerate().skip(self.row());
        let found = notes.filter(|(_, (_, note))| counted(note));
        found.map(|(index, (at, _))| (index, *at)).collect()
    }

    /// The calls without an outcome that were sent after the first failure of the row.
    fn pending(&self) -> usize {
        let first = self.row();
        self.live.iter().filter(|(_, order)| *order > first).count()
    }

    /// Returns true if a call fails within a second of a counted failure that it did not know, or
    /// by a lost connection while other calls overlap.
    fn fails_together(&self, now: u64, order: usize, outcome: CircuitOutcome) -> bool {
        let counted = self.counted();
        let overlaps = counted.len() < self.notes.len() - self.row() || self.pending() > 0;
        counted.last().is_some_and(|(index, at)| {
            now - at < 1000 && (*index >= order || outcome == CircuitOutcome::Broken && overlaps)
        })
    }

    /// The sum of the points of the early and of the late calls, each as far as it is credible.
    fn in_a_row(&self, now: u64, in_flight: u32) -> bool {
        let first = self.row();
        let Some((start, _)) = self.notes.get(first) else {
            return false;
        };
        // The time, the points and the side of each moment.
        let mut moments: Vec<(u64, usize, bool)> = Vec::new();
        let mut failed = [0, 0];
        for (at, note) in &self.notes[first..] {
            if let Note::Failure {
                counted,
                is_incident,
                order,
                ..
            } = *note
            {
                let late = order > first;
                failed[usize::from(late)] += 1;
                if counted {
                    moments.push((*at, 2, late));
                } else if !is_incident && let Some(last) = moments.last_mut() {
                    last.1 = (last.1 + 1).min(2.max(2 * self.rules.failures - 2));
                }
            }
        }
        let pending = self.pending();
        let pending = [(in_flight as usize).saturating_sub(pending), pending];
        let credible = |late: usize| {
            let within = self.rules.within;
            let patience = within.max(6 * (now - start));
            2 * within * pending[late] as u64 <= patience * failed[late]
        };
        let points = |late: usize| -> usize {
            let newest = moments.iter().rev().take(self.rules.failures);
            let recent = newest.filter(|(at, ..)| now - at <= self.rules.within);
            let of_side = recent.filter(|(.., side)| usize::from(*side) == late);
            of_side.map(|(_, points, _)| points).sum()
        };
        let early = points(0).min(if credible(0) { usize::MAX } else { 2 });
        let late = if credible(1) { points(1) } else { 0 };
        early + late >= 2 * self.rules.failures
    }

    /// Buckets of 3 s begin with the first call, and again with the first one after 30 s of
    /// silence.
    fn recent(&self) -> Vec<Note> {
        let mut origin = 0;
        let mut head = None;
        let mut placed: Vec<(u64, Note)> = Vec::new();
        for (at, note) in &self.notes {
            if let Note::Failure { rated: false, .. } = note {
                continue;
            }
            let bucket = match head {
                Some(head) if at - origin < (head + 10) * 3000 => (at - origin) / 3000,
                _ => {
                    placed.clear();
                    origin = *at;
                    0
                }
            };
            head = Some(bucket);
            placed.push((bucket, *note));
        }
        let newest = head.unwrap_or(0);
        let recent = placed
            .into_iter()
            .filter(|(bucket, _)| bucket + 10 > newest);
        recent.map(|(_, note)| note).collect()
    }

    fn too_many_failed(&self) -> bool {
        let Some((least, share)) = self.rules.failure_rate else {
            return false;
        };
        let recent = self.recent();
        let failed = recent
            .iter()
            .filter(|note| matches!(note, Note::Failure { .. }));
        let failed = failed.count();
        let speaks = match self.notes.last() {
            Some((_, Note::Failure { rated, .. })) => *rated,
            Some((_, Note::Success { slow })) => *slow,
            None => false,
        };
        speaks && recent.len() >= least && 1000 * failed as u64 >= share * recent.len() as u64
    }

    fn too_many_slow(&self) -> bool {
        let Some((_, least, share)) = self.rules.slow_calls else {
            return false;
        };
        let recent = self.recent();
        let slow = recent
            .iter()
            .filter(|note| matches!(note, Note::Success { slow: true }));
        recent.len() >= least && 1000 * slow.count() as u64 >= share * recent.len() as u64
    }

    fn open(&mut self, now: u64, outcome: CircuitOutcome, chance: u64) {
        let asked = match outcome {
            CircuitOutcome::Failure { retry_after }
            | CircuitOutcome::Busy { retry_after }
            | CircuitOutcome::Fatal { retry_after } => {
                retry_after.map_or(0, |wait| wait.as_millis() as u64)
            }
            _ => 0,
        };
        if self.phase == Phase::Closed
            && self
                .closed_at
                .is_some_and(|closed| now - closed >= self.rules.forget_after)
        {
            self.openings.clear();
        }
        self.openings.push(now);
        let mut cool = self.rules.cool_down;
        for _ in 1..self.openings.len().min(32) {
            cool *= 2;
            cool = cool.min(self.rules.longest);
        }
        let varied = cool * (800_000 + 400 * chance) / 1_000_000;
        let until = now + varied.max(asked.min(3_600_000));
        self.begin(Phase::Open { until });
        self.closed_at = None;
    }

    /// Ends expired leases. Probes that were sent have failed.
    fn expire(&mut self, now: u64, chance: u64) {
        let lease = self.rules.lease;
        let over = |probe: &Probe| {
            probe.ended.is_none() && now - probe.sent.unwrap_or(probe.claimed) > lease
        };
        if self
            .probes
            .iter()
            .any(|probe| over(probe) && probe.sent.is_some())
        {
            return self.open(now, CircuitOutcome::FAILURE, chance);
        }
        for probe in &mut self.probes {
            if over(probe) {
                probe.ended = Some(CircuitOutcome::Ignored);
            }
        }
    }

    fn begin(&mut self, phase: Phase) {
        self.epoch += 1;
        self.phase = phase;
        self.notes.clear();
        self.live.clear();
        self.probes.clear();
        self.passes.clear();
    }

    /// Returns true if the outcome of a permit still counts.
    fn counts(&self, permit: &ReferencePermit) -> bool {
        permit.epoch == self.epoch
            && (!permit.probe
                || self
                    .probes
                    .iter()
                    .any(|probe| probe.number == permit.number && probe.ended.is_none()))
    }

    fn out(&self) -> usize {
        let out = self.probes.iter().filter(|probe| probe.ended.is_none());
        out.count()
    }

    fn successes(&self) -> usize {
        let ended = self.probes.iter().filter_map(|probe| probe.ended);
        let good = ended
            .filter(|outcome| matches!(outcome, CircuitOutcome::Success | CircuitOutcome::Alive));
        good.count()
    }

    fn number(&mut self) -> usize {
        self.numbers += 1;
        self.numbers
    }

    fn permit(&self, number: usize, probe: bool, now: u64) -> ReferencePermit {
        ReferencePermit {
            epoch: self.epoch,
            probe,
            number,
            since: now,
            order: self.notes.len(),
        }
    }
}
