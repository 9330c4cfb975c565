//! Full knowledge: every request waits at the server's own door, first in, first out over all clients,
//! and is let in at the instant its charge fits, the answer it will get included. The world keeps the door.

use super::{Ask, Head, Io, JobId, Strategy};

#[derive(Debug)]
pub(super) struct Oracle;

impl Strategy for Oracle {
    fn submit(&mut self, _now: u64, ask: Ask, io: &mut Io) {
        io.send.push(ask.job);
    }

    fn on_response(&mut self, _now: u64, job: JobId, head: &Head, io: &mut Io) {
        if head.refused.is_some() {
            io.failed.push(job);
        }
    }
}
