//! Reports as pages: one HTML file each, without scripts and without anything from elsewhere.
//!
//! The pictures are inline SVG as wide as their place, so that a page fits a phone, a screen and
//! paper. Each picture has a text alternative and the same figures as a table. All names from
//! records are escaped.

mod changes;
mod chart;
mod curve;
mod diagnosis;
mod evidence;
mod heat;
mod markup;
mod over_time;
mod page;
mod plan;
mod series;
mod tiers;

pub use diagnosis::diagnosis;
pub use evidence::evidence;
pub use plan::plan;
