//! Settling a reservation at the end of the response.

use tokio::time::Instant;
use tower_claude_core::{
    Class, ClassifyResponse, Observe, Observed, Outcome, PendingEstimate, ResponseBody,
};
use tower_claude_wire::{ApiError, StreamState};

use crate::Reservation;

/// The response body of a limiter layer.
pub type GateBody<B, C> = ResponseBody<Observed<B, Settle<C>>>;

/// Bytes of `content_block_delta` data per output token, for streams that have not told their
/// usage yet: some 150 bytes carry a few tokens. Only a large overrun must show.
pub(super) const DELTA_BYTES_PER_TOKEN: u64 = 40;

/// Output tokens before the first report, and a quarter more before each next: short answers never
/// take the lock for it.
pub(super) const FIRST_REPORT: u32 = 256;

/// Keeps a reservation true while the response goes by, and settles it at its end.
#[derive(Debug)]
pub struct Settle<C> {
    reservation: Reservation,
    feedback: Option<Box<PendingEstimate>>,
    classify: C,
    input_known: bool,
    next_report: u32,
}

impl<C> Settle<C> {
    pub(super) const fn new(
        reservation: Reservation,
        feedback: Option<Box<PendingEstimate>>,
        classify: C,
    ) -> Self {
        Self {
            reservation,
            feedback,
            classify,
            input_known: false,
            next_report: FIRST_REPORT,
        }
    }
}

impl<C: ClassifyResponse> Observe for Settle<C> {
    fn stream_error(&self, error: &ApiError) -> Class {
        self.classify.stream_error(error)
    }

    fn progress(&mut self, stream: &StreamState) {
        if !self.input_known
            && let Some(input) = stream.usage().limited_input()
        {
            self.input_known = true;
            let now = Instant::now();
            // First what others in the queue are reckoned by, then the room for them.
            if let Some(feedback) = self.feedback.take() {
                feedback.give(stream.usage(), now);
            }
            self.reservation.true_up_input(input, now);
        }
        let told = stream.usage().limited_output().unwrap_or(0);
        let produced = told.max(stream.delta_bytes() / DELTA_BYTES_PER_TOKEN);
        if produced >= u64::from(self.next_report) {
            self.next_report = u32::try_from(produced + produced / 4).unwrap_or(u32::MAX);
            self.reservation.produced(produced, Instant::now());
        }
    }

    fn end(self, outcome: Outcome) {
        if let Some(feedback) = self.feedback
            && outcome.usage().limited_input().is_some()
        {
            feedback.give(outcome.usage(), Instant::now());
        }
        self.reservation.settle(outcome.into());
    }
}
