//! The layer over the fake API, in paused time.

mod api;
mod crash;
mod creation;
mod failures;
mod file;
mod headers;
mod polling;
mod waiting;
