//! The lines of events in `tracing`.

use std::{fmt, time::Duration};

use http::StatusCode;
use tokio::time::Instant;
use tower_claude_wire::Bill;

use super::{
    BatchDecision, CacheDecision, Event, EventSink, SkippedTarget, credential_tag,
    summary::{AttemptEnd, CallEnd, Ending, LONG_WAIT},
};
use crate::{
    class::{Class, Kind, Reach},
    endpoint::Endpoint,
    readable_duration::{ReadableDuration, millis},
    scope::Scope,
    text::escaped,
};

/// Emits a line at one of two levels.
macro_rules! line {
    ($is_louder:expr, $louder:ident or $else:ident, $($fields:tt)+) => {
        if $is_louder {
            tracing::$louder!(target: "tower_claude", $($fields)+);
        } else {
            tracing::$else!(target: "tower_claude", $($fields)+);
        }
    };
}

/// Returns the name of a scope. Scopes of services other than Claude differ only in their host.
fn text(scope: Option<&Scope>) -> Option<String> {
    let scope = scope?;
    let text = match scope.endpoint {
        Endpoint::Other => format!("{scope:#}"),
        _ => scope.to_string(),
    };
    Some(escaped(&text).into_owned())
}

fn tag(scope: Option<&Scope>) -> Option<String> {
    credential_tag(scope?.credential)
}

/// Returns the kind of a failure, and `None` for a success.
fn kind_of(class: &Class) -> Option<&'static str> {
    (class.kind != Kind::Success).then(|| class.kind.as_str())
}

/// Returns the cost of a bill in dollars.
fn cost(bill: Option<Bill>) -> Option<f64> {
    bill.map(|bill| bill.cost.dollars())
}

/// The kind of a failure, with the status of the response.
struct Failure(Kind, Option<StatusCode>);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())?;
        match self.1 {
            Some(status) if !status.is_success() => write!(f, " ({})", status.as_u16()),
            _ => Ok(()),
        }
    }
}

/// The delay before the next attempt.
struct Delay(Duration);

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Duration::ZERO => f.write_str("at once"),
            delay => write!(f, "in {}", ReadableDuration(delay)),
        }
    }
}

/// A number of attempts.
struct Attempts(u32);

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0 == 1 { "" } else { "s" };
        write!(f, "{} attempt{plural}", self.0)
    }
}

impl fmt::Display for AttemptEnd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ending, duration) = (self.ending.as_str(), ReadableDuration(self.duration));
        write!(f, "attempt {} {ending} after {duration}", self.attempt)?;
        match self.ending {
            Ending::Failed | Ending::Broken => {
                write!(f, ": {}", Failure(self.class.kind, self.status))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for CallEnd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let duration = ReadableDuration(self.duration);
        match (self.ending, &self.rejection) {
            (Ending::Answered, _) => {
                f.write_str("answered")?;
                if let Some(model) = self.model.filter(|_| self.fell_back()) {
                    write!(f, " by {}", escaped(model))?;
                }
                write!(f, " after {duration}")?;
                if let Some(kind) = self.fallback {
                    write!(f, ", fell back ({})", kind.as_str())?;
                }
            }
            (Ending::Dropped, _) => write!(f, "dropped by the caller after {duration}")?,
            (Ending::Failed, Some(rejection)) if self.class.local => {
                write!(f, "refused by {} after {duration}", rejection.by)?;
                write!(f, ": {}", rejection.reason)?;
            }
            (Ending::Failed, Some(rejection)) => {
                write!(f, "failed after {duration}: {}", rejection.reason)?;
            }
            (Ending::Failed, None) => {
                let failure = Failure(self.class.kind, self.status);
                write!(f, "failed after {duration}: {failure}")?;
            }
            (Ending::Broken, _) => {
                write!(f, "broke off after {duration}")?;
                write!(
                    f,
                    ", in the middle of the answer: {}",
                    self.class.kind.as_str()
                )?;
            }
        }
        if self.wait >= LONG_WAIT {
            write!(f, ", waited {}", ReadableDuration(self.wait))?;
        }
        match self.attempts {
            0 if self.rejection.is_none() => f.write_str(", never sent")?,
            0 | 1 => {}
            attempts => write!(f, ", {}", Attempts(attempts))?,
        }
        // Between a failure and a stand-in pass some microseconds.
        if self.backoff >= Duration::from_millis(1) {
            write!(f, ", {} between attempts", ReadableDuration(self.backoff))?;
        }
        Ok(())
    }
}

