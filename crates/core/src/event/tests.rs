//! Incidents.

use std::time::Duration;

use tokio::time::Instant;

use super::incidents::{Incidents, MAX_INCIDENTS, QUIET_TIME};

#[test]
fn incident_is_first_again_after_a_quiet_minute() {
    let incidents = Incidents::default();
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    assert!(incidents.is_first("refused", "a", at(0)));
    assert!(!incidents.is_first("refused", "a", at(59)));
    assert!(!incidents.is_first("refused", "a", at(118)));
    assert!(incidents.is_first("refused", "b", at(118)));
    assert!(incidents.is_first("gave_up", "a", at(118)));
    assert!(incidents.is_first("refused", "a", at(178)));
    // A clock that steps back begins no incident.
    assert!(!incidents.is_first("refused", "a", at(1)));
}

#[test]
fn incidents_beyond_the_limit_count_as_one() {
    let incidents = Incidents::default();
    let now = Instant::now();
    let first = |number| incidents.is_first("gave_up", &format!("model-{number}"), now);
    let firsts = (0..10_000).filter(|number| first(*number)).count();
    assert_eq!(firsts, MAX_INCIDENTS + 1);
    let later = now + QUIET_TIME;
    assert!(incidents.is_first("gave_up", "model-10001", later));
    assert!(incidents.is_first("gave_up", "model-10002", later));
}
