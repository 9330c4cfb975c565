//! The effect of headers on a level, compared with a server whose level is known exactly.
//!
//! The error is the pool's level minus the server's, less the charges that the server has not
//! counted yet. Honest headers, however late, repeated, out of order or lost, do not change a zero
//! error. They only reduce any other error and keep its sign, except for the first header, which
//! lowers a level that was configured too high to its minimum.

use std::time::Duration;

use tower_claude_core::Cost;
use tower_claude_wire::{Gauge, RateLimits, Usage};

use super::{MS, S, literal, n, pool};
use crate::{
    Limits, Pool, Settlement,
    pool::{
        Enqueued, ObservedHead, PoolRequest, ReservationId,
        bucket::{INPUT, OUTPUT, UNIT, units},
    },
};

const LIMIT: u64 = 600_007;
/// The least and the most a request is under way: they arrive about in order.
const WAY: std::ops::Range<u64> = 5 * MS..70 * MS;
const QUANTUM: i128 = 1_000 * UNIT;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Send,
    Arrive,
    Produce,
    Head,
    Repeat,
    End,
}

struct Request {
    cost: u64,
    id: Option<ReservationId>,
    sent: u64,
    arrived: u64,
    /// The time at which the pool learns that the server has counted all of it.
    sure: u64,
    /// The level that the server showed, in tokens.
    shown: u64,
    /// Still to be taken by the server.
    left: u64,
}

/// One dimension, which is counted in one of two ways.
struct World {
    dimension: usize,
    pool: Pool,
    now: u64,
    server: i128,
    requests: Vec<Request>,
    events: Vec<(u64, What, usize)>,
    moved: usize,
    /// Headers seen.
    heads: usize,
}

impl World {
    /// Returns a server whose level differs from the pool's by `wrong` tokens.
    fn new(seed: u64, dimension: usize, wrong: i64) -> Self {
        let limits = if dimension == INPUT {
            Limits::new().with_input_tokens_per_minute(n(LIMIT))
        } else {
            Limits::new().with_output_tokens_per_minute(n(LIMIT))
        };
        // Twice what a minute refills: far from full all the time.
        let mut pool = pool(&limits.with_burst(Duration::from_secs(120)), literal());
        let bucket = pool.buckets.dimensions[dimension]
            .bucket
            .as_mut()
            .expect("limited");
        bucket.take(0, 700_000);
        let server = bucket.level() - i128::from(wrong) * UNIT;
        let mut world = Self {
            dimension,
            pool,
            now: 0,
            server,
            requests: Vec::new(),
            events: Vec::new(),
            moved: 0,
            heads: 0,
        };
        world.plan(&mut fastrand::Rng::with_seed(seed));
        world
    }

    fn plan(&mut self, rng: &mut fastrand::Rng) {
        let mut sent = 0;
        for number in 0..rng.usize(2..60) {
            sent += rng.u64(0..400 * MS);
            let arrived = sent + rng.u64(WAY);
            let head = arrived + rng.u64(MS..4 * S);
            let end = head + rng.u64(MS..6 * S);
            let cost = rng.u64(1..4_000);
            let mut events = vec![
                (sent, What::Send),
                (arrived, What::Arrive),
                (end, What::End),
            ];
            let lost = rng.u8(0..4) == 0;
            if !lost {
                events.push((head, What::Head));
                for _ in 0..rng.usize(0..3) {
                    events.push((rng.u64(head..end), What::Repeat));
                }
            }
            if self.dimension == OUTPUT {
                for _ in 0..4 {
                    events.push((rng.u64(arrived..end), What::Produce));
                }
            }
            let events = events.into_iter().map(|(at, what)| (at, what, number));
            self.events.extend(events);
            self.requests.push(Request {
                cost,
                id: None,
                sent,
                arrived,
                sure: if lost || self.dimension == OUTPUT {
                    end
                } else {
                    head
                },
                shown: 0,
                left: cost,
            });
        }
        self.events.sort_unstable();
    }

    fn level(&self) -> i128 {
        self.pool.buckets.dimensions[self.dimension].level()
    }

    /// Returns the pool's level less the server's, in units, with all requests under way counted.
    fn error(&self) -> i128 {
        let flying = self.requests.iter().filter(|one| one.id.is_some());
        let uncounted: u64 = flying.map(|one| one.left).sum();
        self.level() - (self.server - units(uncounted))
    }

    fn run(&mut self, check: impl Fn(&Self, usize, i128, i128)) {
        for (at, what, number) in std::mem::take(&mut self.events) {
            self.server += i128::from(LIMIT) * i128::from(at - self.now);
            self.now = at;
            self.pool.advance(at);
            let before = self.error();
            match what {
                What::Send => self.send(number),
                What::Arrive => self.arrive(number),
                What::Produce => {
                    let part = self.requests[number].cost / 4;
                    self.count(number, part);
                }
                What::Head | What::Repeat => self.observe(number),
                What::End => self.end(number),
            }
            let after = self.error();
            if matches!(what, What::Head | What::Repeat) {
                self.moved += usize::from(before != after);
                self.heads += 1;
                check(self, number, before, after);
            } else {
                assert_eq!(before, after, "only headers change what is believed");
            }
        }
        assert_eq!(self.pool.in_flight(), 0);
    }

