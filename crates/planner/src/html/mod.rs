//! Reports as pages: one HTML file each, without scripts and without anything from elsewhere.
//!
//! The pictures are inline SVG as wide as their place, so that a page fits a phone, a screen and
//! paper. Each picture has a text alternative and the same figures as a table. All names from
//! records are escaped.

mod chart;
mod curve;
mod heat;
mod markup;
mod over_time;
mod page;
mod plan;
mod series;

pub use plan::plan;
