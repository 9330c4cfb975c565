//! The whole stack over a fake Claude in this process, in paused time. The tests check the
//! responses, the requests at the server, and that no call leaves anything behind.

#[path = "../common/mod.rs"]
mod common;

mod bodies;
mod cancelling;
mod events;
mod faults;
mod limits;
mod misuse;
mod orders;
mod places;
mod readiness;
mod shape;
mod unpolled;
mod verdicts;
