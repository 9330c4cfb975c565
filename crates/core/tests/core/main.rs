//! Tests of the items that layers build on, by module.

mod body_end;
mod buffer_request;
mod call;
mod classify;
mod driver;
mod error_text;
mod event;
mod frames;
mod prefix;
mod prefix_and_server;
mod prior;
mod redirect;
mod rejection;
mod request_body;
mod reroute;
mod response_body;
mod saved_request;
mod scope;
mod upload;
mod usage_bound;
mod verdicts;
