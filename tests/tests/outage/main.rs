//! Outages in virtual time, over the real layers and the fake API: their cost for the server, the
//! time until they are over, and the load when the server is back. The command
//! `cargo test -p tower-claude-tests --test outage -- --nocapture` prints the figures.

#[path = "../common/mod.rs"]
mod common;

mod amplification;
mod herd;
mod patience;
mod probes;
mod recovery;
mod world;
