//! Capacity planning for the Claude API from recorded traffic.
//!
//! ```
//! use tower_claude_planner::{
//!     plan::{PlanOptions, plan},
//!     read::read,
//!     traffic::TrafficBuilder,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let log = r#"
//! {"t_start":"2026-11-28T09:12:03Z","model":"claude-sonnet-5-5","input":4808,"output":10}
//! {"t_start":"2026-11-28T09:12:04Z","model":"claude-sonnet-5-5","input":3180,"output":8}
//! "#;
//! let mut builder = TrafficBuilder::new(None);
//! let report = read("events.jsonl", log.as_bytes(), None, &mut |line, record| {
//!     builder.add(line, &record);
//! })?;
//! builder.end_file(report);
//! let traffic = builder.build().ok_or("no request")?;
//! let plan = plan(&traffic, &PlanOptions::default(), &mut |_step, _share| {})?;
//! println!("{}", plan.verdict); // pool sonnet-5.5 needs 7,264 to 48.1 k input tokens a minute …
//! assert_eq!(plan.pools[0].pool, "sonnet-5.5");
//! # Ok(())
//! # }
//! ```
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
