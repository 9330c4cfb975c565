//! Behaviour of the layer, over scripted services and paused time.
#![forbid(unsafe_code)]

mod api;
mod coalescing;
mod detached;
mod fake;
mod isolation;
mod limits;
mod marks;
mod outside_store;
mod progress;
mod replay;
mod storing;
mod stress;
mod times;
