//! The pure parts, one file each.

mod chains;
mod choice;
mod last;
mod outage;
mod tallies;
mod triggers;