/// Returns true for a failure that concerns only its own request. It is no incident.
fn is_of_request(class: &Class) -> bool {
    let kind = class.kind;
    class.reach == Reach::Request
        && matches!(
            kind,
            Kind::BadRequest
                | Kind::NotFound
                | Kind::TooLarge
                | Kind::Conflict
                | Kind::ModelRefusal
                | Kind::Forbidden
        )
}

/// Returns true if the event begins an incident, of which a line at `WARN` warns.
fn begins_incident(sink: &EventSink, event: &Event<'_>) -> bool {
    if !tracing::enabled!(target: "tower_claude", tracing::Level::WARN) {
        return false;
    }
    let of_scope = |scope: Option<&Scope>| {
        scope.map_or_else(String::new, |scope| {
            format!("{scope:#} {:x}", scope.credential)
        })
    };
    let (decision, subject) = match event {
        Event::Rejected {
            scope,
            reason,
            class,
            ..
        } => {
            if is_of_request(class) {
                return false;
            }
            let scope = of_scope(*scope);
            ("refused", format!("{} {scope}", reason.as_str()))
        }
        Event::Paused { scope, .. } => ("paused", of_scope(Some(scope))),
        Event::Threshold {
            scope, crossing, ..
        } => {
            let scope = of_scope(Some(scope));
            ("threshold", format!("{} {scope}", crossing.dimension))
        }
        Event::GaveUp { model, class, .. } => {
            if is_of_request(class) {
                return false;
            }
            let model = model.unwrap_or_default();
            ("gave_up", format!("{} {model}", class.kind.as_str()))
        }
        Event::CircuitOpened { scope, .. } => ("circuit_opened", of_scope(Some(scope))),
        Event::Broken { model, class, .. } => {
            let model = model.unwrap_or_default();
            ("broken", format!("{} {model}", class.kind.as_str()))
        }
        Event::FellBack { from, class, .. } => {
            ("fell_back", format!("{} {from}", class.kind.as_str()))
        }
        Event::Routed { skipped, .. } => {
            let is_failed = |skip: &&SkippedTarget<'_>| {
                matches!(skip.because, "failed" | "cool_down" | "rejected")
            };
            let mut failed = skipped.iter().filter(is_failed);
            let Some(skip) = failed.next() else {
                return false;
            };
            ("routed", skip.target.to_owned())
        }
        Event::Cache {
            decision: CacheDecision::Stale,
            ..
        } => ("stale", String::new()),
        _ => return false,
    };
    sink.incidents.is_first(decision, &subject, Instant::now())
}

