//! Capacity planning for the Claude API from recorded traffic.
//!
//! * [`read`] converts logs to the [normal form](record), and a
//!   [`TrafficBuilder`](traffic::TrafficBuilder) collects them in compact form, with a
//!   [`Coverage`](traffic::Coverage) of the gaps.
//! * [`demand`] finds what callers wanted, without waits and retries.
//! * [`replay`] sends it through the limiter of the layers in virtual time, and [`bucket`] does the
//!   same as fast arithmetic, for the [`search`] of the least limit.
//! * [`plan`], [`diagnose`] and [`evidence`] return reports: plain data that serde writes as JSON,
//!   with a `text()` of at most 40 lines. [`html`] draws them as pages.
//!
//! Nothing reads a clock, a file or the network.
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

// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
