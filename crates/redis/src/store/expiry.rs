//! Early ends of responses.

use std::time::{Duration, SystemTime};

use tower_claude_cache::{Entry, EntryParts};

use crate::store::codec::{Saved, stamp};

/// Returns the response with an early end. The response in memory keeps the end that it has.
pub(crate) fn early(known: Option<&Entry>, saved: &Saved) -> Entry {
    let stored_at = stamp(saved.parts.stored_at);
    match known.filter(|known| stamp(known.parts().stored_at) == stored_at) {
        Some(known) => known.clone(),
        None => refreshed_early(saved.parts.clone(), saved.took).into(),
    }
}

/// Returns the response as memory keeps it: fresh until a random time before its end, and stale
/// from then on.
pub(crate) fn refreshed_early(parts: EntryParts, took: Duration) -> EntryParts {
    cut_short(parts, took, fastrand::f64())
}

/// Cuts the fresh time by `took × -ln(1 - draw)`, the early expiry of `XFetch` at `beta` 1, and by
/// half of it at most. The stale time grows by as much.
pub(crate) fn cut_short(mut parts: EntryParts, took: Duration, draw: f64) -> EntryParts {
    let early = took.as_secs_f64() * -(1.0 - draw).ln();
    let half = parts.fresh_for / 2;
    let early = Duration::try_from_secs_f64(early).map_or(half, |early| early.min(half));
    parts.fresh_for -= early;
    parts.stale_for = parts.stale_for.saturating_add(early);
    parts
}

/// Returns the remaining time of a response, fresh or stale, by the clock of the system.
pub(crate) fn remaining(parts: &EntryParts) -> Duration {
    let age = SystemTime::now()
        .duration_since(parts.stored_at)
        .unwrap_or_default();
    let whole = parts.fresh_for.saturating_add(parts.stale_for);
    whole.saturating_sub(age)
}
