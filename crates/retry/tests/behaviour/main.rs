//! What the layer does, one module per behaviour, over a scripted service and paused time.
#![forbid(unsafe_code)]

mod api;
mod budget;
mod cancel;
mod fake;
mod nested;
mod requests;
mod streams;
mod timeouts;
mod waits;
