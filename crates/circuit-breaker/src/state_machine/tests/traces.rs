//! Random histories of the state machine beside the reference, with calls that overlap, are given
//! up, and end late.

use std::{num::NonZeroU32, time::Duration};

use tokio::time::Instant;

use super::{
    super::{
        Admission, Breaker, BreakerConfig, BreakerState, CircuitOutcome, FailureRate, Origin,
        Permit, SlowCallRate,
    },
    reference::{Reference, ReferencePermit, Rules},
};

/// The number of histories. A debug build takes ten times as long for each.
const TRACES: u64 = if cfg!(debug_assertions) {
    10_000
} else {
    100_000
};
const STEPS: u64 = 48;
/// Chances in thousandths. None of them meets the ramp or the end of a cool-down on a millisecond.
const CHANCES: [u64; 6] = [3, 51, 317, 533, 771, 999];

/// Xorshift: the same histories every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.roll(choices.len() as u64) as usize]
    }
}

fn rules(dice: &mut Dice) -> Rules {
    Rules {
        failures: dice.of(&[1, 2, 3, 5]),
        within: dice.of(&[2_000, 60_000]),
        failure_rate: dice.of(&[None, Some((4, 500)), Some((6, 300))]),
        slow_calls: dice.of(&[None, None, Some((4_000, 4, 800))]),
        cool_down: dice.of(&[2_500, 30_000]),
        longest: dice.of(&[30_000, 300_000]),
        forget_after: dice.of(&[40_000, 300_000]),
        probes: dice.of(&[1, 1, 2, 3]),
        successes: dice.of(&[1, 2, 2, 3]),
        lease: dice.of(&[60_000, 100_000]),
        ramp: dice.of(&[None, Some(30_000)]),
    }
}

fn millis(time: u64) -> Duration {
    Duration::from_millis(time)
}

fn share(thousandths: u64) -> f64 {
    thousandths as f64 / 1000.0
}

fn number(number: usize) -> NonZeroU32 {
    NonZeroU32::new(number as u32).expect("not zero")
}

fn config(rules: &Rules) -> BreakerConfig {
    BreakerConfig::new()
        .with_failures(number(rules.failures), millis(rules.within))
        .with_failure_rate(
            rules
                .failure_rate
                .map(|(least, rate)| FailureRate::new(number(least), share(rate))),
        )
        .with_slow_calls(rules.slow_calls.map(|(slow, least, rate)| {
            SlowCallRate::new(millis(slow)).with_share(number(least), share(rate))
        }))
        .with_cool_down(millis(rules.cool_down), millis(rules.longest))
        .with_forget_after(millis(rules.forget_after))
        .with_probes(number(rules.probes), number(rules.successes))
        .with_attempt_timeout(millis(rules.lease))
        .with_ramp(rules.ramp.map(millis))
}

/// One history of the state machine and of the reference.
struct Trace {
    dice: Dice,
    rules: Rules,
    start: Instant,
    now: u64,
    breaker: Breaker,
    reference: Reference,
    calls: Vec<(Permit, ReferencePermit)>,
    streams: Vec<(Origin, ReferencePermit)>,
    probes: u64,
    openings: u64,
}

