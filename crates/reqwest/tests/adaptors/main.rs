//! The adaptors over real sockets. Nothing here looks at a clock: every wait is for bytes, for the server's log or for a
//! task. Where a client's timeout shall pass, time is paused and so passes at once.

mod around;
mod bodies;
mod common;
mod errors;
mod redirects;
mod within;
