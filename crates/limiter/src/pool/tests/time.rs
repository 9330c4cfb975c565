//! A clock that steps back has the effect of a clock that stands still.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tower_claude_core::{Cost, Priority};
use tower_claude_wire::{RateLimits, Usage};

use super::{S, n, pool};
use crate::{
    LimiterConfig, Limits, Pool, Settlement, SlowStart,
    pool::{Enqueued, ObservedHead, PoolRequest, ReservationId},
};

/// One thing that happens, at a time that may be any.
#[derive(Clone, Debug)]
struct Event {
    now: u64,
    what: u8,
    tokens: u64,
    date: u64,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let now = prop_oneof![
        6 => 0_u64..600 * S,
        2 => 86_400 * S..90_000 * S,
        1 => any::<u64>(),
    ];
    let event =
        (now, 0_u8..8, 0_u64..9_000, any::<u64>()).prop_map(|(now, what, tokens, date)| Event {
            now,
            what,
            tokens,
            date,
        });
    prop::collection::vec(event, 1..60)
}

fn limits() -> Limits {
    Limits::new()
        .with_requests_per_minute(n(61))
        .with_input_tokens_per_minute(n(60_013))
        .with_output_tokens_per_minute(n(9_001))
        .with_tokens_per_day(n(900_000))
}

struct Played {
    pool: Pool,
    flying: Vec<ReservationId>,
}

impl Played {
    fn new() -> Self {
        let config = LimiterConfig::new().with_slow_start(Some(SlowStart::new()));
        Self {
            pool: pool(&limits(), config),
            flying: Vec::new(),
        }
    }

    fn play(&mut self, event: &Event, now: u64) {
        let last = self.flying.last().copied();
        match (event.what, last) {
            (0..=2, _) | (_, None) => {
                // The arrival is the caller's, and the same for both.
                let ask = PoolRequest::new(Cost::new(event.tokens, event.tokens / 9), event.now)
                    .with_priority(Priority::Batch)
                    .with_max_wait((event.what == 1).then_some(30 * S));
                if let Ok(Enqueued::Granted(id)) = self.pool.enqueue(now, ask) {
                    self.flying.push(id);
                }
            }
            (3, Some(id)) => {
                let mut headers = RateLimits::default();
                headers.input_tokens.limit = Some(60_013);
                headers.input_tokens.remaining = Some(event.tokens);
                let server = Duration::from_secs(event.date >> 30);
                let date = SystemTime::UNIX_EPOCH + server;
                headers.input_tokens.reset = Some(date + Duration::from_secs(event.tokens % 70));
                self.pool
                    .observe(now, id, &ObservedHead::new(&headers, Some(date)));
            }
            (4, Some(id)) => {
                let odd = [f64::NAN, f64::INFINITY, -1.0, 0.5];
                let wait = event
                    .tokens
                    .is_multiple_of(2)
                    .then(|| Duration::from_secs(event.date));
                let jitter = odd[event.tokens as usize % 4];
                self.pool.rate_limited(now, id, wait, jitter);
            }
            (5, Some(id)) => self.pool.produced(now, id, event.tokens / 3),
            (_, Some(id)) => {
                let mut usage = Usage::default();
                usage.input_tokens = Some(event.tokens);
                usage.output_tokens = Some(event.tokens / 7);
                self.pool.settle(now, id, &Settlement::Used { usage });
                self.flying.pop();
            }
        }
        let mut granted = Vec::new();
        self.pool.poll(now, &mut granted);
        self.flying.extend(granted.into_iter().map(|(_, id)| id));
    }
}

proptest! {
    /// The state of the pool is the same as if the clock had stood still, and no level is over its
    /// capacity.
    #[test]
    fn clock_that_steps_back_stands_still(events in events()) {
        let (mut jumping, mut steady) = (Played::new(), Played::new());
        let mut latest = 0;
        for event in &events {
            latest = latest.max(event.now);
            jumping.play(event, event.now);
            steady.play(event, latest);
            prop_assert_eq!(
                format!("{:?}", jumping.pool),
                format!("{:?}", steady.pool)
            );
            for bucket in jumping.pool.buckets.known().map(|(_, bucket)| bucket) {
                prop_assert!(bucket.level() <= bucket.capacity());
            }
        }
    }
}