impl Trace {
    fn new(seed: u64, start: Instant) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let rules = rules(&mut dice);
        Self {
            dice,
            rules,
            start,
            now: 0,
            breaker: Breaker::new(config(&rules)),
            reference: Reference::new(rules),
            calls: Vec::new(),
            streams: Vec::new(),
            probes: 0,
            openings: 0,
        }
    }

    fn at(&self) -> Instant {
        self.start + millis(self.now)
    }

    fn outcome(&mut self) -> CircuitOutcome {
        let retry_after = self.dice.of(&[None, None, Some(millis(50_000))]);
        match self.dice.roll(20) {
            0..=6 => CircuitOutcome::Success,
            7..=11 => CircuitOutcome::Failure { retry_after },
            12..=14 => CircuitOutcome::Broken,
            15 => CircuitOutcome::Busy { retry_after },
            16 => CircuitOutcome::Alive,
            17 if self.dice.roll(4) == 0 => CircuitOutcome::Fatal { retry_after },
            _ => CircuitOutcome::Ignored,
        }
    }

    fn step(&mut self) {
        let chance = self.dice.of(&CHANCES);
        match self.dice.roll(16) {
            0..=2 => self.now += self.dice.roll(1_500),
            3 => self.now += self.dice.roll(40_000),
            4 if self.dice.roll(3) == 0 => self.now += self.dice.roll(400_000),
            4..=8 => self.admit(chance),
            9 | 10 if !self.calls.is_empty() => {
                let call = self.dice.roll(self.calls.len() as u64) as usize;
                let at = self.at();
                let (permit, expected) = &mut self.calls[call];
                self.breaker.sent(at, permit);
                self.reference.sent(self.now, expected);
            }
            11..=14 if !self.calls.is_empty() => {
                let call = self.dice.roll(self.calls.len() as u64) as usize;
                let (permit, expected) = self.calls.swap_remove(call);
                let outcome = self.outcome();
                if outcome == CircuitOutcome::Success {
                    self.streams.push((permit.origin(), expected));
                }
                let in_flight = self.in_flight();
                self.breaker
                    .settle(self.at(), permit, outcome, in_flight, share(chance));
                self.reference
                    .settle(self.now, expected, outcome, in_flight, chance);
            }
            15 if !self.streams.is_empty() => {
                let stream = self.dice.roll(self.streams.len() as u64) as usize;
                let (origin, expected) = self.streams.swap_remove(stream);
                let at = self.at();
                let outcome = self
                    .dice
                    .of(&[CircuitOutcome::FAILURE, CircuitOutcome::Broken]);
                let in_flight = self.in_flight();
                self.breaker
                    .stream_failed(at, origin, outcome, in_flight, share(chance));
                self.reference
                    .stream_failed(self.now, expected, outcome, in_flight, chance);
            }
            _ => {}
        }
    }

    fn in_flight(&self) -> u32 {
        let sent = self.calls.iter().filter(|(permit, _)| permit.is_sent);
        sent.count() as u32
    }

    fn admit(&mut self, chance: u64) {
        let open = self.breaker.snapshot(self.at()).state == BreakerState::Open;
        let ours = self.breaker.admit(self.at(), share(chance));
        let theirs = self.reference.admit(self.now, chance);
        match (ours, theirs) {
            (Admission::Pass(permit), Ok(expected)) => {
                assert!(!open, "an open circuit let a call through");
                assert_eq!(permit.is_probe(), expected.probe);
                self.probes += u64::from(expected.probe);
                self.calls.push((permit, expected));
            }
            (Admission::Rejected { retry_after, .. }, Err(wait)) => {
                let retry_after = retry_after.expect("nothing is forced");
                // The ramp's own place is between two milliseconds.
                let difference = retry_after.checked_sub(millis(wait));
                assert!(
                    difference.is_some_and(|rest| rest < millis(1)),
                    "{retry_after:?} {wait}"
                );
            }
            (ours, theirs) => panic!("{ours:?}, but {theirs:?}"),
        }
    }

    fn compare(&self) {
        let seen = self.breaker.snapshot(self.at());
        let ours = (
            seen.state,
            seen.opens as usize,
            seen.probes,
            seen.successes as usize,
        );
        assert_eq!(ours, self.reference.looks(self.now));
        // Another in each minute without an outcome. A lease may be renewed once in a history.
        let most = self.rules.probes + 2;
        assert!(seen.probes <= most);
        let held = self
            .calls
            .iter()
            .filter(|(permit, _)| permit.is_probe() && self.breaker.is_valid(permit));
        assert!(held.count() <= most, "more probes than allowed");
    }

    /// Returns the time until all calls pass, if all further calls succeed and the present calls
    /// never end.
    fn heal(&mut self) -> u64 {
        let begin = self.now;
        let until = match self.breaker.snapshot(self.at()).retry_after {
            Some(wait) => wait.as_millis() as u64,
            None => 0,
        };
        let cool = self.rules.longest.max(self.rules.cool_down) * 12 / 10;
        let ramp = self.rules.ramp.unwrap_or(0);
        // A cool-down that has begun, a probe that hangs, the one it causes, the ramp; and a few
        // calls.
        let bound = until.max(cool) + self.rules.lease + cool + ramp + 20_000;
        while self.breaker.snapshot(self.at()).state != BreakerState::Closed {
            assert!(self.now - begin <= bound, "stuck: {:?}", self.breaker);
            self.now += 2_500;
            if let Admission::Pass(mut permit) = self.breaker.admit(self.at(), 0.999) {
                let at = self.at();
                self.breaker.sent(at, &mut permit);
                self.breaker
                    .settle(at, permit, CircuitOutcome::Success, 0, 0.999);
            }
        }
        self.now - begin
    }
}

#[test]
fn random_histories_agree_with_the_reference_and_recover() {
    let start = Instant::now();
    let (mut probes, mut openings, mut longest) = (0, 0, 0);
    for seed in 1..=TRACES {
        let mut trace = Trace::new(seed, start);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..STEPS {
                trace.step();
                trace.compare();
            }
            trace.openings = u64::from(trace.breaker.snapshot(trace.at()).opens);
            longest = trace.heal().max(longest);
        }));
        assert!(result.is_ok(), "seed {seed}, rules {:?}", trace.rules);
        probes += trace.probes;
        openings += trace.openings;
    }
    println!(
        "R15, R16: {TRACES} histories of {STEPS} steps agree; {openings} openings, {probes} probes, never more than allowed; \
         none stuck, the longest way back {:.1} s",
        share(longest)
    );
    assert!(
        probes > TRACES / 4 && openings > TRACES / 4,
        "histories of little use"
    );
}
