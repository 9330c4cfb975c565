//! Requests to the recommended stack, and its events.
#![allow(dead_code, unused_imports, reason = "each test target uses a part")]

use http::Request;
use tower_claude::{Limiter, LocalLimiter, RequestBody, cache::Cacheable, event::Event};
use tower_claude_tests::summary;

pub(crate) use tower_claude_tests::{EventLog, HAIKU, HOUR, OPUS, SECOND, SONNET, request, send};

/// Returns a Messages request that the cache may answer.
pub(crate) fn cacheable(stream: bool) -> Request<RequestBody> {
    let mut request = request(SONNET, stream);
    request.extensions_mut().insert(Cacheable::new());
    request
}

/// Returns a log of all events but thresholds.
pub(crate) fn event_log() -> EventLog {
    EventLog::new(|event| match event {
        Event::Threshold { .. } => None,
        other => summary(other),
    })
}

/// Returns the number of lines that equal this text.
pub(crate) fn count(lines: &[String], text: &str) -> usize {
    lines.iter().filter(|line| *line == text).count()
}

/// Asserts that nothing is in flight, queued or reserved.
pub(crate) fn assert_idle(limiter: &LocalLimiter, what: &str) {
    for scope in limiter.snapshot() {
        assert_eq!(scope.in_flight, 0, "in flight after {what}: {scope:?}");
        assert_eq!(scope.queued, 0, "queued after {what}: {scope:?}");
        assert_eq!(
            scope.outstanding_output, 0,
            "reserved after {what}: {scope:?}"
        );
    }
}
