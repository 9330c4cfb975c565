//! Saying what happened: one enum of decisions, one [`emit`].
//!
//! Layers call [`emit`] once per decision and write no telemetry of their own. Events go to
//! `tracing` under the target `tower_claude`, and to the user's [`Observer`] if there is one. No
//! event carries a body, a prompt or a key.
//!
//! | level | `decision` |
//! |---|---|
//! | `ERROR` | `unauthorized`, once per credential |
//! | `WARN` | `refused`, `paused`, `threshold`, `gave_up`, `circuit_opened`, `fell_back`, `broken` |
//! | `INFO` | `retry`, `circuit_probe`, `circuit_closed` |
//! | `DEBUG` | `headroom` per response, `queued`, `uncounted`, what a cache did |
//! | `TRACE` | `admitted`, with its wait |
//!
//! Events are said while the call or its body is polled, and so inside the caller's span: a span around each request, by
//! tower-http's `TraceLayer` outside of the layers for instance, tells which lines belong together. What a dropped body
//! says has no such span, nor has the call that a cache makes `detached()`; one that several share through a cache speaks in
//! the span of whoever drives it just then.

use std::{fmt, sync::Arc, time::Duration};

use tower_claude_wire::RateLimits;

use crate::{Class, Kind, LimitWarning, RejectReason, Scope};

/// One decision of a layer, or one thing it learned.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A limiter let a request through, at once or when its turn had come.
    Admitted {
        /// The layer.
        layer: &'static str,
        /// Its pool of limits.
        scope: &'a Scope,
        /// How long it waited; mostly not at all.
        wait: Duration,
    },
    /// A request waits for its turn.
    Queued {
        /// The layer.
        layer: &'static str,
        /// Its pool of limits.
        scope: &'a Scope,
        /// Its place, from 1, among the waiting requests of its priority and tenant.
        position: usize,
        /// How long it will probably wait.
        estimated_wait: Duration,
    },
    /// A layer answered itself.
    Rejected {
        /// The layer.
        layer: &'static str,
        /// The pool of limits, where there is one.
        scope: Option<&'a Scope>,
        /// Why.
        reason: RejectReason,
        /// What outer layers see.
        class: Class,
    },
    /// Admissions stop for a while, after a 429.
    Paused {
        /// The layer.
        layer: &'static str,
        /// The pool of limits.
        scope: &'a Scope,
        /// For how long.
        pause: Duration,
    },
    /// What a response said is left of the limits.
    Headroom {
        /// The layer.
        layer: &'static str,
        /// The pool of limits.
        scope: &'a Scope,
        /// The headers.
        limits: &'a RateLimits,
        /// The response's `request-id`.
        request_id: Option<&'a str>,
    },
    /// The used share of a limit rose over the share worth a warning.
    Threshold {
        /// The layer.
        layer: &'static str,
        /// The pool of limits.
        scope: &'a Scope,
        /// Which limit, and what is left.
        crossing: LimitWarning,
    },
    /// An attempt failed and another follows.
    Retry {
        /// The layer.
        layer: &'static str,
        /// The model of the request, where it names one and was kept to be sent again.
        model: Option<&'a str>,
        /// The attempt that failed, from 1.
        attempt: u32,
        /// Why it failed.
        class: Class,
        /// The wait before the next.
        delay: Duration,
    },
    /// An attempt failed and none follows.
    GaveUp {
        /// The layer.
        layer: &'static str,
        /// The model of the request, where it names one and was kept to be sent again; to a fallback layer, the one
        /// asked for first.
        model: Option<&'a str>,
        /// Attempts made.
        attempt: u32,
        /// Why the last failed.
        class: Class,
        /// Why there is no other: `not_retryable`, `attempts`, `unanswered` (two took too long, and may be paid for),
        /// `budget`, `deadline`, `retry_after`, `body`, `targets` (no other model is left).
        because: &'static str,
    },
    /// A circuit opened: calls of this scope are refused until the cool-down is over.
    CircuitOpened {
        /// The layer.
        layer: &'static str,
        /// What the circuit is kept for.
        scope: &'a Scope,
        /// Why the last call failed; a probe that never ended counts as a timeout, or for a credential as what had
        /// opened it.
        because: Kind,
        /// Until the first probe.
        cool_down: Duration,
        /// How often in a row by now.
        opens: u32,
    },
    /// A call goes out to see whether an open circuit can close.
    CircuitProbe {
        /// The layer.
        layer: &'static str,
        /// What the circuit is kept for.
        scope: &'a Scope,
    },
    /// A circuit closed, since its probes succeeded. Where it ramps up, a shrinking share of the calls is
    /// [`Rejected`](Self::Rejected) for a while yet, with the reason `CircuitOpen`.
    CircuitClosed {
        /// The layer.
        layer: &'static str,
        /// What the circuit is kept for.
        scope: &'a Scope,
    },
    /// A response broke off after its content had begun; the caller has seen a part of it.
    Broken {
        /// The layer.
        layer: &'static str,
        /// How.
        class: Class,
    },
    /// The tokens of a request could not be counted; they are estimated.
    Uncounted {
        /// The layer.
        layer: &'static str,
        /// Why: `refused` (by a layer further in), `status`, `error`, `answer`, `timeout`.
        because: &'static str,
    },
    /// Another model than the one asked for is sent the request.
    FellBack {
        /// The layer.
        layer: &'static str,
        /// The model that failed, or is passed over since it has failed lately.
        from: &'a str,
        /// The model that is sent the request.
        to: &'a str,
        /// How `from` failed.
        class: Class,
        /// Whether this call was sent towards `from` and failed, be it by the refusal of a layer further in. If not, `from`
        /// was passed over by what earlier calls have shown.
        asked: bool,
    },
    /// What a cache did with a request or an answer.
    Cache {
        /// The layer.
        layer: &'static str,
        /// What it did.
        decision: CacheDecision,
        /// Why it did no better, in a word; empty where there is nothing to say.
        because: &'static str,
    },
    /// The credential was not accepted (401). Said once per credential.
    Unauthorized {
        /// The layer.
        layer: &'static str,
        /// The pool of limits.
        scope: &'a Scope,
    },
}

