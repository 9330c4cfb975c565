//! The strategies of others: a fixed window, a number of calls, and no batches at all.

use super::load::{Call, Load, MINUTE, Tally, live_time};

/// The time at which a queue becomes a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Flush {
    /// This long after its first call.
    Window(f64),
    /// As soon as it has this many calls.
    Size(usize),
    /// Never: each call is an ordinary one.
    Never,
}

/// The time between two polls.
const POLL: f64 = MINUTE;

/// Runs a strategy that waits for its batches, however long they take, and sends again what failed.
pub(super) fn run(load: &Load, flush: Flush, calls: &[Call], rng: &mut fastrand::Rng) -> Tally {
    let mut tally = Tally {
        calls: calls.len(),
        ..Tally::default()
    };
    for call in calls {
        tally.full += call.cost;
    }
    if flush == Flush::Never {
        for call in calls {
            tally.paid += call.cost;
            let at = call.at + live_time(rng);
            tally.answer(call, at, false);
        }
        return tally;
    }
    // The calls in the order in which they enter the queue: new ones, and those that failed.
    let mut again: Vec<(f64, Call)> = Vec::new();
    let mut next = 0;
    loop {
        again.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut queue: Vec<Call> = Vec::new();
        let mut sent_at = f64::INFINITY;
        loop {
            let new = calls.get(next).map_or(f64::INFINITY, |call| call.at);
            let old = again.last().map_or(f64::INFINITY, |(at, _)| *at);
            let at = new.min(old);
            if at > sent_at || at == f64::INFINITY {
                break;
            }
            let call = if old <= new {
                again.pop().map(|(_, call)| call)
            } else {
                next += 1;
                calls.get(next - 1).copied()
            };
            queue.extend(call);
            match flush {
                Flush::Window(time) if queue.len() == 1 => sent_at = at + time,
                Flush::Size(count) if queue.len() >= count => {
                    sent_at = at;
                    break;
                }
                _ => {}
            }
        }
        if queue.is_empty() {
            return tally;
        }
        if sent_at == f64::INFINITY {
            // The rest of a number of calls, which would wait for ever: sent at the end of the run.
            let last = calls.last().map_or(0.0, |call| call.at);
            sent_at = queue.iter().map(|call| call.at).fold(last, f64::max);
        }
        tally.batches += 1;
        let latency = load.server.latency(rng);
        let answered = sent_at + (latency / POLL).ceil() * POLL;
        for call in queue {
            if rng.f64() < load.server.errors {
                again.push((answered, call));
            } else {
                tally.paid += call.cost / 2.0;
                tally.answer(&call, answered, true);
            }
        }
    }
}
