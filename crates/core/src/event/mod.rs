//! Events: the decisions of layers and the ends of calls, for logs and metrics.
//!
//! Layers call [`emit`] once for each decision. An event goes to `tracing` with the target
//! `tower_claude`, and to the user's [`Observer`] if there is one. No event contains a body, a
//! prompt, a key, or the message of an error response. Only an observer that asks for them gets the
//! bodies of rejected requests ([`Observer::wants_rejected_requests`]).
//!
//! # Levels
//!
//! | Level | `decision` |
//! |---|---|
//! | `ERROR` | `unauthorized`, once for each credential |
//! | `WARN` | the first event of an incident: `refused`, `paused`, `gave_up`, `circuit_opened`, `broken`, `fell_back`, `stale`, `threshold` |
//! | `WARN` | `limit_differs` from the configured one, once for each pool and dimension |
//! | `WARN` | `inactive`, once for each layer and reason, `doubtful_model`, once for each name |
//! | `WARN` | `usage_capped`, once for each pool |
//! | `WARN` | `store_lost`, when the store of shared state stops answering |
//! | `WARN` | `batch_ambiguous`, when it is not known if a batch was created |
//! | `WARN` | `redirected` to another host, once for each pair of hosts |
//! | `INFO` | `call_ended`, unless the call was ordinary |
//! | `INFO` | `admitted` after a wait of 1 s or more, `abandoned` |
//! | `INFO` | `retry`, `circuit_probe`, `circuit_closed`, `store_regained`, a further `circuit_opened` or `stale` |
//! | `INFO` | `batch_created`, `batch_ended`, `batch_found`, `batch_not_created`, `batch_cancelled`, `batch_failed`, `batch_went_live` |
//! | `INFO` | `joined` if the shared response is a failure |
//! | `DEBUG` | `call_ended` of an ordinary call, `attempt_ended`, `settled` |
//! | `INFO` | the first `routed` of an incident, in which a target is left out because it has failed |
//! | `DEBUG` | `routed`, further events of an incident, and those of a failure that concerns one request, such as a 400 |
//! | `DEBUG` | `headroom` for each response that is read, `queued`, `uncounted`, the other decisions of a cache and of batches |
//! | `TRACE` | `admitted` after a shorter wait |
//!
//! - An **incident** is a decision of one layer for one reason, in one pool or for one model. It is
//!   over when a minute passes without such an event. A layer tells 256 incidents apart, and the
//!   others by their decision only.
//! - A call is **ordinary** if it was answered at the first attempt by the model asked for, waited
//!   for less than 1 s, and had its first content in less than 10 s. The lines at `INFO` therefore
//!   show the fate of each call that failed, was dropped by its caller, broke off, or was slow.
//!
//! # Fields
//!
//! Each line has a sentence as its message, and the fields `layer` and `decision`. Other fields are
//! present if they are known:
//!
//! | Field | Content |
//! |---|---|
//! | `class` | The [`Kind`] of a failure. |
//! | `because` | The reason of the decision in one word. |
//! | `target`, `skipped` | The target that is sent the request, and the others that could not be. |
//! | `ending` | `answered`, `failed`, `broken` or `dropped`. |
//! | `model`, `asked`, `from` | The model that was sent the request, and the one asked for. |
//! | `scope` | The pool of limits, or the circuit. The host is named for services other than Claude. |
//! | `endpoint` | The family of the endpoint. |
//! | `credential` | The credential. See below. |
//! | `status`, `request_id`, `cause` | The response of the API, or the cause of a transport error. |
//! | `fallback` | The `class` of the failure for which a call was sent to another model. |
//! | `refused_by` | The layer that refused a call. |
//! | `attempt`, `attempts` | The number of an attempt, and of all attempts. |
//! | `wait_ms` | The wait: in a queue, of a pause, or before the next attempt. |
//! | `backoff_ms` | The sum of the delays between attempts. |
//! | `first_content_ms` | The time until the first content. |
//! | `duration_ms` | The time until the end. |
//! | `input_tokens`, `cache_creation_tokens`, `cache_read_tokens`, `output_tokens` | The usage. |
//! | `cost_usd` | The cost of the usage in US dollars, if its price is known. |
//!
//! Names and texts that a caller or a server has chosen are escaped and cut after 300 bytes, so
//! that they can neither begin a line nor control a terminal. An [`Observer`] gets them as they are
//! and must do the same if it prints them.
//!
//! # The end of an attempt and of a call
//!
//! [`Event::AttemptEnded`] and [`Event::CallEnded`] are emitted at the end of the body, or when it
//! is dropped. In a stack of several layers each attempt is reported once, by the innermost layer
//! that sent it, and each call once, by the outermost layer. The cache is no such layer. A call
//! that it answers has the event `hit`, `stale` or `joined` instead, and the call that it makes is
//! reported by the layer inside of it.
//!
//! A request that a layer sends by itself, such as a token count, is a call of its own.
//!
//! The event goes to the observer of the layer that reports it. If that layer has none, it goes to
//! the observer of an outer layer. Give all layers the same observer.
//!
//! Nothing is measured if there is neither an observer nor a subscriber that wants `WARN` of the
//! target `tower_claude`.
//!
//! # Which key
//!
//! A key is never logged. The field `credential` has the first 8 hexadecimal digits of its keyed
//! hash at its host, which differ in every process. [`credential_tag`] returns the same digits for
//! a request, for instance to log them once with a name of the key:
//!
//! ```
//! use http::Request;
//! use tower_claude_core::{Scope, event::credential_tag};
//!
//! let request = Request::post("https://api.anthropic.com/v1/messages")
//!     .header("x-api-key", "sk-ant-1")
//!     .body(())?;
//! let tag = credential_tag(Scope::credential_of(&request)).unwrap_or_default();
//! println!("the key of team A is {tag}");
//! assert_eq!(tag.len(), 8);
//! # Ok::<(), http::Error>(())
//! ```
//!
//! # Spans
//!
//! Each call has a span `call`, from its arrival until the end of its body, and each attempt a span
//! `attempt` in it, from sending until the end of its body. Their target is `tower_claude::span`
//! and their level `DEBUG`, so that a filter such as `tower_claude::span=debug` selects them alone,
//! and lines at `INFO` are not preceded by their fields.
//!
//! - The parent of a call's span is the caller's span, in which the call is made.
//! - The inner service is called and polled in the span of the attempt, so that an HTTP client that
//!   injects `traceparent` continues it.
//! - All events of the call are in its span. Without a subscriber for the spans they are in the
//!   caller's span, if it polls the call or its body in one.
//! - Fields are named by the GenAI conventions of OpenTelemetry, such as `gen_ai.request.model`,
//!   `gen_ai.usage.input_tokens` (cache reads included), `error.type` and
//!   `http.request.resend_count`. `otel.name`, `otel.kind` and `otel.status_code` are those that
//!   tracing-opentelemetry reads. No field has a prompt, a key or a message.
//! - In a stack of several drivers each call and each attempt has one span.
//! - A cache is no driver: a call that it answers has no span.

