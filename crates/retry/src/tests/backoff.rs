use std::time::Duration;

use proptest::prelude::*;

use crate::{Backoff, Jitter};

const SECOND: Duration = Duration::from_secs(1);

fn backoff(jitter: Jitter) -> Backoff {
    Backoff::new(SECOND, 60 * SECOND, jitter)
}

/// Returns 100,000 waits in seconds, sorted.
fn draw(mut wait: impl FnMut(f64) -> Duration) -> Vec<f64> {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut waits: Vec<f64> = (0..100_000)
        .map(|_| wait(rng.f64()).as_secs_f64())
        .collect();
    waits.sort_by(f64::total_cmp);
    waits
}

/// Returns the Kolmogorov–Smirnov distance from the uniform distribution.
fn distance_from_uniform(waits: &[f64], low: f64, high: f64) -> f64 {
    let count = waits.len() as f64;
    waits
        .iter()
        .enumerate()
        .map(|(rank, wait)| ((wait - low) / (high - low) - rank as f64 / count).abs())
        .fold(0.0, f64::max)
}

/// 1.95 / √100,000. A uniform sample exceeds this once in a thousand draws, and the seed is fixed.
const KS_BOUND: f64 = 0.0062;

#[test]
fn delay_without_jitter_is_exponential() {
    let waits: Vec<u64> = (1..=9)
        .map(|retry| {
            backoff(Jitter::None)
                .delay(retry, Duration::ZERO, 0.9)
                .as_secs()
        })
        .collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
}

#[test]
fn jitter_is_uniform_over_its_range() {
    let cases = [
        (Jitter::Upward, 4.0, 6.0),
        (Jitter::Equal, 2.0, 4.0),
        // The last wait was 2 s.
        (Jitter::Decorrelated, 1.0, 6.0),
    ];
    for (jitter, low, high) in cases {
        let waits = draw(|random| backoff(jitter).delay(3, 2 * SECOND, random));
        let distance = distance_from_uniform(&waits, low, high);
        assert!(distance < KS_BOUND, "{jitter:?}: {distance}");
    }
}

#[test]
fn full_jitter_is_uniform_above_its_floor() {
    let waits = draw(|random| backoff(Jitter::Full).delay(3, Duration::ZERO, random));
    assert_eq!(waits[0], 0.1);
    let above = waits.partition_point(|wait| *wait <= 0.1);
    // 0.1 of 4 s fall on the floor.
    assert!((2000..3000).contains(&above), "{above}");
    let distance = distance_from_uniform(&waits[above..], 0.1, 4.0);
    assert!(distance < KS_BOUND, "{distance}");
}

#[test]
fn retry_after_is_extended_by_up_to_half() {
    let waits = draw(|random| backoff(Jitter::Upward).after(8 * SECOND, random));
    assert!(distance_from_uniform(&waits, 8.0, 12.0) < KS_BOUND);
    // Ten seconds more at most.
    let waits = draw(|random| backoff(Jitter::Upward).after(60 * SECOND, random));
    assert!(distance_from_uniform(&waits, 60.0, 70.0) < KS_BOUND);
}

proptest! {
    #[test]
    fn delay_never_exceeds_cap(
        base in any::<Duration>(), cap in any::<Duration>(), last in any::<Duration>(),
        retry in any::<u32>(), random in any::<f64>(),
        jitter in prop::sample::select(vec![
            Jitter::Upward, Jitter::Full, Jitter::Equal, Jitter::Decorrelated, Jitter::None,
        ]),
    ) {
        prop_assert!(Backoff::new(base, cap, jitter).delay(retry, last, random) <= cap);
    }

    #[test]
    fn wait_is_never_shorter_than_retry_after(millis in 1..3_600_000_u64, random in 0.0..1.0) {
        let asked = Duration::from_millis(millis);
        let wait = backoff(Jitter::Upward).after(asked, random);
        prop_assert!(wait >= asked && wait <= asked * 3 / 2, "{:?}", wait);
    }
}
