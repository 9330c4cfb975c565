//! Capacity planning for the Claude API from recorded traffic.
#![forbid(unsafe_code)]

pub mod bucket;
pub mod capacity;
pub mod demand;
pub mod diagnose;
pub mod event;
pub mod evidence;
pub mod forecast;
pub mod html;
pub mod limits;
mod mark;
mod money;
pub mod plan;
pub mod read;
pub mod record;
pub mod replay;
pub mod rolling;
pub mod search;
pub mod text;
pub mod time;
pub mod traffic;
mod verdict;
pub mod what_if;

pub use mark::Mark;
