//! Events: the decisions of layers, for logs and metrics.
//!
//! Layers call [`emit`] once for each decision. An event goes to `tracing` with the target
//! `tower_claude`, and to the user's [`Observer`] if there is one. No event contains a body, a
//! prompt or a key.
//!
//! | Level | `decision` |
//! |---|---|
//! | `ERROR` | `unauthorized`, once for each credential |
//! | `WARN` | `refused`, `paused`, `threshold`, `gave_up`, `circuit_opened`, `broken` |
//! | `WARN` | `fell_back`, to another model |
//! | `WARN` | `limit_differs` from the configured one, once for each pool and dimension |
//! | `WARN` | `inactive`, once for each layer and reason |
//! | `WARN` | `usage_capped`, once for each pool |
//! | `WARN` | `redirected` to another host, once for each pair of hosts |
//! | `INFO` | `retry`, `circuit_probe`, `circuit_closed` |
//! | `DEBUG` | `headroom` for each response, `queued`, `uncounted`, the decisions of a cache |
//! | `TRACE` | `admitted`, with the wait |
//!
//! Events are emitted while the call or its body is polled, in the caller's span. A span around
//! each request, for example by tower-http's `TraceLayer` as the outermost layer, shows which lines
//! belong together. There are three exceptions:
//!
//! - Events of a dropped body have no such span.
//! - Events of a call that a cache makes `detached()` have none either.
//! - Events of a call shared through the cache have the span of the caller that polls it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tower_claude_wire::{RateLimits, Usage};

use crate::{
    class::{Class, Kind},
    cost::UsageBound,
    dimension::Dimension,
    ledger::LimitWarning,
    rejection::RejectReason,
    scope::Scope,
};

