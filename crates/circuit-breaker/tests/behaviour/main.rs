//! Behaviour tests against the fake API, in virtual time.
#![forbid(unsafe_code)]

mod common;

mod manual_control;
mod opening;
mod probing;
mod scopes;
mod streams;
