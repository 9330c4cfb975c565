//! Tests of the adaptors over real sockets. No test depends on real time: every wait is for bytes,
//! for the server's log or for a task. If a client's timeout must pass, time is paused and so
//! passes at once.

mod around;
mod bodies;
mod common;
mod errors;
mod redirects;
mod within;
