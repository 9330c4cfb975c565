//! What is counted of stand-ins.

use std::{sync::Arc, time::Duration};

use crate::handle::Shared;

/// Down at once, up by a sixteenth of the way; streamed and whole answers apart.
#[test]
fn the_least_time_follows_what_an_answer_takes_lately() {
    let shared = Shared::default();
    let id: Arc<str> = "a".into();
    let quickest = |streams| shared.quickest("a", streams).as_secs();
    assert_eq!(quickest(true), 0);
    for (took, least) in [(30, 30), (10, 10), (26, 11), (11, 11), (43, 13)] {
        shared.served(&id, true, Duration::from_secs(took));
        assert_eq!((quickest(true), quickest(false)), (least, 0));
    }
}
