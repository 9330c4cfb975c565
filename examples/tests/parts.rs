//! The unit tests inside the parts of `storm`. Cargo builds an example either to run or to be
//! tested, and `cli.rs` runs it.
#![allow(dead_code)]

#[path = "../storm/answer.rs"]
mod answer;
#[path = "../storm/cli.rs"]
mod cli;
#[path = "../storm/incidents.rs"]
mod incidents;
#[path = "../storm/layers.rs"]
mod layers;
#[path = "../storm/live.rs"]
mod live;
#[path = "../storm/load.rs"]
mod load;
#[path = "../storm/measure.rs"]
mod measure;
#[path = "../storm/plain.rs"]
mod plain;
#[path = "../storm/print.rs"]
mod print;
#[path = "../storm/replay.rs"]
mod replay;
#[path = "../storm/report.rs"]
mod report;
#[path = "../storm/sdk.rs"]
mod sdk;
#[path = "../storm/trace.rs"]
mod trace;