/// A decision of a layer, or an observation.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A limiter admitted a request, immediately or after a wait.
    Admitted {
        /// The name of the layer.
        layer: &'static str,
        /// The pool of limits.
        scope: &'a Scope,
        /// The time that the request waited. Usually zero.
        wait: Duration,
    },
    /// A request was queued.
    Queued {
        /// The name of the layer.
        layer: &'static str,
        /// The pool of limits.
        scope: &'a Scope,
        /// The position, from 1, among the waiting requests of its priority and tenant.
        position: usize,
        /// The estimated wait.
        estimated_wait: Duration,
    },
    /// A layer rejected a request.
    Rejected {
        /// The name of the layer.
        layer: &'static str,
        /// The pool of limits, if there is one.
        scope: Option<&'a Scope>,
        /// The reason.
        reason: RejectReason,
        /// The class that outer layers get.
        class: Class,
    },
    /// A limiter paused admissions after a 429.
    Paused {
        /// The name of the layer.
        layer: &'static str,
        /// The pool of limits.
        scope: &'a Scope,
        /// The length of the pause.
        pause: Duration,
    },
    /// A response reported the remaining limits.
    Headroom {
        /// The name of the layer.
        layer: &'static str,
        /// The pool of limits.
        scope: &'a Scope,
        /// The rate-limit headers.
        limits: &'a RateLimits,
        /// The `request-id` of the response.
        request_id: Option<&'a str>,
    },
    /// The used share of a limit rose above the configured share.
    Threshold {
        /// The name of the layer.
        layer: &'static str,
        /// The pool of limits.
        scope: &'a Scope,
        /// The limit, and the remaining amount.
        crossing: LimitWarning,
    },
    /// The server has another limit than the configured one. The smaller of both holds. Emitted
    /// once for each pool and dimension.
    LimitDiffers {
        /// The name of the layer.
        layer: &'static str,
        /// The pool of limits.
        scope: &'a Scope,
        /// The dimension of the limit.
        dimension: Dimension,
        /// The configured limit per minute.
        configured: u64,
        /// The limit per minute of the server.
        server: u64,
    },
    /// An attempt failed, and another follows.
    Retry {
        /// The name of the layer.
        layer: &'static str,
        /// The model of the request, if the request names one and was saved.
        model: Option<&'a str>,
        /// The number of the failed attempt, from 1.
        attempt: u32,
        /// The class of the failure.
        class: Class,
        /// The wait before the next attempt.
        delay: Duration,
    },
    /// An attempt failed, and no other follows.
    GaveUp {
        /// The name of the layer.
        layer: &'static str,
        /// The model of the request, if the request names one and was saved. A fallback layer
        /// reports the first model.
        model: Option<&'a str>,
        /// The number of attempts.
        attempt: u32,
        /// The class of the last failure.
        class: Class,
        /// The reason why no attempt follows: `not_retryable`, `attempts`, `unanswered` (two
        /// attempts timed out and may be billed), `budget`, `deadline`, `retry_after`, `body`,
        /// `targets` (no other model is left).
        because: &'static str,
    },
    /// A circuit opened. Calls of its scope are rejected until the cool-down is over.
    CircuitOpened {
        /// The name of the layer.
        layer: &'static str,
        /// The scope of the circuit.
        scope: &'a Scope,
        /// The kind of the last failure. A probe that did not end counts as a timeout. In the
        /// circuit of a credential it counts as the failure that had opened the circuit.
        because: Kind,
        /// The time until the first probe.
        cool_down: Duration,
        /// The number of times in a row that the circuit has opened.
        opens: u32,
    },
    /// A call was sent as a probe, to find out if an open circuit can close.
    CircuitProbe {
        /// The name of the layer.
        layer: &'static str,
        /// The scope of the circuit.
        scope: &'a Scope,
    },
    /// A circuit closed, because its probes succeeded. If it ramps up, it still rejects a shrinking
    /// share of the calls for a while, with the reason `CircuitOpen`.
    CircuitClosed {
        /// The name of the layer.
        layer: &'static str,
        /// The scope of the circuit.
        scope: &'a Scope,
    },
    /// A response failed after its content had begun, so the caller has a part of it.
    Broken {
        /// The name of the layer.
        layer: &'static str,
        /// The class of the failure.
        class: Class,
    },
    /// The tokens of a request could not be counted, so they are estimated.
    Uncounted {
        /// The name of the layer.
        layer: &'static str,
        /// The reason: `refused` (an inner layer rejected the request), `status`, `error`,
        /// `answer`, `timeout`.
        because: &'static str,
    },
    /// The request is sent to another model than the requested one.
    FellBack {
        /// The name of the layer.
        layer: &'static str,
        /// The model that failed, or that is skipped because it has recently failed.
        from: &'a str,
        /// The model that gets the request.
        to: &'a str,
        /// The class of the failure of `from`.
        class: Class,
        /// True if this call was sent to `from` and failed, or was rejected by an inner layer.
        /// False if `from` was skipped because of earlier calls.
        asked: bool,
    },
    /// A layer gets requests that ask for it, and on which it cannot act. Emitted once for each
    /// layer and reason.
    Inactive {
        /// The name of the layer.
        layer: &'static str,
        /// The reason: `endpoint` (the path leads to no known endpoint of the API), `credential`
        /// (a cache does not share responses to requests without a known credential).
        because: &'static str,
    },
    /// A cache decided on a request or a response.
    Cache {
        /// The name of the layer.
        layer: &'static str,
        /// The decision.
        decision: CacheDecision,
        /// The reason in one word. Empty if there is none.
        because: &'static str,
    },
    /// A response claims more usage than its request can have caused. The limiter charges the bound
    /// and learns nothing from it. Emitted once for each scope.
    UsageCapped {
        /// The name of the layer.
        layer: &'static str,
        /// The pool of limits.
        scope: &'a Scope,
        /// The usage in the response.
        usage: &'a Usage,
        /// The most that the limiter charges.
        bound: UsageBound,
    },
    /// The server did not accept the credential (401). Emitted once for each credential.
    Unauthorized {
        /// The name of the layer.
        layer: &'static str,
        /// The pool of limits.
        scope: &'a Scope,
    },
}

