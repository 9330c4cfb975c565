//! What the layer does, one module per behaviour, over a scripted service and paused time.
#![forbid(unsafe_code)]

mod api;
mod fake;
mod falling;
mod flapping;
mod holding;
mod ledger;
mod outage;
mod saying;
mod sharing;
mod words;
