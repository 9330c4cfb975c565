//! Strategy with complete knowledge. Every request waits in one queue at the server, first in,
//! first out over all clients, and is admitted at the time at which its charge fits, including its
//! future response. The simulation owns the queue.

use super::{Action, JobId, NewRequest, ResponseHead, Strategy};

#[derive(Debug)]
pub(super) struct Oracle;

impl Strategy for Oracle {
    fn submit(&mut self, _now: u64, ask: NewRequest, io: &mut Action) {
        io.send.push(ask.job);
    }

    fn on_response(&mut self, _now: u64, job: JobId, head: &ResponseHead, io: &mut Action) {
        if head.refused.is_some() {
            io.failed.push(job);
        }
    }
}
