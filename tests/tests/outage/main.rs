//! Outages in virtual time, over the real layers and the fake API: what they cost the server, how
//! fast they are over, and that nobody storms back. `cargo test -p tower-claude-tests --test outage
//! -- --nocapture` prints the figures.

#[path = "../common/mod.rs"]
mod common;

mod amplification;
mod herd;
mod patience;
mod probes;
mod recovery;
mod world;
