//! Every history of a small breaker, breadth first.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    super::{
        Admission, Breaker, BreakerConfig, BreakerState, CircuitOutcome, Permit, breaker::State,
    },
    MIDDLE, number,
};

const TICK: Duration = Duration::from_secs(1);
const LEASE: u64 = 2;
const COOL: u64 = 3;
const FORGET: u64 = 4;
const WITHIN: u64 = 2;
/// With three calls at once, more failures in a row have the same effect.
const MOST_FAILURES: u32 = 4;
const MOST_STATES: usize = 1_000_000;

/// A state: the circuit and the calls in flight.
struct Node {
    breaker: Breaker,
    calls: Vec<Permit>,
    now: Instant,
}

/// A key that is equal for states with the same future.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    phase: (u8, u64, u32),
    /// The age of each moment, its points, and if it is late.
    moments: Vec<(u64, u32, bool)>,
    /// The age of the row, how many of its early calls have failed, how many of its late calls have
    /// failed and are pending, and if they overlap.
    row: (Option<u64>, u32, u32, u32, bool),
    opens: u32,
    leases: Vec<(u64, bool)>,
    /// The index of its lease, its place in the row, and if it was sent. Absent if its outcome does
    /// not count.
    calls: Vec<Option<CallKey>>,
}

type CallKey = (Option<usize>, (bool, bool), bool);

fn copy(permit: &Permit) -> Permit {
    Permit {
        origin: permit.origin,
        probe: permit.probe,
        is_sent: permit.is_sent,
        since: permit.since,
    }
}

impl Node {
    fn twin(&self) -> Self {
        Self {
            breaker: self.breaker.clone(),
            calls: self.calls.iter().map(copy).collect(),
            now: self.now,
        }
    }

    fn key(&self) -> Key {
        let age = |since: Instant, most: u64| {
            let age = self.now.saturating_duration_since(since);
            (age.as_secs() / TICK.as_secs()).min(most)
        };
        let breaker = &self.breaker;
        let mut held = Vec::new();
        let phase = match &breaker.state {
            State::Closed { since, .. } => {
                (0, since.map_or(u64::MAX, |since| age(since, FORGET)), 0)
            }
            State::Open { until } => {
                let left = until.saturating_duration_since(self.now);
                (1, left.as_secs(), 0)
            }
            State::HalfOpen {
                successes, leases, ..
            } => {
                held.clone_from(leases);
                (2, 0, *successes)
            }
            State::ForcedOpen => (3, 0, 0),
            State::ForcedClosed => (4, 0, 0),
        };
        held.sort_by_key(|lease| (lease.since, lease.sent, lease.id));
        let mut calls: Vec<_> = self
            .calls
            .iter()
            .map(|call| {
                let lease = held.iter().position(|lease| Some(lease.id) == call.probe);
                let place = breaker.counter.place(call.origin.position);
                (call.generation() == breaker.generation).then_some((lease, place, call.is_sent))
            })
            .collect();
        calls.sort_unstable();
        let (moments, row_age, row) = breaker.counter.look(self.now);
        let cut = |age: &Duration| age.as_secs().min(WITHIN + 1);
        let moments = moments.iter().map(|moment| {
            let age = cut(&self.now.saturating_duration_since(moment.start));
            (age, moment.points, moment.is_late)
        });
        let few = |failed: u32| failed.min(MOST_FAILURES);
        Key {
            phase,
            moments: moments.collect(),
            row: (
                row_age.as_ref().map(cut),
                few(row.early_failed),
                few(row.late_failed),
                row.late_pending,
                row.overlaps,
            ),
            opens: breaker.opens.min(3),
            leases: held
                .iter()
                .map(|lease| (age(lease.since, LEASE + 1), lease.sent))
                .collect(),
            calls,
        }
    }

