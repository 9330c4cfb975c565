//! What the layer does, against the fake API and in virtual time.
#![forbid(unsafe_code)]

mod common;

mod hands;
mod opening;
mod probing;
mod scopes;
mod streams;
