//! The quality of a run, from the log of the server and the logs of the clients.

use std::{collections::HashMap, time::Duration};

use crate::incidents::Span;

/// Shorter waits are the time to the server, and not a wait for its limit.
const GRACE: Duration = Duration::from_millis(50);

/// A request waiting to be admitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    pub(crate) request: usize,
    pub(crate) from: Duration,
    pub(crate) until: Duration,
    pub(crate) tokens: u64,
}

impl Wait {
    /// Returns the rest of the wait, without the time in which its client pauses for other reasons.
    pub(crate) fn without(self, pauses: &[Span]) -> impl Iterator<Item = Self> {
        let whole = Span {
            from: self.from,
            until: self.until,
        };
        let left = without(vec![whole], pauses).into_iter();
        left.map(move |Span { from, until }| Self {
            from,
            until,
            ..self
        })
    }
}

/// An attempt that the bucket of the server admitted or rejected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judged {
    pub(crate) at: Duration,
    /// The level just before the attempt.
    pub(crate) level: i64,
    /// The tokens charged. 0 if the attempt was rejected.
    pub(crate) charged: u64,
}

/// The server's bucket of input tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    pub(crate) per_second: f64,
    pub(crate) capacity: f64,
}

impl Bucket {
    /// Returns the level at `at`. The bucket is full at the start. `judged` is in order of time.
    fn level(self, judged: &[Judged], at: Duration) -> f64 {
        let before = judged.partition_point(|attempt| attempt.at < at);
        let Some(last) = before.checked_sub(1).map(|index| judged[index]) else {
            return self.capacity;
        };
        let refill = self.per_second * (at - last.at).as_secs_f64();
        (last.level as f64 - last.charged as f64 + refill).min(self.capacity)
    }
}

/// Returns the tokens charged, divided by the tokens that the bucket could have granted while
/// requests were waiting, outside of `closed`.
///
/// In each range of time with a waiting request, the bucket could have granted its level at the
/// start, up to the tokens of the waiting requests, and its rate times the length. Returns 1 if no
/// request waited.
pub(crate) fn utilisation(
    judged: &[Judged],
    waits: &[Wait],
    closed: &[Span],
    bucket: Bucket,
) -> f64 {
    let long: Vec<&Wait> = waits
        .iter()
        .filter(|wait| wait.until > wait.from + GRACE)
        .collect();
    let (mut charged, mut grantable) = (0.0, 0.0);
    for stretch in without(union(long), closed) {
        // Short waits are demand too, and a request that waits twice counts once.
        let wanted: HashMap<usize, u64> = waits
            .iter()
            .filter(|wait| wait.from < stretch.until && wait.until >= stretch.from)
            .map(|wait| (wait.request, wait.tokens))
            .collect();
        let demand: u64 = wanted.values().sum();
        let level = bucket.level(judged, stretch.from).max(0.0);
        let length = (stretch.until - stretch.from).as_secs_f64();
        grantable += level.min(demand as f64) + bucket.per_second * length;
        // The admission that ends a range is part of it.
        let first = judged.partition_point(|attempt| attempt.at < stretch.from);
        let end = judged.partition_point(|attempt| attempt.at <= stretch.until);
        let taken: u64 = judged[first..end]
            .iter()
            .map(|attempt| attempt.charged)
            .sum();
        charged += taken as f64;
    }
    if grantable > 0.0 {
        (charged / grantable).min(1.0)
    } else {
        1.0
    }
}

/// Returns the times at which any request waited.
fn union(mut waits: Vec<&Wait>) -> Vec<Span> {
    waits.sort_by_key(|wait| wait.from);
    let mut spans: Vec<Span> = Vec::new();
    for wait in waits {
        match spans.last_mut() {
            Some(last) if wait.from <= last.until => last.until = last.until.max(wait.until),
            _ => spans.push(Span {
                from: wait.from,
                until: wait.until,
            }),
        }
    }
    spans
}

/// Returns the part of `spans` outside of `closed`.
fn without(spans: Vec<Span>, closed: &[Span]) -> Vec<Span> {
    closed.iter().fold(spans, |spans, closed| {
        let pieces = spans.into_iter().flat_map(|span| {
            let before = Span {
                from: span.from,
                until: span.until.min(closed.from),
            };
            let after = Span {
                from: span.from.max(closed.until),
                until: span.until,
            };
            [before, after]
        });
        pieces.filter(|piece| piece.from < piece.until).collect()
    })
}

