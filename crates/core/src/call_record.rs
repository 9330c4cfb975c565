//! The record of a call for its events.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tower_claude_wire::{Bill, Usage};
use tracing::Span;

use crate::{class::Kind, event::EventSink, scope::Scope};

/// The facts about a call that its events report. The drivers of a stack share it.
///
/// It exists only if a driver reports events.
#[derive(Debug, Default)]
pub(crate) struct CallRecord {
    /// The number of the call in this process, from 1.
    pub(crate) number: u64,
    /// The destination of events of a driver without an observer.
    pub(crate) sink: EventSink,
    /// The number of drivers that have started to report this call.
    pub(crate) drivers: u32,
    /// The number of the driver that was the last to send the present attempt, so the innermost
    /// one. 0 after its end.
    pub(crate) sender: u32,
    /// The end of the call is reported. A further call with the same record begins anew.
    pub(crate) ended: bool,
    /// The model that the caller asked for.
    pub(crate) asked: Option<Box<str>>,
    /// The model that the last attempt was sent to.
    pub(crate) model: Option<Box<str>>,
    /// The scope of the last attempt that a driver knows.
    pub(crate) scope: Option<Scope>,
    pub(crate) attempts: u32,
    /// The waits before the present attempt, in all drivers.
    pub(crate) attempt_wait: Duration,
    /// The waits before all attempts.
    pub(crate) wait: Duration,
    /// The delays between attempts.
    pub(crate) backoff: Duration,
    /// The usage of all attempts.
    pub(crate) usage: Usage,
    /// The sum of the bills of the attempts.
    bill: Option<Bill>,
    /// The price of an attempt that reported its usage is not known.
    has_unknown_price: bool,
    /// The id of the last response.
    pub(crate) request_id: Option<Box<str>>,
    /// The cause of the last transport error.
    pub(crate) cause: Option<Box<str>>,
    /// The span of the call, if a subscriber gets it.
    pub(crate) span: Option<Span>,
    /// The span of the present attempt, if a subscriber gets it, and the number of the innermost
    /// driver that has sent it.
    pub(crate) attempt_span: Option<Span>,
    pub(crate) span_driver: u32,
    /// The failure for which the call was sent to another model.
    pub(crate) fallback: Option<Kind>,
}

impl CallRecord {
    /// Creates the record of a call, with a number of its own.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            ..Self::default()
        }
    }

    /// Adds the bill of an attempt with this usage.
    pub(crate) fn add_bill(&mut self, bill: Option<Bill>, usage: &Usage) {
        match bill {
            Some(bill) => *self.bill.get_or_insert_default() += bill,
            None => self.has_unknown_price |= !usage.is_empty(),
        }
    }

    /// Returns the sum of the bills, if the price of each reported usage is known.
    pub(crate) fn bill(&self) -> Option<Bill> {
        self.bill.filter(|_| !self.has_unknown_price)
    }

    /// Adds the usage of an attempt.
    pub(crate) fn add_usage(&mut self, usage: &Usage) {
        // Counts of iterations include the others, so the sums are of what counts for each attempt.
        let sum = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.saturating_add(b)),
            (a, b) => a.or(b),
        };
        let total = &mut self.usage;
        if total.iterations_input.or(usage.iterations_input).is_some() {
            total.iterations_input = sum(total.limited_input(), usage.limited_input());
        }
        if total
            .iterations_output
            .or(usage.iterations_output)
            .is_some()
        {
            total.iterations_output = sum(total.limited_output(), usage.limited_output());
        }
        let add = |total: &mut Option<u64>, count| *total = sum(*total, count);
        add(&mut total.input_tokens, usage.input_tokens);
        add(
            &mut total.cache_creation_input_tokens,
            usage.cache_creation_input_tokens,
        );
        add(
            &mut total.cache_read_input_tokens,
            usage.cache_read_input_tokens,
        );
        add(&mut total.output_tokens, usage.output_tokens);
        add(&mut total.thinking_tokens, usage.thinking_tokens);
    }
}
