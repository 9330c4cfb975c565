use std::time::{Duration, UNIX_EPOCH};

use super::next_month;

#[test]
fn the_month_after_december_is_january() {
    let day = |days: u64| next_month(UNIX_EPOCH + Duration::from_secs(86_400 * days));
    assert_eq!(day(0), "1970-02-01");
    assert_eq!(day(364), "1971-01-01");
    assert_eq!(day(365), "1971-02-01");
}
