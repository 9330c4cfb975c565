//! The whole stack over a fake Claude in this process, in virtual time: what the caller sees, what
//! the server sees, and that nothing is left behind.

#[path = "../common/mod.rs"]
mod common;

mod bodies;
mod cancelling;
mod faults;
mod limits;
mod orders;
mod readiness;
mod shape;
mod telling;
mod unpolled;
