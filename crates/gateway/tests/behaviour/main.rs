//! The behaviour of a gateway: a module for each part, in one program because each program costs
//! seconds to build.

mod admin_api;
mod ca_file;
#[path = "../common/mod.rs"]
mod common;
mod configuration;
mod drain;
mod event_log;
mod grafana;
mod limits;
mod options;
mod proxies;
mod transparency;
mod user_messages;
mod webhook;

/// The process of [`common::process::GatewayProcess`].
#[cfg(target_os = "linux")]
#[test]
#[ignore = "the gateway of the other tests"]
fn gateway_process() {
    common::process::serve();
}