/// What a cache did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheDecision {
    /// Answered from the store.
    Hit,
    /// Asked the inner service, for all who wait.
    Miss,
    /// Answered from the store past the time, in place of an error.
    Stale,
    /// Gave the answer to an equal request under way.
    Joined,
    /// Let a request through that asked for the cache.
    Bypass,
    /// Asked again for those who wait behind a caller that is gone.
    TakenOver,
    /// Stored an answer.
    Stored,
    /// Did not store an answer.
    NotStored,
}

impl CacheDecision {
    /// The name used in logs and metrics.
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

/// Gets every [`Event`]. Runs inside the layers: be quick, and do not panic.
pub trait Observer: Send + Sync {
    /// One event.
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

/// Where a layer's events go beside `tracing`. Cheap to clone; nowhere by default.
#[derive(Clone, Default)]
pub struct EventSink(Option<Arc<dyn Observer>>);

impl EventSink {
    /// To this observer.
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

/// Whether anybody would hear a `DEBUG` event, so that what it says need not be looked up for nobody.
#[must_use]
pub fn is_debug_heard(observers: &EventSink) -> bool {
    observers.0.is_some() || tracing::enabled!(target: "tower_claude", tracing::Level::DEBUG)
}

/// Says it: to `tracing`, and to the observer.
pub fn emit(observers: &EventSink, event: &Event<'_>) {
    trace(event);
    if let Some(observer) = &observers.0 {
        observer.on_event(event);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn trace(event: &Event<'_>) {
    match *event {
        Event::Admitted { layer, scope, wait } => {
            tracing::trace!(target: "tower_claude", layer, decision = "admitted", %scope, wait_ms = millis(wait));
        }
        Event::Queued {
            layer,
            scope,
            position,
            estimated_wait,
        } => {
            tracing::debug!(target: "tower_claude", layer, decision = "queued", %scope, position, wait_ms = millis(estimated_wait));
        }
        Event::Rejected {
            layer,
            scope,
            reason,
            class,
        } => {
            tracing::warn!(target: "tower_claude", layer, decision = "refused", class = class.kind.as_str(), scope = scope.map(tracing::field::display), wait_ms = class.retry_after.map(millis), ?reason);
        }
        Event::Paused {
            layer,
            scope,
            pause,
        } => {
            tracing::warn!(target: "tower_claude", layer, decision = "paused", %scope, wait_ms = millis(pause));
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
                input_tokens = limits.input_tokens.remaining, input_tokens_limit = limits.input_tokens.limit,
                output_tokens = limits.output_tokens.remaining, output_tokens_limit = limits.output_tokens.limit,
                tokens = limits.tokens.remaining, tokens_limit = limits.tokens.limit,
            );
        }
        Event::Threshold {
            layer,
            scope,
            crossing,
        } => {
            tracing::warn!(target: "tower_claude", layer, decision = "threshold", %scope, dimension = crossing.dimension.as_str(), remaining = crossing.remaining, limit = crossing.limit);
        }
        Event::Retry {
            layer,
            model,
            attempt,
            class,
            delay,
        } => {
            tracing::info!(target: "tower_claude", layer, decision = "retry", class = class.kind.as_str(), model, attempt, wait_ms = millis(delay));
        }
        Event::GaveUp {
            layer,
            model,
            attempt,
            class,
            because,
        } => {
            tracing::warn!(target: "tower_claude", layer, decision = "gave_up", class = class.kind.as_str(), model, attempt, because);
        }
        Event::CircuitOpened {
            layer,
            scope,
            because,
            cool_down,
            opens,
        } => {
            tracing::warn!(target: "tower_claude", layer, decision = "circuit_opened", class = because.as_str(), %scope, wait_ms = millis(cool_down), opens);
        }
        Event::CircuitProbe { layer, scope } => {
            tracing::info!(target: "tower_claude", layer, decision = "circuit_probe", %scope);
        }
        Event::CircuitClosed { layer, scope } => {
            tracing::info!(target: "tower_claude", layer, decision = "circuit_closed", %scope);
        }
        Event::Broken { layer, class } => {
            tracing::warn!(target: "tower_claude", layer, decision = "broken", class = class.kind.as_str());
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
            tracing::warn!(target: "tower_claude", layer, decision = "fell_back", class = class.kind.as_str(), model = to, from, asked);
        }
        Event::Cache {
            layer,
            decision,
            because,
        } => {
            tracing::debug!(target: "tower_claude", layer, decision = decision.as_str(), because);
        }
        Event::Unauthorized { layer, scope } => {
            tracing::error!(target: "tower_claude", layer, decision = "unauthorized", %scope);
        }
    }
}
