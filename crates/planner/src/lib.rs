//! Capacity planning for the Claude API from recorded traffic.
#![forbid(unsafe_code)]

pub mod read;
pub mod record;
pub mod time;
