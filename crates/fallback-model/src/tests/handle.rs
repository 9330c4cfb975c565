//! The counts of stand-ins.

use std::{sync::Arc, time::Duration};

use crate::handle::SharedState;

#[test]
fn min_latency_follows_faster_responses_at_once_and_slower_ones_slowly() {
    let shared = SharedState::default();
    let id: Arc<str> = "a".into();
    let min_latency = |streams| shared.min_latency("a", streams).as_secs();
    assert_eq!(min_latency(true), 0);
    for (took, least) in [(30, 30), (10, 10), (26, 11), (11, 11), (43, 13)] {
        shared.count_success(&id, true, Duration::from_secs(took));
        assert_eq!((min_latency(true), min_latency(false)), (least, 0));
    }
}
