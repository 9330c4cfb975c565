//! The messages of a limiter in the form of the script.

use std::{fmt::Write, time::Duration};

use tower_claude_core::Scope;
use tower_claude_limiter::pool::{
    ShareLimit, ShareMessage, ShareOutcome, SharePeriod, ShareReply, SharedLevel,
};

use crate::{config::RedisConfig, error::RedisError, link::Item};

/// The fields of an answer before its limits, and those of each limit.
const HEAD: usize = 6;
const EACH: usize = 4;

/// Returns the keys of a scope, which have one hash tag.
pub(crate) fn keys(config: &RedisConfig, scope: &Scope) -> [Vec<u8>; 3] {
    let tag = config.hash(&[
        &scope.credential.to_le_bytes(),
        scope.host.as_bytes(),
        scope.endpoint.as_str().as_bytes(),
        scope.group.as_bytes(),
        &[u8::from(scope.fast)],
    ]);
    ["b", "f", "p"].map(|kind| config.key(&tag, kind))
}

/// Returns the arguments of a message. `process` is the name of this process.
pub(crate) fn arguments(id: String, process: &str, message: &ShareMessage) -> Vec<String> {
    let micros = |time: Duration| time.as_micros().to_string();
    let process = if message.has_settings { process } else { "" };
    let block = message.block;
    let mut arguments = vec![
        id,
        process.to_owned(),
        message.pause.map(micros).unwrap_or_default(),
        block.map(|it| micros(it.max_wait)).unwrap_or_default(),
        block.map_or_else(|| "0".to_owned(), |it| micros(it.work)),
        message.limits.len().to_string(),
    ];
    for limit in &message.limits {
        arguments.extend([
            name(limit),
            limit.cost.to_string(),
            limit.need.to_string(),
            limit.credit.to_string(),
            limit.ceiling.map(|it| it.to_string()).unwrap_or_default(),
        ]);
    }
    for limit in message.limits.iter().filter(|_| message.has_settings) {
        let settings = &limit.settings;
        let whole = |limit: Option<u64>| limit.map(|it| it.to_string()).unwrap_or_default();
        arguments.extend([
            whole(settings.configured),
            whole(settings.hint),
            whole(settings.learned),
            micros(settings.burst),
            settings.start.map(|it| it.to_string()).unwrap_or_default(),
        ]);
    }
    arguments
}

/// Returns the name of a limit in the store.
fn name(limit: &ShareLimit) -> String {
    let mut name = String::with_capacity(4);
    // Writing to a string does not fail.
    let _ = match limit.period {
        SharePeriod::RollingDay => write!(name, "r{}", limit.index),
        SharePeriod::Day { begins_at } => write!(name, "d{}:{begins_at}", limit.index),
        _ => write!(name, "m{}", limit.index),
    };
    name
}

/// Reads an answer.
pub(crate) fn reply(items: &[Item]) -> Result<ShareReply, RedisError> {
    let numbers: Option<Vec<i64>> = items
        .iter()
        .map(|item| match item {
            Item::Int(number) => Some(*number),
            _ => None,
        })
        .collect();
    let numbers = numbers.unwrap_or_default();
    if let [3] = numbers[..] {
        return Ok(ShareReply::new(ShareOutcome::StateMissing));
    }
    let [outcome, wait, pause, epoch, processes, quantum, limits @ ..] = &numbers[..] else {
        return Err(unexpected(items.len()));
    };
    if limits.len() % EACH != 0 {
        return Err(unexpected(items.len()));
    }
    let whole = |number: i64| u64::try_from(number).unwrap_or(0);
    let time = |micros: i64| Duration::from_micros(whole(micros));
    let outcome = match outcome {
        0 => ShareOutcome::Refused(time(*wait)),
        1 => ShareOutcome::Granted(time(*wait)),
        _ => ShareOutcome::Applied,
    };
    let mut reply = ShareReply::new(outcome);
    reply.pause = time(*pause);
    reply.epoch = whole(*epoch);
    reply.processes = u32::try_from(*processes).unwrap_or(u32::MAX);
    reply.quantum = time(*quantum);
    let limits = limits.chunks_exact(EACH).map(|limit| SharedLevel {
        level: limit[0],
        limit: whole(limit[1]),
        configured: whole(limit[2]),
        full_ago: time(limit[3]),
    });
    reply.limits = limits.collect();
    Ok(reply)
}

fn unexpected(items: usize) -> RedisError {
    RedisError::ScriptFailed {
        message: format!("an answer of {items} numbers, at least {HEAD} were expected"),
    }
}