mod incidents;
mod line;
mod summary;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use tower_claude_wire::{ModelCatalog, Money, RateLimits, Usage};
use tracing::level_filters::LevelFilter;

use self::incidents::Incidents;
use crate::{
    class::{Class, Kind},
    cost::{EstimatedTokens, UsageBound},
    dimension::Dimension,
    ledger::LimitWarning,
    priority::Priority,
    rejection::RejectReason,
    scope::Scope,
};

pub use self::summary::{AttemptEnd, CallEnd, Ending, RequestDetails, ResponseDetails};

/// The facts about an attempt that its events report.
///
/// They are collected only for events that an observer or a subscriber gets.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct AttemptDetails<'a> {
    /// The model in the request that was sent.
    pub model: Option<&'a str>,
    /// The pool of limits, if a limiter in the same driver knows it.
    pub scope: Option<&'a Scope>,
    /// The status of the response.
    pub status: Option<StatusCode>,
    /// The `request-id` of the response.
    pub request_id: Option<&'a str>,
    /// The cause of a transport error. See [`Classify::cause`](crate::Classify::cause).
    pub cause: Option<&'a str>,
}

/// A target that did not get a request.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SkippedTarget<'a> {
    /// The name of the target.
    pub target: &'a str,
    /// The reason in one word: `failed`, `rejected`, `unportable`, `residency`, `account`,
    /// `cool_down`, `probed`.
    pub because: &'static str,
    /// The reason in a few words.
    pub details: &'a str,
}