/// A decision of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheDecision {
    /// Returned a stored response.
    Hit,
    /// Called the inner service, for all waiting callers.
    Miss,
    /// Returned a stored response that is past its lifetime, instead of an error.
    Stale,
    /// Returned the response of an equal request in flight.
    Joined,
    /// Forwarded a request that asked for the cache.
    Bypass,
    /// Called the inner service again for the waiting callers, because the leader has gone away.
    TakenOver,
    /// Stored a response.
    Stored,
    /// Did not store a response.
    NotStored,
}

impl CacheDecision {
    /// Returns the name for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Stale => "stale",
            Self::Joined => "joined",
            Self::Bypass => "bypass",
            Self::TakenOver => "taken_over",
            Self::Stored => "stored",
            Self::NotStored => "not_stored",
        }
    }
}

/// An observer of events.
///
/// It runs inside the layers, so it must be fast and must not panic.
pub trait Observer: Send + Sync {
    /// Records an event.
    fn on_event(&self, event: &Event<'_>);
}

impl<F> Observer for F
where
    F: Fn(&Event<'_>) + Send + Sync,
{
    fn on_event(&self, event: &Event<'_>) {
        self(event);
    }
}

/// Returns the closure, whose argument then needs no type annotation.
///
/// ```
/// use tower_claude_core::event::observer_fn;
///
/// let observer = observer_fn(|event| println!("{event:?}"));
/// # let _ = observer;
/// ```
pub const fn observer_fn<F>(observe: F) -> F
where
    F: Fn(&Event<'_>) + Send + Sync,
{
    observe
}

/// The destination of a layer's events besides `tracing`.
///
/// Cheap to clone. There is none by default.
#[derive(Clone, Default)]
pub struct EventSink(Option<Arc<dyn Observer>>);

impl EventSink {
    /// Creates a sink for this observer.
    #[must_use]
    pub fn new(observer: impl Observer + 'static) -> Self {
        Self(Some(Arc::new(observer)))
    }
}

impl fmt::Debug for EventSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EventSink").field(&self.0.is_some()).finish()
    }
}

/// A notice that a layer cannot act on the requests that ask for it. It is emitted once.
#[derive(Debug, Default)]
pub struct InactiveNotice(AtomicBool);

impl InactiveNotice {
    /// Emits [`Event::Inactive`], unless this was done before.
    pub fn emit(&self, sink: &EventSink, layer: &'static str, because: &'static str) {
        if !self.0.swap(true, Ordering::Relaxed) {
            emit(sink, &Event::Inactive { layer, because });
        }
    }
}

/// Returns true if a `DEBUG` event would reach an observer or a subscriber of `tracing`.
///
/// A layer can skip the work for an event that would be discarded.
#[must_use]
pub fn is_debug_enabled(sink: &EventSink) -> bool {
    sink.0.is_some() || tracing::enabled!(target: "tower_claude", tracing::Level::DEBUG)
}

/// Emits an event to `tracing` and to the observer.
pub fn emit(sink: &EventSink, event: &Event<'_>) {
    trace(event);
    if let Some(observer) = &sink.0 {
        observer.on_event(event);
    }
}

/// Returns the duration in whole milliseconds.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Emits an event to `tracing`.
fn trace(event: &Event<'_>) {
    match *event {
        Event::Admitted { layer, scope, wait } => {
            tracing::trace!(
                target: "tower_claude", layer, decision = "admitted", %scope,
                wait_ms = millis(wait),
            );
        }
        Event::Queued {
            layer,
            scope,
            position,
            estimated_wait,
        } => {
            tracing::debug!(
                target: "tower_claude", layer, decision = "queued", %scope, position,
                wait_ms = millis(estimated_wait),
            );
        }
        Event::Rejected {
            layer,
            scope,
            reason,
            class,
        } => {
            tracing::warn!(
                target: "tower_claude", layer, decision = "refused", class = class.kind.as_str(),
                scope = scope.map(tracing::field::display),
                wait_ms = class.retry_after.map(millis), ?reason,
            );
        }
        Event::Paused {
            layer,
            scope,
            pause,
        } => {
            tracing::warn!(
                target: "tower_claude", layer, decision = "paused", %scope,
                wait_ms = millis(pause),
            );
        }
        Event::Headroom {
            layer,
            scope,
            limits,
            request_id,
        } => {
            tracing::debug!(
                target: "tower_claude", layer, decision = "headroom", %scope, request_id,
                requests = limits.requests.remaining, requests_limit = limits.requests.limit,
                input_tokens = limits.input_tokens.remaining,
                input_tokens_limit = limits.input_tokens.limit,
                output_tokens = limits.output_tokens.remaining,
                output_tokens_limit = limits.output_tokens.limit,
                tokens = limits.tokens.remaining, tokens_limit = limits.tokens.limit,
            );
        }
        Event::Threshold {
            layer,
            scope,
            crossing,
        } => {
            tracing::warn!(
                target: "tower_claude", layer, decision = "threshold", %scope,
                dimension = crossing.dimension.as_str(), remaining = crossing.remaining,
                limit = crossing.limit,
            );
        }
        Event::LimitDiffers {
            layer,
            scope,
            dimension,
            configured,
            server,
        } => {
            tracing::warn!(
                target: "tower_claude", layer, decision = "limit_differs", %scope,
                dimension = dimension.as_str(), configured, server,
            );
        }
        Event::Retry {
            layer,
            model,
            attempt,
            class,
            delay,
        } => {
            tracing::info!(
                target: "tower_claude", layer, decision = "retry", class = class.kind.as_str(),
                model, attempt, wait_ms = millis(delay),
            );
        }
        Event::GaveUp {
            layer,
            model,
            attempt,
            class,
            because,
        } => {
            tracing::warn!(
                target: "tower_claude", layer, decision = "gave_up", class = class.kind.as_str(),
                model, attempt, because,
            );
        }
        Event::CircuitOpened {
            layer,
            scope,
            because,
            cool_down,
            opens,
        } => {
            tracing::warn!(
                target: "tower_claude", layer, decision = "circuit_opened",
                class = because.as_str(), %scope, wait_ms = millis(cool_down), opens,
            );
        }
        Event::CircuitProbe { layer, scope } => {
            tracing::info!(target: "tower_claude", layer, decision = "circuit_probe", %scope);
        }
        Event::CircuitClosed { layer, scope } => {
            tracing::info!(target: "tower_claude", layer, decision = "circuit_closed", %scope);
        }
        Event::Broken { layer, class } => {
            tracing::warn!(
                target: "tower_claude", layer, decision = "broken", class = class.kind.as_str(),
            );
        }
        Event::Uncounted { layer, because } => {
            tracing::debug!(target: "tower_claude", layer, decision = "uncounted", because);
        }
        Event::FellBack {
            layer,
            from,
            to,
            class,
            asked,
        } => {
            tracing::warn!(
                target: "tower_claude", layer, decision = "fell_back", class = class.kind.as_str(),
                model = to, from, asked,
            );
        }
        Event::Inactive { layer, because } => {
            tracing::warn!(target: "tower_claude", layer, decision = "inactive", because);
        }
        Event::Cache {
            layer,
            decision,
            because,
        } => {
            tracing::debug!(target: "tower_claude", layer, decision = decision.as_str(), because);
        }
        Event::UsageCapped {
            layer,
            scope,
            usage,
            bound,
        } => {
            tracing::warn!(
                target: "tower_claude", layer, decision = "usage_capped", %scope,
                input_tokens = usage.limited_input(), max_input_tokens = bound.input_tokens,
                output_tokens = usage.limited_output(), max_output_tokens = bound.output_tokens,
            );
        }
        Event::Unauthorized { layer, scope } => {
            tracing::error!(target: "tower_claude", layer, decision = "unauthorized", %scope);
        }
    }
}
