//! What the body of an answer tells a circuit.

use std::fmt;

use tower_claude_core::{Class, ClassifyResponse, Observe, Outcome};
use tower_claude_wire::{ApiError, StreamState};

use crate::ticket::Ticket;

/// Watches an answer: its first content is the success, a break after that a failure of its own.
pub struct Watcher<C> {
    ticket: Ticket,
    classifier: C,
}

impl<C: ClassifyResponse> Watcher<C> {
    pub(crate) const fn new(ticket: Ticket, classifier: C) -> Self {
        Self { ticket, classifier }
    }

    /// The content has begun.
    pub(crate) fn succeed(&mut self) {
        self.ticket.begin();
    }
}

impl<C: ClassifyResponse> Observe for Watcher<C> {
    fn stream_error(&self, error: &ApiError) -> Class {
        self.classifier.stream_error(error)
    }

    fn progress(&mut self, stream: &StreamState) {
        if stream.has_content() || stream.is_complete() || stream.is_not_claude() {
            self.succeed();
        }
    }

    fn end(mut self, outcome: Outcome) {
        match outcome {
            Outcome::Complete { .. } => self.ticket.complete(),
            Outcome::Failed { class, .. } => self.ticket.broke_off(class),
            // The ticket says what a drop means.
            _ => {}
        }
    }
}

impl<C> fmt::Debug for Watcher<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}