impl<'a> SkippedTarget<'a> {
    /// Creates the record of a target that did not get a request.
    #[must_use]
    pub const fn new(target: &'a str, because: &'static str, details: &'a str) -> Self {
        Self {
            target,
            because,
            details,
        }
    }
}

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
        /// The priority of the request.
        priority: Priority,
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
    /// A request left the queue without being admitted, and not by a rejection of the limiter.
    Abandoned {
        /// The name of the layer.
        layer: &'static str,
        /// The pool of limits.
        scope: &'a Scope,
        /// The position at which the request was queued, if the limiter has reported it.
        position: Option<usize>,
        /// The time that the request waited.
        wait: Duration,
        /// The reason: `dropped` (the caller has gone away), `deadline`, `timeout` (a timer of an
        /// outer layer).
        because: &'static str,
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
    /// The used share of a limit rose above the configured share. Emitted again when the share has
    /// fallen clearly in between.
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
        /// The model that was sent the request.
        model: Option<&'a str>,
        /// The number of the failed attempt, from 1.
        attempt: u32,
        /// The class of the failure.
        class: Class,
        /// The wait before the next attempt.
        delay: Duration,
        /// The failed attempt.
        details: AttemptDetails<'a>,
    },
    /// An attempt failed, and no other follows.
    GaveUp {
        /// The name of the layer.
        layer: &'static str,
        /// The model that was sent the request. A fallback layer reports the model asked for.
        model: Option<&'a str>,
        /// The number of attempts.
        attempt: u32,
        /// The class of the last failure.
        class: Class,
        /// The reason why no attempt follows: `not_retryable`, `refused` (by an inner layer),
        /// `attempts`, `unanswered` (two attempts timed out and may be billed), `creates` (it may
        /// have created something), `circuit` (it is open), `stand_in` (another model may be ready,
        /// and the wait would be long), `budget`, `deadline`, `retry_after`, `body`, `targets` (no
        /// other model or target is left).
        because: &'static str,
        /// The last attempt.
        details: AttemptDetails<'a>,
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
    /// The store of shared state stopped answering, or its answers are errors. The layer goes on
    /// without it.
    StoreLost {
        /// The name of the layer.
        layer: &'static str,
        /// The cause in one word.
        because: &'static str,
    },
    /// The store of shared state answers again.
    StoreRegained {
        /// The name of the layer.
        layer: &'static str,
        /// The time since the loss.
        outage: Duration,
    },
    /// The usage of a response shows what the markers of its prompt have saved.
    PromptCache {
        /// The name of the layer.
        layer: &'static str,
        /// The model.
        model: &'a str,
        /// The tokens that were neither read from the cache nor written to it.
        plain: u64,
        /// The tokens that were read from the cache.
        read: u64,
        /// The tokens that were written to the cache.
        written: u64,
        /// The price without a cache, less the price with it. Negative for a loss.
        saved: Money,
        /// The cause in one word for which a cached prefix was not read. `None` if it was, or if
        /// there was none.
        miss: Option<&'static str>,
        /// The index of the block that has changed, over tools, system prompt and messages, if that
        /// is the cause.
        block: Option<usize>,
    },
    /// Markers at one kind of place have lost money over a hundred requests. They are not set there
    /// for an hour.
    PromptCacheOff {
        /// The name of the layer.
        layer: &'static str,
        /// The place: `tools`, `system`, `document` or `tail`.
        boundary: &'static str,
        /// The loss. It is negative.
        saved: Money,
    },
    /// A response failed after its content had begun, so the caller has a part of it.
    Broken {
        /// The name of the layer.
        layer: &'static str,
        /// The model that was sent the request.
        model: Option<&'a str>,
        /// The class of the failure.
        class: Class,
        /// The attempt.
        details: AttemptDetails<'a>,
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
        /// The failed attempt. Empty if `asked` is false.
        details: AttemptDetails<'a>,
    },
    /// The target of an attempt was chosen among several.
    Routed {
        /// The name of the layer.
        layer: &'static str,
        /// The model.
        model: Option<&'a str>,
        /// The name of the target. `None` if no target is left.
        target: Option<&'a str>,
        /// The reason: `cache` (the conversation is in the prompt cache there), `cost`, `hash` (of
        /// several that cost the same), `only`, `soonest` (all are down), `none` (no target is
        /// left).
        because: &'static str,
        /// The account to which the thinking of the conversation is bound.
        account: Option<&'a str>,
        /// The number of the attempt in its call, from 1.
        attempt: usize,
        /// The targets that could not be chosen. A target that would have cost more is none of
        /// them.
        skipped: &'a [SkippedTarget<'a>],
    },
    /// A configured model name is skipped, or may be mistyped. Emitted once for each name of a
    /// layer.
    DoubtfulModel {
        /// The name of the layer.
        layer: &'static str,
        /// The name as configured.
        model: &'a str,
        /// The reason: `empty` (the name is skipped), `unknown` (the catalog does not list it, as
        /// is usual for names of a gateway), `retired`.
        because: &'static str,
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
    /// A batch layer decided on calls that can wait, or on a batch of them.
    Batch {
        /// The name of the layer.
        layer: &'static str,
        /// The decision.
        decision: BatchDecision,
        /// The reason in one word. Empty if there is none.
        because: &'static str,
        /// The number of calls.
        calls: usize,
        /// The id of the batch, if it is known.
        batch: Option<&'a str>,
        /// The model, if all calls have the same.
        model: Option<&'a str>,
        /// The time from the creation of the batch until its end was seen. Only for
        /// [`BatchDecision::Ended`].
        latency: Option<Duration>,
        /// The cost of the answer of a batch. Zero if it is not known.
        cost: Money,
        /// The difference to the cost of an ordinary call. Zero if it is not known.
        saved: Money,
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
    /// The usage of a complete response has replaced the estimate of its request.
    Settled {
        /// The name of the layer.
        layer: &'static str,
        /// The pool of limits.
        scope: &'a Scope,
        /// The tokens that were charged when the request was sent.
        estimated: EstimatedTokens,
        /// The usage.
        usage: &'a Usage,
    },
    /// The server did not accept the credential (401). Emitted once for each credential.
    Unauthorized {
        /// The name of the layer.
        layer: &'static str,
        /// The pool of limits.
        scope: &'a Scope,
        /// The `request-id` of the response.
        request_id: Option<&'a str>,
    },
    /// An attempt has ended, at the end of the body of its response. Emitted once for each request
    /// that was sent, also if it failed or its caller dropped it.
    AttemptEnded(&'a AttemptEnd<'a>),
    /// A call has ended, at the end of the body of the response for the caller. Emitted once for
    /// each call, also if it failed or its caller dropped it.
    CallEnded(&'a CallEnd<'a>),
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

/// A decision of a batch layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BatchDecision {
    /// Sent a call that can wait as an ordinary call, without queueing it.
    Passed,
    /// Queued a call for a batch.
    Queued,
    /// Attached a call to a batch that has the same question already.
    Attached,
    /// Created a batch.
    Created,
    /// Lost the answer to the creation of a batch, which may exist.
    Ambiguous,
    /// Found a batch whose creation was not answered.
    Found,
    /// Found out that a batch was not created. Its calls are queued again.
    NotCreated,
    /// Saw the end of a batch.
    Ended,
    /// Answered a call with its result.
    Answered,
    /// Answered a call with an error of its batch.
    Failed,
    /// Sent a call as an ordinary call after it had waited.
    WentLive,
    /// Cancelled a batch that no caller waits for.
    Cancelled,
}

impl BatchDecision {
    /// Returns the name for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Queued => "queued",
            Self::Attached => "attached",
            Self::Created => "created",
            Self::Ambiguous => "ambiguous",
            Self::Found => "found",
            Self::NotCreated => "not_created",
            Self::Ended => "ended",
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::WentLive => "went_live",
            Self::Cancelled => "cancelled",
        }
    }
}

