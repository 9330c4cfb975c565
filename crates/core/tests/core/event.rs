//! Events reach the observer, and contain no secrets.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tower_claude_core::{
    Class, Dimension, Kind, Priority, RejectReason, Scope,
    event::{AttemptDetails, Event, EventSink, SkippedTarget, emit},
    toolkit::LimitWarning,
};
use tower_claude_wire::RateLimits;

#[test]
fn event_reaches_the_observer_once() {
    let scope = Scope::named("pool");
    let limits = RateLimits::default();
    let class = Class::new(Kind::Overloaded);
    let details = AttemptDetails::default();
    let (layer, second) = ("a-layer", Duration::from_secs(1));
    let events = [
        Event::Admitted {
            layer,
            scope: &scope,
            wait: second,
            priority: Priority::Normal,
        },
        Event::Rejected {
            layer,
            scope: None,
            reason: RejectReason::QueueFull {
                waiting: 1,
                limit: 1,
            },
            class,
        },
        Event::Rejected {
            layer,
            scope: Some(&scope),
            reason: RejectReason::TimedOut {
                after: Duration::MAX,
            },
            class: class.with_retry_after(Some(Duration::MAX)),
        },
        Event::FellBack {
            layer,
            from: "claude-opus-5-5",
            to: "claude-sonnet-5-5",
            class,
            asked: true,
            details,
        },
        Event::Routed {
            layer,
            model: Some("claude-sonnet-5-5"),
            target: Some("vertex/global"),
            because: "cost",
            account: Some("google/project"),
            attempt: 2,
            skipped: &[SkippedTarget::new("a", "failed", "failed in this call")],
        },
        Event::Routed {
            layer,
            model: None,
            target: None,
            because: "none",
            account: None,
            attempt: 1,
            skipped: &[],
        },
        Event::Paused {
            layer,
            scope: &scope,
            pause: Duration::MAX,
        },
        Event::Headroom {
            layer,
            scope: &scope,
            limits: &limits,
            request_id: Some("req_1"),
        },
        Event::Headroom {
            layer,
            scope: &scope,
            limits: &limits,
            request_id: None,
        },
        Event::Threshold {
            layer,
            scope: &scope,
            crossing: LimitWarning::new(Dimension::InputTokens, 1, 10),
        },
        Event::Retry {
            layer,
            model: Some("claude-sonnet-5-5"),
            attempt: 1,
            class,
            delay: second,
            details,
        },
        Event::GaveUp {
            layer,
            model: None,
            attempt: 5,
            class,
            because: "attempts",
            details,
        },
        Event::CircuitOpened {
            layer,
            scope: &scope,
            because: Kind::Overloaded,
            cool_down: Duration::MAX,
            opens: 1,
        },
        Event::CircuitProbe {
            layer,
            scope: &scope,
        },
        Event::CircuitClosed {
            layer,
            scope: &scope,
        },
        Event::Broken {
            layer,
            model: None,
            class,
            details,
        },
        Event::Unauthorized {
            layer,
            scope: &scope,
            request_id: Some("req_1"),
        },
    ];
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let observers = EventSink::new(move |event: &Event<'_>| {
        log.lock().expect("no panic").push(format!("{event:?}"));
    });
    let copy = observers.clone();
    for (i, event) in events.iter().enumerate() {
        emit(if i % 2 == 0 { &observers } else { &copy }, event);
    }
    let expected: Vec<_> = events.iter().map(|event| format!("{event:?}")).collect();
    assert_eq!(*seen.lock().expect("no panic"), expected);
}

#[test]
fn sink_without_an_observer_does_nothing() {
    let observers = EventSink::default();
    emit(
        &observers,
        &Event::Broken {
            layer: "x",
            model: None,
            class: Class::new(Kind::Truncated),
            details: AttemptDetails::default(),
        },
    );
    assert_eq!(format!("{observers:?}"), "EventSink(false)");
}
