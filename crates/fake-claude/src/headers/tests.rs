use std::time::{Duration, UNIX_EPOCH};

use super::reset;

#[test]
fn reset_is_rounded_up_unless_full_already() {
    let cases = [
        // Wall clock and time to full in milliseconds, second shown.
        (1_500, 0, "1970-01-01T00:00:01Z"),
        (1_500, 1, "1970-01-01T00:00:02Z"),
        (1_500, 500, "1970-01-01T00:00:02Z"),
        (1_500, 60_000, "1970-01-01T00:01:02Z"),
        (1_000, 1_000, "1970-01-01T00:00:02Z"),
    ];
    for (wall, full_in, shown) in cases {
        let wall = UNIX_EPOCH + Duration::from_millis(wall);
        assert_eq!(reset(wall, Duration::from_millis(full_in)), shown);
    }
}

#[test]
fn reset_of_the_far_future_is_still_a_stamp() {
    let shown = reset(UNIX_EPOCH, Duration::from_nanos(u64::MAX));
    assert!(shown.to_str().unwrap().ends_with('Z'));
}