/// Emits an event to `tracing`.
pub(super) fn trace(sink: &EventSink, event: &Event<'_>) {
    match *event {
        Event::Admitted {
            layer, scope, wait, ..
        } => {
            line!(
                wait >= LONG_WAIT, info or trace,
                layer, decision = "admitted", scope = text(Some(scope)),
                credential = tag(Some(scope)), wait_ms = millis(wait),
                "admitted after {}", ReadableDuration(wait),
            );
        }
        Event::Queued {
            layer,
            scope,
            position,
            estimated_wait,
        } => {
            tracing::debug!(
                target: "tower_claude", layer, decision = "queued", scope = text(Some(scope)),
                credential = tag(Some(scope)), position, wait_ms = millis(estimated_wait),
                "waiting at position {position} for about {}", ReadableDuration(estimated_wait),
            );
        }
        Event::Abandoned {
            layer,
            scope,
            position,
            wait,
            because,
        } => {
            tracing::info!(
                target: "tower_claude", layer, decision = "abandoned", scope = text(Some(scope)),
                credential = tag(Some(scope)), position, wait_ms = millis(wait), because,
                "left the queue after {} without being admitted", ReadableDuration(wait),
            );
        }
        Event::Rejected {
            layer,
            scope,
            reason,
            class,
        } => {
            line!(
                begins_incident(sink, event), warn or debug,
                layer, decision = "refused", class = class.kind.as_str(), scope = text(scope),
                credential = tag(scope), wait_ms = class.retry_after.map(millis),
                because = reason.as_str(), "refused: {reason}",
            );
        }
        Event::Paused {
            layer,
            scope,
            pause,
        } => {
            line!(
                begins_incident(sink, event), warn or debug,
                layer, decision = "paused", scope = text(Some(scope)),
                credential = tag(Some(scope)), wait_ms = millis(pause),
                "pausing for {} after a 429", ReadableDuration(pause),
            );
        }
        Event::Headroom {
            layer,
            scope,
            limits,
            request_id,
        } => {
            tracing::debug!(
                target: "tower_claude", layer, decision = "headroom", scope = text(Some(scope)),
                credential = tag(Some(scope)), request_id = request_id.map(escaped).as_deref(),
                requests = limits.requests.remaining, requests_limit = limits.requests.limit,
                input_tokens = limits.input_tokens.remaining,
                input_tokens_limit = limits.input_tokens.limit,
                output_tokens = limits.output_tokens.remaining,
                output_tokens_limit = limits.output_tokens.limit,
                tokens = limits.tokens.remaining, tokens_limit = limits.tokens.limit,
                "remaining limits",
            );
        }
        Event::Threshold {
            layer,
            scope,
            crossing,
        } => {
            let (remaining, limit, dimension) =
                (crossing.remaining, crossing.limit, crossing.dimension);
            line!(
                begins_incident(sink, event), warn or debug,
                layer, decision = "threshold", scope = text(Some(scope)),
                credential = tag(Some(scope)), dimension = dimension.as_str(), remaining, limit,
                "{remaining} of {limit} {dimension} remain",
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
                target: "tower_claude", layer, decision = "limit_differs", scope = text(Some(scope)),
                credential = tag(Some(scope)), dimension = dimension.as_str(), configured, server,
                "the configured limit of {dimension} is {configured}, that of the server {server}: \
                 the smaller one holds",
            );
        }
        Event::UsageCapped {
            layer,
            scope,
            usage,
            bound,
        } => {
            tracing::warn!(
                target: "tower_claude", layer, decision = "usage_capped",
                scope = text(Some(scope)), credential = tag(Some(scope)),
                input_tokens = usage.limited_input(), max_input_tokens = bound.input_tokens,
                output_tokens = usage.limited_output(), max_output_tokens = bound.output_tokens,
                "a response claims more tokens than its request can have used",
            );
        }
        Event::Settled {
            layer,
            scope,
            estimated,
            usage,
        } => {
            tracing::debug!(
                target: "tower_claude", layer, decision = "settled", scope = text(Some(scope)),
                credential = tag(Some(scope)), input_tokens = usage.limited_input(),
                estimated_input_tokens = estimated.input, output_tokens = usage.limited_output(),
                estimated_output_tokens = estimated.output,
                "charged the usage instead of the estimate",
            );
        }
        Event::Retry {
            layer,
            model,
            attempt,
            class,
            delay,
            details,
        } => {
            tracing::info!(
                target: "tower_claude", layer, decision = "retry", class = class.kind.as_str(),
                model = model.map(escaped).as_deref(), attempt, wait_ms = millis(delay),
                status = details.status.map(|status| status.as_u16()),
                request_id = details.request_id.map(escaped).as_deref(),
                cause = details.cause.map(escaped).as_deref(),
                "retrying {} after {}", Delay(delay), Failure(class.kind, details.status),
            );
        }
        Event::GaveUp {
            layer,
            model,
            attempt,
            class,
            because,
            details,
        } => {
            line!(
                begins_incident(sink, event), warn or debug,
                layer, decision = "gave_up", class = class.kind.as_str(),
                model = model.map(escaped).as_deref(), attempt, because,
                status = details.status.map(|status| status.as_u16()),
                request_id = details.request_id.map(escaped).as_deref(),
                cause = details.cause.map(escaped).as_deref(),
                "gave up after {}: {}", Attempts(attempt), Failure(class.kind, details.status),
            );
        }
        Event::CircuitOpened {
            layer,
            scope,
            because,
            cool_down,
            opens,
        } => {
            line!(
                begins_incident(sink, event), warn or info,
                layer, decision = "circuit_opened", class = because.as_str(),
                scope = text(Some(scope)), credential = tag(Some(scope)),
                wait_ms = millis(cool_down), opens,
                "opened for {} after {}", ReadableDuration(cool_down), because.as_str(),
            );
        }
        Event::CircuitProbe { layer, scope } => {
            tracing::info!(
                target: "tower_claude", layer, decision = "circuit_probe",
                scope = text(Some(scope)), credential = tag(Some(scope)),
                "sending a call as a probe",
            );
        }
        Event::CircuitClosed { layer, scope } => {
            tracing::info!(
                target: "tower_claude", layer, decision = "circuit_closed",
                scope = text(Some(scope)), credential = tag(Some(scope)), "closed",
            );
        }
        Event::StoreLost { layer, because } => {
            tracing::warn!(
                target: "tower_claude", layer, decision = "store_lost", because,
                "goes on without the store of shared state: {because}",
            );
        }
        Event::StoreRegained { layer, outage } => {
            tracing::info!(
                target: "tower_claude", layer, decision = "store_regained",
                wait_ms = millis(outage),
                "the store of shared state answers again after {}", ReadableDuration(outage),
            );
        }
        Event::PromptCache {
            layer,
            model,
            plain,
            read,
            written,
            saved,
            miss,
            block,
        } => {
            tracing::debug!(
                target: "tower_claude", layer, decision = "prompt_cache",
                model = &*escaped(model), plain, read, written, saved = %saved, miss, block,
                "read {read} of {} tokens from the prompt cache, saved {saved}",
                plain.saturating_add(read).saturating_add(written),
            );
        }
        Event::PromptCacheOff {
            layer,
            boundary,
            saved,
        } => {
            tracing::warn!(
                target: "tower_claude", layer, decision = "prompt_cache_off", boundary,
                saved = %saved,
                "markers at the end of the {boundary} have lost money and are not set for an hour",
            );
        }
        Event::Broken {
            layer,
            model,
            class,
            details,
        } => {
            line!(
                begins_incident(sink, event), warn or debug,
                layer, decision = "broken", class = class.kind.as_str(),
                model = model.map(escaped).as_deref(), scope = text(details.scope),
                credential = tag(details.scope),
                request_id = details.request_id.map(escaped).as_deref(),
                "the response broke off in the middle: {}", class.kind.as_str(),
            );
        }
        Event::Uncounted { layer, because } => {
            tracing::debug!(
                target: "tower_claude", layer, decision = "uncounted", because,
                "estimating the tokens, because they could not be counted",
            );
        }
        Event::FellBack {
            layer,
            from,
            to,
            class,
            asked,
            details,
        } => {
            let (from, to) = (&*escaped(from), &*escaped(to));
            line!(
                begins_incident(sink, event), warn or debug,
                layer, decision = "fell_back", class = class.kind.as_str(), model = to, from, asked,
                status = details.status.map(|status| status.as_u16()),
                request_id = details.request_id.map(escaped).as_deref(),
                cause = details.cause.map(escaped).as_deref(),
                "sending to {to} instead of {from}: {}", Failure(class.kind, details.status),
            );
        }
        Event::Routed {
            layer,
            model,
            target,
            because,
            account,
            attempt,
            skipped,
        } => {
            let all = skipped.iter().map(|skip| {
                let (target, details) = (escaped(skip.target), escaped(skip.details));
                format!("{target} ({details})")
            });
            let all = all.collect::<Vec<_>>().join(", ");
            let target = target.map(escaped);
            line!(
                begins_incident(sink, event), info or debug,
                layer, decision = "routed", because, model = model.map(escaped).as_deref(),
                target = target.as_deref(), account = account.map(escaped).as_deref(), attempt,
                skipped = (!all.is_empty()).then_some(&*all),
                "sending to {}", target.as_deref().unwrap_or("no target"),
            );
        }
        Event::DoubtfulModel {
            layer,
            model,
            because,
        } => {
            tracing::warn!(
                target: "tower_claude", layer, decision = "doubtful_model",
                model = &*escaped(model), because, "a configured model name is {because}",
            );
        }
        Event::Inactive { layer, because } => {
            tracing::warn!(
                target: "tower_claude", layer, decision = "inactive", because,
                "the layer cannot act on these requests",
            );
        }
        Event::Cache {
            layer,
            decision,
            because,
        } => {
            // A failed response for several callers has one event of its call only.
            let is_lost = decision == CacheDecision::Joined && !because.is_empty();
            let decision = decision.as_str();
            if decision == CacheDecision::Stale.as_str() {
                line!(
                    begins_incident(sink, event), warn or info,
                    layer, decision, because,
                    "returned a stored response that is past its lifetime",
                );
            } else {
                line!(
                    is_lost, info or debug,
                    layer, decision, because, "cache: {decision}",
                );
            }
        }
        Event::Batch {
            layer,
            decision,
            because,
            calls,
            batch,
            model,
            latency,
            ..
        } => {
            let name = batch_decision(decision);
            let (batch, model) = (batch.map(escaped), model.map(escaped));
            let duration_ms = latency.map(millis);
            if decision == BatchDecision::Ambiguous {
                tracing::warn!(
                    target: "tower_claude", layer, decision = name, because, calls,
                    "the creation of a batch got no clear answer: it is looked for in the list",
                );
            } else {
                line!(
                    is_of_batch(decision), info or debug,
                    layer, decision = name, because, calls, batch = batch.as_deref(),
                    model = model.as_deref(), duration_ms,
                    "{}: {calls} calls", name.replace('_', " "),
                );
            }
        }
        Event::Unauthorized {
            layer,
            scope,
            request_id,
        } => {
            tracing::error!(
                target: "tower_claude", layer, decision = "unauthorized", scope = text(Some(scope)),
                credential = tag(Some(scope)), request_id = request_id.map(escaped).as_deref(),
                "the server does not accept the credential (401)",
            );
        }
        Event::AttemptEnded(end) => {
            tracing::debug!(
                target: "tower_claude", layer = end.layer, decision = "attempt_ended",
                ending = end.ending.as_str(), class = kind_of(&end.class),
                attempt = end.attempt, model = end.model.map(escaped).as_deref(),
                scope = text(end.scope), credential = credential_tag(end.credential),
                endpoint = end.endpoint.as_str(),
                status = end.status.map(|status| status.as_u16()), wait_ms = millis(end.wait),
                first_content_ms = end.first_content.map(millis),
                duration_ms = millis(end.duration), input_tokens = end.usage.input_tokens,
                cache_creation_tokens = end.usage.cache_creation_input_tokens,
                cache_read_tokens = end.usage.cache_read_input_tokens,
                output_tokens = end.usage.output_tokens, cost_usd = cost(end.bill),
                request_id = end.request_id.map(escaped).as_deref(),
                cause = end.cause.map(escaped).as_deref(),
                "{end}",
            );
        }
        Event::CallEnded(end) => {
            line!(
                !end.is_ordinary(), info or debug,
                layer = end.layer, decision = "call_ended", ending = end.ending.as_str(),
                class = kind_of(&end.class), model = end.model.map(escaped).as_deref(),
                asked = end.asked.filter(|_| end.asked != end.model).map(escaped).as_deref(),
                scope = text(end.scope), credential = credential_tag(end.credential),
                endpoint = end.endpoint.as_str(),
                status = end.status.map(|status| status.as_u16()), attempts = end.attempts,
                wait_ms = millis(end.wait), backoff_ms = millis(end.backoff),
                first_content_ms = end.first_content.map(millis),
                duration_ms = millis(end.duration), input_tokens = end.usage.input_tokens,
                cache_creation_tokens = end.usage.cache_creation_input_tokens,
                cache_read_tokens = end.usage.cache_read_input_tokens,
                output_tokens = end.usage.output_tokens, cost_usd = cost(end.bill),
                request_id = end.request_id.map(escaped).as_deref(),
                refused_by = end.rejection.as_ref().map(|rejection| rejection.by),
                because = end.rejection.as_ref().map(|rejection| rejection.reason.as_str()),
                fallback = end.fallback.map(Kind::as_str),
                cause = end.cause.map(escaped).as_deref(),
                "{end}",
            );
        }
    }
}

/// Returns the name of a decision in lines, where it stands beside those of other layers.
const fn batch_decision(decision: BatchDecision) -> &'static str {
    match decision {
        BatchDecision::Passed => "batch_passed",
        BatchDecision::Queued => "batch_queued",
        BatchDecision::Attached => "batch_attached",
        BatchDecision::Created => "batch_created",
        BatchDecision::Ambiguous => "batch_ambiguous",
        BatchDecision::Found => "batch_found",
        BatchDecision::NotCreated => "batch_not_created",
        BatchDecision::Ended => "batch_ended",
        BatchDecision::Answered => "batch_answered",
        BatchDecision::Failed => "batch_failed",
        BatchDecision::WentLive => "batch_went_live",
        BatchDecision::Cancelled => "batch_cancelled",
    }
}

/// Returns true if a decision is about a whole batch, or about a call that was not answered by it.
const fn is_of_batch(decision: BatchDecision) -> bool {
    !matches!(
        decision,
        BatchDecision::Passed
            | BatchDecision::Queued
            | BatchDecision::Attached
            | BatchDecision::Answered
    )
}
