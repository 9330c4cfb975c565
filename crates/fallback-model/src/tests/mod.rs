//! Unit tests of the synchronous parts, one file for each.

mod chains;
mod cooldown;
mod handle;
mod message;
mod selection;
mod triggers;
