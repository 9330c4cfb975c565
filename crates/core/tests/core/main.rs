//! What the layers build on, checked piece by piece.

mod buffered;
mod classify;
mod context;
mod event;
mod frames;
mod hold;
mod observed;
mod original;
mod prefix;
mod refusal;
mod request_body;
mod response_body;
mod scope;
