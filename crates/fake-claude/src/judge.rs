//! What becomes of a request: one step under the lock, from the log entry to the admission.

use std::sync::Arc;

use http::StatusCode;

use crate::builder::{Config, HeaderSnapshot};
use crate::fault::Fault;
use crate::headers::{Pool, Snapshot};
use crate::log::{Attempt, Endpoint};
use crate::model::Charge;
use crate::reply::ErrorReply;
use crate::state::{Now, Shared, State, Ticket};
use crate::validate::Call;

/// What to answer.
pub(crate) enum Verdict {
    /// An error, with the levels where they are known.
    Refuse(ErrorReply, Option<Snapshot>),
    /// No answer: the connection breaks.
    Reset,
    /// A message.
    Answer(Ticket, Option<Fault>, Option<Snapshot>),
    /// A small answer that costs nothing more.
    Serve(Option<Snapshot>),
}

/// Logs the attempt and decides.
pub(crate) fn judge(
    shared: &Arc<Shared>,
    call: &Call,
    problem: Option<ErrorReply>,
) -> (usize, Verdict) {
    let mut state = shared.lock();
    // Under the lock, so that the log's order is the clock's.
    let now = shared.now();
    let index = state.record(entry(&shared.config, call, now));
    let verdict = decide(shared, &mut state, call, problem, now, index);
    let attempt = &mut state.log[index];
    match &verdict {
        Verdict::Refuse(reply, _) => {
            attempt.status = reply.status.as_u16();
            attempt.error_type = Some(reply.kind).filter(|kind| !kind.is_empty());
            attempt.error_code = reply.code;
            attempt.finished_at = Some(now.since_start());
        }
        Verdict::Reset => attempt.finished_at = Some(now.since_start()),
        Verdict::Serve(_) => {
            attempt.status = StatusCode::OK.as_u16();
            attempt.finished_at = Some(now.since_start());
            attempt.completed = true;
        }
        Verdict::Answer(_, fault, _) => {
            attempt.fault = fault.as_ref().map(Fault::name);
        }
    }
    drop(state);
    shared.changed.notify_waiters();
    (index, verdict)
}

fn entry(config: &Config, call: &Call, now: Now) -> Attempt {
    let at = now.since_start();
    Attempt {
        tag: call.tag.clone(),
        endpoint: call.endpoint,
        at,
        group: Arc::clone(&call.group),
        model: Arc::clone(&call.model),
        stream: call.stream,
        retry_count: call.retry_count,
        in_incident: config.incidents.iter().any(|incident| incident.covers(at)),
        ..Attempt::default()
    }
}

fn decide(
    shared: &Arc<Shared>,
    state: &mut State,
    call: &Call,
    problem: Option<ErrorReply>,
    now: Now,
    index: usize,
) -> Verdict {
    let config = &shared.config;
    let fault = next_fault(config, state, call, now);
    // Trouble in front of the API strikes whoever comes, right or wrong.
    if let Some((fault, injected)) = fault.as_ref().filter(|(fault, _)| !fault.needs_admission()) {
        state.log[index].fault = Some(fault.name());
        if *injected {
            consume(state);
        }
        return match ErrorReply::of_fault(fault, now.wall) {
            Some(reply) => {
                let levels = snapshot(state, call, now);
                Verdict::Refuse(reply, levels)
            }
            None => Verdict::Reset,
        };
    }
    if let Some(problem) = problem {
        let levels = snapshot(state, call, now);
        return Verdict::Refuse(problem, levels);
    }
    match call.endpoint {
        Endpoint::Messages => {}
        Endpoint::CountTokens => return count(state, call, now, index),
        _ => return Verdict::Serve(None),
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
    };
    let id = match state.accounting.admit(now.nanos, &call.group, charge) {
        Ok(id) => id,
        Err(rejected) => {
            state.log[index].dimension = Some(rejected.dimension);
            let gauges = state.accounting.gauges(now.nanos, &call.group);
            let levels = snapshot(state, call, now);
            return Verdict::Refuse(ErrorReply::rejected(&rejected, &gauges), levels);
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
    let ticket = Ticket {
        shared: Arc::clone(shared),
        index,
        id,
        priority,
        ended: false,
    };
    // The true count is known almost at once; only the levels already read still show the estimate.
    let actual = call.input - call.cache_read;
    state.accounting.correct_input(now.nanos, id, actual);
    if let (Some(pool), Some(id)) = (&mut state.priority, priority) {
        pool.correct_input(now.nanos, id, actual);
    }
    state.log[index].charged_input = actual;
    Verdict::Answer(ticket, fault, levels)
}

fn count(state: &mut State, call: &Call, now: Now, index: usize) -> Verdict {
    let admitted = state
        .accounting
        .admit(now.nanos, &call.group, Charge::default());
    let levels = snapshot(state, call, now);
    match admitted {
        Ok(id) => {
            state.accounting.finish(now.nanos, id);
            Verdict::Serve(levels)
        }
        Err(rejected) => {
            state.log[index].dimension = Some(rejected.dimension);
            let gauges = state.accounting.gauges(now.nanos, &call.group);
            Verdict::Refuse(ErrorReply::rejected(&rejected, &gauges), levels)
        }
    }
}

/// The fault this request would meet, and whether it is the injected one.
fn next_fault(config: &Config, state: &mut State, call: &Call, now: Now) -> Option<(Fault, bool)> {
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

/// The levels to show for this request; none when it named nothing that has any.
pub(crate) fn snapshot(state: &mut State, call: &Call, now: Now) -> Option<Snapshot> {
    let pool = match call.endpoint {
        Endpoint::Messages if call.fast => Pool::Fast,
        Endpoint::Messages => Pool::Standard,
        Endpoint::CountTokens => Pool::RequestsOnly,
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
        pool,
        gauges,
        priority,
        wall: now.wall,
    })
}
