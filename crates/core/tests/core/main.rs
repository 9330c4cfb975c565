//! Tests of the items that layers build on, by module.

mod buffer_request;
mod call;
mod classify;
mod event;
mod frames;
mod hold;
mod observed;
mod prefix;
mod rejection;
mod request_body;
mod response_body;
mod saved_request;
mod scope;