/// An observer of events.
///
/// It runs inside the layers, so it must be fast and must not panic. A closure is an observer, and
/// needs no type annotation in [`observer_fn`].
pub trait Observer: Send + Sync {
    /// Records an event.
    fn on_event(&self, event: &Event<'_>);

    /// Returns the catalog whose prices the bills in events have. [`ModelCatalog::builtin`] by
    /// default.
    fn catalog(&self) -> &ModelCatalog {
        ModelCatalog::builtin()
    }

    /// Returns true if the ends of attempts and calls must have [`RequestDetails`] and
    /// [`ResponseDetails`]. False by default, and then they are not read.
    fn wants_details(&self) -> bool {
        false
    }

    /// Returns true if [`on_rejected_request`](Self::on_rejected_request) wants the bodies of
    /// requests. False by default, and then no body is kept.
    fn wants_rejected_requests(&self) -> bool {
        false
    }

    /// Receives the end of an attempt that the API has rejected for its content or its rights (400
    /// or 403), with the body of its request. Called after the event, and only if
    /// [`wants_rejected_requests`](Self::wants_rejected_requests) returned true when the call
    /// began. `body` is `None` if the body was a stream. Does nothing by default.
    fn on_rejected_request(&self, end: &AttemptEnd<'_>, body: Option<&[u8]>) {
        let _ = (end, body);
    }
}

impl<F> Observer for F
where
    F: Fn(&Event<'_>) + Send + Sync,
{
    fn on_event(&self, event: &Event<'_>) {
        self(event);
    }
}

/// Two observers, which both get all events. The catalog is that of the first one.
impl<A: Observer, B: Observer> Observer for (A, B) {
    fn on_event(&self, event: &Event<'_>) {
        self.0.on_event(event);
        self.1.on_event(event);
    }

    fn catalog(&self) -> &ModelCatalog {
        self.0.catalog()
    }

    fn wants_details(&self) -> bool {
        self.0.wants_details() || self.1.wants_details()
    }

    fn wants_rejected_requests(&self) -> bool {
        self.0.wants_rejected_requests() || self.1.wants_rejected_requests()
    }

    fn on_rejected_request(&self, end: &AttemptEnd<'_>, body: Option<&[u8]>) {
        if self.0.wants_rejected_requests() {
            self.0.on_rejected_request(end, body);
        }
        if self.1.wants_rejected_requests() {
            self.1.on_rejected_request(end, body);
        }
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
/// Cheap to clone. There is none by default. Clones also share the incidents that the layer has
/// warned of.
#[derive(Clone, Default)]
pub struct EventSink {
    observer: Option<Arc<dyn Observer>>,
    incidents: Arc<Incidents>,
}

impl EventSink {
    /// Creates a sink for this observer.
    #[must_use]
    pub fn new(observer: impl Observer + 'static) -> Self {
        Self {
            observer: Some(Arc::new(observer)),
            incidents: Arc::default(),
        }
    }

    /// Returns the catalog of the observer.
    pub(crate) fn catalog(&self) -> &ModelCatalog {
        match &self.observer {
            Some(observer) => observer.catalog(),
            None => ModelCatalog::builtin(),
        }
    }

    /// Returns true if the observer wants the bodies of rejected requests.
    pub(crate) fn wants_rejected_requests(&self) -> bool {
        let observer = self.observer.as_ref();
        observer.is_some_and(|observer| observer.wants_rejected_requests())
    }

    /// Returns true if the observer wants the details of requests and responses.
    pub(crate) fn wants_details(&self) -> bool {
        let observer = self.observer.as_ref();
        observer.is_some_and(|observer| observer.wants_details())
    }

    pub(crate) fn on_rejected_request(&self, end: &AttemptEnd<'_>, body: Option<&[u8]>) {
        if let Some(observer) = &self.observer {
            observer.on_rejected_request(end, body);
        }
    }

    /// Returns true if there is an observer.
    #[must_use]
    pub(crate) const fn is_observed(&self) -> bool {
        self.observer.is_some()
    }
}

impl fmt::Debug for EventSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EventSink")
            .field(&self.is_observed())
            .finish()
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
#[inline(always)]
pub fn is_debug_enabled(sink: &EventSink) -> bool {
    sink.is_observed() || tracing::enabled!(target: "tower_claude", tracing::Level::DEBUG)
}

/// Returns the text of a credential in events: the first 8 hexadecimal digits of its keyed hash at
/// its host. `None` for a request without a credential.
///
/// `credential` is the value of [`Scope::credential_of`].
#[must_use]
pub fn credential_tag(credential: u64) -> Option<String> {
    (credential != 0).then(|| format!("{:08x}", credential >> 32))
}

/// Emits an event to `tracing` and to the observer.
#[inline]
pub fn emit(sink: &EventSink, event: &Event<'_>) {
    // One load without a subscriber.
    if LevelFilter::current() > LevelFilter::OFF {
        line::trace(sink, event);
    }
    if let Some(observer) = &sink.observer {
        observer.on_event(event);
    }
}