    fn send(&mut self, number: usize) {
        let cost = self.requests[number].cost;
        let cost = if self.dimension == INPUT {
            Cost::new(cost, 0)
        } else {
            Cost::new(0, cost)
        };
        match self
            .pool
            .enqueue(self.now, PoolRequest::new(cost, self.now))
        {
            Ok(Enqueued::Granted(id)) => self.requests[number].id = Some(id),
            other => panic!("there is plenty: {other:?}"),
        }
    }

    /// The server counts the request and fixes the level that it will show.
    fn arrive(&mut self, number: usize) {
        if self.dimension == INPUT {
            let cost = self.requests[number].cost;
            self.count(number, cost);
        }
        let tokens = (self.server.max(0) + QUANTUM / 2) / QUANTUM * 1_000;
        self.requests[number].shown = tokens as u64;
    }

    fn count(&mut self, number: usize, tokens: u64) {
        let one = &mut self.requests[number];
        let tokens = tokens.min(one.left);
        one.left -= tokens;
        self.server -= units(tokens);
    }

    fn observe(&mut self, number: usize) {
        let one = &self.requests[number];
        let mut headers = RateLimits::default();
        let gauge = if self.dimension == INPUT {
            &mut headers.input_tokens
        } else {
            &mut headers.output_tokens
        };
        *gauge = Gauge::default();
        gauge.limit = Some(LIMIT);
        gauge.remaining = Some(one.shown);
        let id = one.id.expect("sent");
        self.pool
            .observe(self.now, id, &ObservedHead::new(&headers, None));
    }

    fn end(&mut self, number: usize) {
        let left = self.requests[number].left;
        self.count(number, left);
        let id = self.requests[number].id.expect("sent");
        // The estimate was right.
        let mut usage = Usage::default();
        let count = if self.dimension == INPUT {
            &mut usage.input_tokens
        } else {
            &mut usage.output_tokens
        };
        *count = Some(self.requests[number].cost);
        self.pool.settle(self.now, id, &Settlement::Used { usage });
    }

    /// Returns the charges sent by now that may or may not be in the level of this head.
    fn unsure(&self, number: usize) -> i128 {
        let this = &self.requests[number];
        let others = self.requests.iter().enumerate().filter(|(at, one)| {
            let own = *at == number && self.dimension == INPUT;
            one.id.is_some() && !own && one.sure >= this.sent
        });
        units(others.map(|(_, one)| one.cost).sum())
    }

    /// Returns the amount that the server counted after this head, or has yet to count.
    fn later(&self, number: usize) -> i128 {
        let this = &self.requests[number];
        let later =
            self.requests.iter().enumerate().filter(|(at, one)| {
                one.id.is_some() && *at != number && one.arrived >= this.arrived
            });
        units(later.map(|(_, one)| one.cost).sum())
    }
}

/// Plays many histories in both ways of counting. Returns the number of headers that moved a level.
fn worlds(wrong: impl Fn(u64) -> i64, check: impl Fn(&World, usize, i128, i128)) -> usize {
    let mut moved = 0;
    for seed in 0..300 {
        for dimension in [INPUT, OUTPUT] {
            let mut world = World::new(seed, dimension, wrong(seed));
            world.run(&check);
            moved += world.moved;
        }
    }
    moved
}

#[test]
fn honest_headers_do_not_change_a_correct_level() {
    let moved = worlds(
        |_| 0,
        |_, _, before, after| assert_eq!((before, after), (0, 0)),
    );
    assert_eq!(moved, 0);
}

#[test]
fn honest_headers_bound_a_wrong_level_and_never_worsen_it() {
    let wrong = |seed| fastrand::Rng::with_seed(seed).i64(-200_000..200_000);
    let moved = worlds(wrong, |world, number, before, after| {
        if before >= 0 && world.heads > 1 {
            assert!((0..=before).contains(&after), "{before} to {after}");
        } else if before < 0 {
            assert!((before..=0).contains(&after), "{before} to {after}");
        }
        let one = &world.requests[number];
        let refill = |from: u64, to: u64| i128::from(LIMIT) * i128::from(to - from);
        let under_way = refill(one.arrived, world.now);
        let least = -(QUANTUM + world.unsure(number) + under_way);
        assert!(after >= least, "{after} is under {least}");
        // A level of output says nothing of what is still to be produced.
        let later = if world.dimension == INPUT {
            world.later(number)
        } else {
            world.unsure(number)
        };
        let most = QUANTUM + refill(one.sent, one.arrived) + later;
        assert!(after <= most, "{after} is over {most}");
    });
    assert!(moved > 600, "{moved}");
}
