//! The events at the end of attempts and calls, and the lines of the log.

#[path = "../common/mod.rs"]
mod common;
mod costs;
mod ends;
mod incident;
mod lines;
mod metrics;
mod rejected;
mod rules;
mod spans;
mod stacks;