/// Returns the value in milliseconds below which this share of `sorted` lies. 0 if it is empty.
pub(crate) fn percentile_ms(sorted: &[Duration], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    let value = sorted.get(rank.saturating_sub(1)).copied();
    let ms = value.unwrap_or_default().as_secs_f64() * 1_000.0;
    (ms * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKET: Bucket = Bucket {
        per_second: 100.0,
        capacity: 500.0,
    };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A client that sends each of `count` requests of 100 tokens `late` after the time at which it
    /// could. All are there from the start.
    fn run(count: u64, late: Duration) -> (Vec<Judged>, Vec<Wait>) {
        let (mut judged, mut waits) = (Vec::new(), Vec::new());
        let (mut level, mut at) = (500.0_f64, Duration::ZERO);
        for _ in 0..count {
            let wait = Duration::from_secs_f64(((100.0 - level) / 100.0).max(0.0)) + late;
            at += wait;
            level = (level + 100.0 * wait.as_secs_f64()).min(500.0);
            judged.push(Judged {
                at,
                level: level as i64,
                charged: 100,
            });
            level -= 100.0;
            waits.push(Wait {
                request: waits.len(),
                from: Duration::ZERO,
                until: at,
                tokens: 100,
            });
        }
        (judged, waits)
    }

    #[test]
    fn a_greedy_client_uses_everything() {
        let (judged, waits) = run(50, Duration::ZERO);
        let used = utilisation(&judged, &waits, &[], BUCKET);
        assert!(used > 0.999, "{used}");
    }

    #[test]
    fn a_client_that_idles_loses_what_it_could_have_had() {
        let (judged, waits) = run(50, ms(1_000));
        let used = utilisation(&judged, &waits, &[], BUCKET);
        // 5,000 tokens in 50 s, while 500 + 50 × 100 were available.
        assert!((used - 5_000.0 / 5_500.0).abs() < 0.01, "{used}");
        let (judged, waits) = run(50, ms(3_000));
        let used = utilisation(&judged, &waits, &[], BUCKET);
        assert!((used - 5_000.0 / 15_500.0).abs() < 0.01, "{used}");
    }

    #[test]
    fn a_client_that_keeps_a_reserve_pays_for_it_once() {
        // The level never falls below 200 of 500, and the queue is always full.
        let judged: Vec<Judged> = (0..100)
            .map(|index| Judged {
                at: ms(1_000 * index),
                level: 300,
                charged: 100,
            })
            .collect();
        let wait = Wait {
            request: 0,
            from: Duration::ZERO,
            until: ms(99_000),
            tokens: 10_000,
        };
        let used = utilisation(&judged, &[wait], &[], BUCKET);
        assert!((used - 10_000.0 / (500.0 + 9_900.0)).abs() < 1e-9, "{used}");
    }

    #[test]
    fn incidents_and_the_way_to_the_server_do_not_count() {
        let (judged, mut waits) = run(50, Duration::ZERO);
        waits.push(Wait {
            request: 1_000,
            from: ms(45_000),
            until: ms(60_000),
            tokens: 100,
        });
        let idle = utilisation(&judged, &waits, &[], BUCKET);
        assert!(idle < 0.8, "{idle}");
        let closed = Span {
            from: ms(45_000),
            until: ms(60_000),
        };
        let used = utilisation(&judged, &waits, &[closed], BUCKET);
        assert!(used > 0.999, "{used}");
        let short = Wait {
            request: 1_000,
            from: ms(70_000),
            until: ms(70_049),
            tokens: 1,
        };
        let with_short = utilisation(&judged, &[waits[49], short], &[], BUCKET);
        assert!(with_short > 0.97, "{with_short}");
    }

    #[test]
    fn a_full_bucket_counts_only_as_far_as_it_was_wanted() {
        let judged = [Judged {
            at: ms(10_100),
            level: 500,
            charged: 100,
        }];
        let wait = Wait {
            request: 1_000,
            from: ms(10_000),
            until: ms(10_100),
            tokens: 100,
        };
        let used = utilisation(&judged, &[wait], &[], BUCKET);
        assert!((used - 100.0 / 110.0).abs() < 1e-9, "{used}");
    }

    #[test]
    fn a_pause_after_a_failure_is_no_wait() {
        let wait = Wait {
            request: 1_000,
            from: ms(0),
            until: ms(5_000),
            tokens: 100,
        };
        let pauses = [1_000, 3_000].map(|from| Span {
            from: ms(from),
            until: ms(from + 1_500),
        });
        let left: Vec<_> = wait
            .without(&pauses)
            .map(|wait| (wait.from, wait.until))
            .collect();
        let expected = [(0, 1_000), (2_500, 3_000), (4_500, 5_000)];
        assert_eq!(left, expected.map(|(from, until)| (ms(from), ms(until))));
    }

    #[test]
    fn nothing_waiting_is_all_used() {
        assert_eq!(utilisation(&[], &[], &[], BUCKET), 1.0);
    }

    #[test]
    fn spans_are_cut_around_incidents() {
        let span = |from, until| Span {
            from: ms(from),
            until: ms(until),
        };
        let left = without(
            vec![span(0, 10), span(20, 30)],
            &[span(5, 22), span(25, 26)],
        );
        assert_eq!(left, [span(0, 5), span(22, 25), span(26, 30)]);
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let sorted: Vec<Duration> = (1..=100).map(ms).collect();
        assert_eq!(percentile_ms(&sorted, 0.5), 50.0);
        assert_eq!(percentile_ms(&sorted, 0.99), 99.0);
        assert_eq!(percentile_ms(&sorted[..1], 0.99), 1.0);
        assert_eq!(percentile_ms(&[], 0.5), 0.0);
    }
}
