//! What the layers build on, checked piece by piece.

mod buffer_request;
mod call;
mod classify;
mod driver;
mod event;
mod frames;
mod observed;
mod prefix;
mod rejection;
mod request_body;
mod response_body;
mod saved_request;
mod scope;
