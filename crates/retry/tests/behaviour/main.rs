//! The behaviour of the layer over a scripted service in paused time.
#![forbid(unsafe_code)]

mod api;
mod budget;
mod cancel;
mod fake;
mod nested;
mod policies;
mod requests;
mod streams;
mod timeouts;
mod waits;
