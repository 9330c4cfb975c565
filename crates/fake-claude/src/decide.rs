//! Decision about a request: log entry, faults and admission, in one step under the lock.

use std::sync::Arc;

use http::StatusCode;

use crate::cloud::answer;
use crate::config::{Config, HeaderSnapshot};
use crate::fault::Fault;
use crate::headers::{PoolKind, Snapshot};
use crate::line::LineEnd;
use crate::log::{Attempt, Endpoint};
use crate::model::{CacheTokens, Charge};
use crate::reply::ErrorReply;
use crate::state::{InFlightAttempt, Now, Shared, State};
use crate::validate::ValidCall;

/// Kind of response to a request.
pub(crate) enum Decision {
    /// An error, with the levels if they are known.
    Refuse(ErrorReply, Option<Snapshot>),
    /// No response: the connection fails.
    Break(LineEnd),
    /// A message.
    Answer(
        InFlightAttempt,
        Option<Fault>,
        Option<Snapshot>,
        CacheTokens,
    ),
    /// A response that costs no tokens.
    Serve(Option<Snapshot>),
}

/// Logs the attempt and decides about the response.
pub(crate) fn decide(
    shared: &Arc<Shared>,
    call: &ValidCall,
    problem: Option<ErrorReply>,
) -> (usize, Decision) {
    let mut state = shared.lock();
    // Read under the lock, so that the log is in the order of time.
    let now = shared.now();
    let index = state.record(entry(&shared.config, call, now), &shared.config);
    let decision = outcome(shared, &mut state, call, problem, now, index);
    let attempt = &mut state.log[index];
    match &decision {
        Decision::Refuse(reply, _) => {
            attempt.status = answer::status(call.dialect, reply).as_u16();
            attempt.error_type = Some(reply.kind).filter(|kind| !kind.is_empty());
            attempt.error_code = reply.code;
            attempt.finished_at = Some(now.since_start());
        }
        Decision::Break(_) => attempt.finished_at = Some(now.since_start()),
        Decision::Serve(_) => {
            attempt.status = StatusCode::OK.as_u16();
            attempt.finished_at = Some(now.since_start());
            attempt.completed = true;
        }
        Decision::Answer(_, fault, ..) => {
            attempt.fault = fault.as_ref().map(Fault::name);
        }
    }
    drop(state);
    shared.changed.notify_waiters();
    (index, decision)
}

fn entry(config: &Config, call: &ValidCall, now: Now) -> Attempt {
    let at = now.since_start();
    Attempt {
        tag: call.tag.clone(),
        endpoint: call.endpoint,
        at,
        group: Arc::clone(&call.group),
        model: Arc::clone(&call.model),
        stream: call.stream,
        retry_count: call.retry_count,
        dropped_thinking: call.dropped_thinking,
        request: Some(Arc::clone(&call.request)),
        in_incident: config.incidents.iter().any(|incident| incident.covers(at)),
        ..Attempt::default()
    }
}

