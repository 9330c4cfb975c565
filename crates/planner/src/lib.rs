//! Capacity planning for the Claude API from recorded traffic.
#![forbid(unsafe_code)]

pub mod bucket;
pub mod demand;
pub mod read;
pub mod record;
pub mod replay;
pub mod rolling;
pub mod time;
pub mod traffic;
