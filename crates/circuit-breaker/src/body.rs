//! What the body of an answer tells a circuit.

use std::fmt;

use tower_claude_core::{
    Class, ClassifyResponse, Kind, Observe, Outcome,
    breaker::{Generation, Verdict, Verdicts},
};
use tower_claude_wire::{ApiError, StreamState};

use crate::ticket::Ticket;

/// Watches an answer: its first content is the success, a break after that a failure of its own.
pub struct Watcher<C> {
    ticket: Ticket,
    /// Once it has succeeded.
    began: Option<Generation>,
    classifier: C,
}

impl<C: ClassifyResponse> Watcher<C> {
    pub(crate) const fn new(ticket: Ticket, classifier: C) -> Self {
        Self {
            ticket,
            began: None,
            classifier,
        }
    }

    /// The content has begun.
    pub(crate) fn succeed(&mut self) {
        if self.began.is_none() {
            self.began = self.ticket.settle(Verdict::Success, Kind::Success);
        }
    }
}

impl<C: ClassifyResponse> Observe for Watcher<C> {
    fn stream_error(&self, error: &ApiError) -> Class {
        self.classifier.stream_error(error)
    }

    fn progress(&mut self, stream: &StreamState) {
        if self.began.is_none()
            && (stream.has_content() || stream.is_complete() || stream.is_foreign())
        {
            self.succeed();
        }
    }

    fn end(mut self, outcome: Outcome) {
        match (outcome, self.began) {
            (Outcome::Complete { .. }, None) => self.succeed(),
            (Outcome::Failed { class, .. }, None) => {
                let verdict = Verdicts::of(&class).availability;
                self.ticket.settle(verdict, class.kind);
            }
            (Outcome::Failed { class, .. }, Some(generation)) => {
                self.ticket.broke_off(generation, class);
            }
            // The ticket says what a drop means.
            _ => {}
        }
    }
}

impl<C> fmt::Debug for Watcher<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("began", &self.began.is_some())
            .finish_non_exhaustive()
    }
}