fn outcome(
    shared: &Arc<Shared>,
    state: &mut State,
    call: &ValidCall,
    problem: Option<ErrorReply>,
    now: Now,
    index: usize,
) -> Decision {
    let config = &shared.config;
    let fault = next_fault(config, state, call, now);
    // Faults before admission apply to every request, valid or not.
    if let Some((fault, injected)) = fault.as_ref().filter(|(fault, _)| !fault.needs_admission()) {
        state.log[index].fault = Some(fault.name());
        if *injected {
            consume(state);
        }
        return match ErrorReply::of_fault(fault, now.wall) {
            Some(reply) => {
                let levels = snapshot(state, call, now);
                Decision::Refuse(reply, levels)
            }
            None => Decision::Break(LineEnd::of(fault)),
        };
    }
    if let Some(problem) = problem {
        let levels = snapshot(state, call, now);
        return Decision::Refuse(problem, levels);
    }
    match call.endpoint {
        Endpoint::Messages => {}
        Endpoint::CountTokens | Endpoint::Batches => return admit_request(state, call, now, index),
        _ => return Decision::Serve(None),
    }
    let estimate = with_noise(call.estimate, config.admission_noise, &mut state.rng);
    let attempt = &mut state.log[index];
    attempt.estimated_input = estimate;
    attempt.input_level_before = state
        .accounting
        .gauges(now.nanos, &call.group)
        .input_tokens
        .level;
    let charge = Charge {
        input_estimate: estimate,
        max_output: call.max_tokens,
    };
    let id = match state.accounting.admit(now.nanos, &call.group, charge) {
        Ok(id) => id,
        Err(rejected) => {
            state.log[index].dimension = Some(rejected.dimension);
            let gauges = state.accounting.gauges(now.nanos, &call.group);
            let levels = snapshot(state, call, now);
            return Decision::Refuse(ErrorReply::rejected(&rejected, &gauges), levels);
        }
    };
    let priority = state
        .priority
        .as_mut()
        .and_then(|pool| pool.admit(now.nanos, "", charge).ok());
    if fault.as_ref().is_some_and(|(_, injected)| *injected) {
        consume(state);
    }
    let fault = fault.map(|(fault, _)| fault);
    let levels = (config.snapshot == HeaderSnapshot::Admission)
        .then(|| snapshot(state, call, now))
        .flatten();
    let (cache, write) = state.cache_tokens(call, now.nanos);
    if let Some(write) = write {
        state.cache_writes.insert(id, write);
    }
    let attempt = InFlightAttempt {
        shared: Arc::clone(shared),
        index,
        id,
        priority,
        ended: false,
    };
    // The actual count is known at once. Only the levels that were already read have the estimate.
    let actual = call.input - cache.read;
    state.accounting.correct_input(now.nanos, id, actual);
    if let (Some(pool), Some(id)) = (&mut state.priority, priority) {
        pool.correct_input(now.nanos, id, actual);
    }
    let logged = &mut state.log[index];
    logged.charged_input = actual;
    logged.cache_read = cache.read;
    logged.cache_creation = cache.written();
    Decision::Answer(attempt, fault, levels, cache)
}

/// Admits a request that costs no tokens.
fn admit_request(state: &mut State, call: &ValidCall, now: Now, index: usize) -> Decision {
    let admitted = state
        .accounting
        .admit(now.nanos, &call.group, Charge::default());
    let levels = snapshot(state, call, now);
    match admitted {
        Ok(id) => {
            state.accounting.finish(now.nanos, id);
            Decision::Serve(levels)
        }
        Err(rejected) => {
            state.log[index].dimension = Some(rejected.dimension);
            let gauges = state.accounting.gauges(now.nanos, &call.group);
            Decision::Refuse(ErrorReply::rejected(&rejected, &gauges), levels)
        }
    }
}

/// Returns the fault that applies to this request, and true if it was injected.
fn next_fault(
    config: &Config,
    state: &mut State,
    call: &ValidCall,
    now: Now,
) -> Option<(Fault, bool)> {
    if let Some((fault, _)) = state.injected.front() {
        return Some((fault.clone(), true));
    }
    if call.endpoint != Endpoint::Messages {
        return None;
    }
    let at = now.since_start();
    for incident in &config.incidents {
        if incident.covers(at)
            && incident.matches(&call.group, call.stream)
            && (incident.probability >= 1.0 || state.rng.f64() < incident.probability)
        {
            return Some((incident.fault.clone(), false));
        }
    }
    None
}

fn consume(state: &mut State) {
    if let Some((_, times)) = state.injected.front_mut() {
        *times -= 1;
        if *times == 0 {
            state.injected.pop_front();
        }
    }
}

fn with_noise(estimate: u64, share: f64, rng: &mut fastrand::Rng) -> u64 {
    if share == 0.0 {
        return estimate;
    }
    let factor = 1.0 + share * (2.0 * rng.f64() - 1.0);
    (estimate as f64 * factor).ceil() as u64
}

/// Returns the levels for the headers of this request. `None` if the request has no rate group.
pub(crate) fn snapshot(state: &mut State, call: &ValidCall, now: Now) -> Option<Snapshot> {
    let kind = match call.endpoint {
        Endpoint::Messages if call.fast => PoolKind::Fast,
        Endpoint::Messages => PoolKind::Standard,
        Endpoint::CountTokens | Endpoint::Batches => PoolKind::RequestsOnly,
        _ => return None,
    };
    if call.group.is_empty() || !call.authenticated {
        return None;
    }
    let gauges = state.accounting.gauges(now.nanos, &call.group);
    let priority = state
        .priority
        .as_mut()
        .map(|pool| pool.gauges(now.nanos, ""));
    Some(Snapshot {
        kind,
        gauges,
        priority,
        wall: now.wall,
    })
}
