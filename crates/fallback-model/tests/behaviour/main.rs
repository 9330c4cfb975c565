//! The behaviour of the layer over a scripted service, in paused time.
#![forbid(unsafe_code)]

mod api;
mod attempts;
mod fake;
mod falling;
mod flapping;
mod holding;
mod message;
mod names;
mod outage;
mod reports;
mod sharing;
