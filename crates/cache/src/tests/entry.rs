//! The age of an entry by two clocks.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use tokio::time::Instant;

use crate::{Entry, EntryParts, Freshness};

const MINUTE: Duration = Duration::from_secs(60);

/// Returns the age and the freshness of an entry that is fresh for one minute and stale for two.
/// `stored` is the time of storing before the present of the wall clock, or after it.
fn at(stored: Result<Duration, Duration>, since_made: Duration) -> (Duration, Freshness) {
    let (wall, now) = (SystemTime::now(), Instant::now());
    let mut parts = EntryParts::new(HeaderMap::new(), Box::new([]), MINUTE);
    parts.stale_for = 2 * MINUTE;
    parts.stored_at = match stored {
        Ok(before) => wall - before,
        Err(after) => wall + after,
    };
    let (entry, later) = (Entry::new(parts, wall, now), now + since_made);
    (entry.age(later), entry.freshness(later))
}

#[test]
fn age_goes_on_from_the_wall_clock() {
    let second = MINUTE / 60;
    assert_eq!(
        at(Ok(Duration::ZERO), Duration::ZERO),
        (Duration::ZERO, Freshness::Fresh)
    );
    assert_eq!(at(Ok(59 * second), second / 2).1, Freshness::Fresh);
    assert_eq!(at(Ok(59 * second), second), (MINUTE, Freshness::Stale));
    assert_eq!(at(Ok(Duration::ZERO), MINUTE), (MINUTE, Freshness::Stale));
    assert_eq!(at(Ok(MINUTE), 2 * MINUTE), (3 * MINUTE, Freshness::Expired));
    // Longer than the process, or the system, has run.
    let year = 365 * 24 * 60 * MINUTE;
    assert_eq!(
        at(Ok(50 * year), MINUTE),
        (50 * year + MINUTE, Freshness::Expired)
    );
}

#[test]
fn wall_clock_that_was_set_back_makes_no_entry_fresh_for_long() {
    assert_eq!(
        at(Err(MINUTE), Duration::ZERO),
        (Duration::ZERO, Freshness::Fresh)
    );
    assert_eq!(at(Err(MINUTE), MINUTE), (MINUTE, Freshness::Stale));
    let millisecond = Duration::from_millis(1);
    assert_eq!(
        at(Err(MINUTE + millisecond), Duration::ZERO).1,
        Freshness::Expired
    );
    assert_eq!(at(Err(1000 * MINUTE), 1000 * MINUTE).1, Freshness::Expired);
}

#[tokio::test(start_paused = true)]
async fn clock_of_the_process_ages_an_entry() {
    let entry: Entry = EntryParts::new(HeaderMap::new(), Box::new([]), MINUTE).into();
    let before = entry.age(Instant::now());
    assert!(before < MINUTE, "{before:?}");
    tokio::time::advance(MINUTE).await;
    assert_eq!(entry.age(Instant::now()), before + MINUTE);
}