    /// Adds all states that can follow.
    fn next(&self, most_calls: usize, found: &mut Vec<Self>) {
        let mut later = self.twin();
        later.now += TICK;
        found.push(later);
        if self.calls.len() < most_calls {
            let mut next = self.twin();
            let closed_to_all =
                matches!(next.breaker.state, State::Open { until } if until > next.now);
            if let Admission::Pass(mut permit) = next.breaker.admit(next.now, MIDDLE) {
                assert!(!closed_to_all, "an open circuit let a call through");
                // Only probes may wait in a queue, to keep the model small.
                if !permit.is_probe() {
                    next.breaker.sent(next.now, &mut permit);
                }
                next.calls.push(permit);
            }
            found.push(next);
        }
        for call in 0..self.calls.len() {
            if self.calls[call].is_probe() {
                let mut next = self.twin();
                next.breaker.sent(next.now, &mut next.calls[call]);
                found.push(next);
            }
            for outcome in [
                CircuitOutcome::Success,
                CircuitOutcome::FAILURE,
                CircuitOutcome::Broken,
                CircuitOutcome::Busy { retry_after: None },
                CircuitOutcome::Ignored,
            ] {
                let mut next = self.twin();
                let permit = next.calls.swap_remove(call);
                let generation = next.breaker.generation;
                let sent = next.calls.iter();
                let sent = sent.filter(|call| call.is_sent && call.generation() == generation);
                let (now, in_flight) = (next.now, sent.count() as u32);
                next.breaker.settle(now, permit, outcome, in_flight, MIDDLE);
                found.push(next);
            }
        }
    }

    /// Asserts that the circuit closes if all further calls succeed and the present calls never
    /// end.
    fn heals(&self, probes: u64) {
        let mut breaker = self.breaker.clone();
        let mut now = self.now;
        // A cool-down, a probe that hangs, the cool-down it causes; a hung probe may be several.
        let bound = COOL + probes * (LEASE + 1) + COOL + 4;
        for _ in 0..bound {
            let mut passed = false;
            if let Admission::Pass(mut permit) = breaker.admit(now, MIDDLE) {
                breaker.sent(now, &mut permit);
                breaker.settle(now, permit, CircuitOutcome::Success, 0, MIDDLE);
                passed = true;
            }
            if passed && breaker.snapshot(now).state == BreakerState::Closed {
                return;
            }
            now += TICK;
        }
        panic!("stuck: {:?}", self.breaker);
    }
}

fn search(probes: u32, successes: u32, most_calls: usize) -> usize {
    let mut config = BreakerConfig::new()
        .with_failures(number(2), WITHIN as u32 * TICK)
        .with_cool_down(2 * TICK, COOL as u32 * TICK)
        .with_forget_after(FORGET as u32 * TICK)
        .with_probes(number(probes), number(successes))
        .with_ramp(None);
    config.lease = LEASE as u32 * TICK;
    let first = Node {
        breaker: Breaker::new(config),
        calls: Vec::new(),
        now: Instant::now(),
    };
    let mut seen = HashSet::from([first.key()]);
    let mut open = VecDeque::from([first]);
    let mut found = Vec::new();
    while let Some(node) = open.pop_front() {
        let held = node
            .calls
            .iter()
            .filter(|call| call.is_probe() && node.breaker.is_valid(call));
        assert!(held.count() <= probes as usize, "more probes than allowed");
        node.heals(u64::from(probes));
        node.next(most_calls, &mut found);
        for next in found.drain(..) {
            if seen.insert(next.key()) {
                open.push_back(next);
            }
        }
        assert!(seen.len() <= MOST_STATES, "not a small model");
    }
    seen.len()
}

#[test]
fn every_state_recovers_and_has_at_most_the_configured_probes() {
    for (probes, successes, most_calls) in [(1, 2, 3), (2, 2, 3), (2, 3, 3)] {
        let states = search(probes, successes, most_calls);
        println!(
            "{states} states with {probes} probes at once, {successes} successes to close, {most_calls} calls out: \
             none stuck, none with more probes"
        );
        assert!(states > 500, "{states} states are no search");
    }
}
