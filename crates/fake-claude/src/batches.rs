//! Message Batches: the endpoints, and what a batch does with its requests.

pub(crate) mod call;
mod items;
pub(crate) mod outcome;
pub(crate) mod respond;
pub(crate) mod rules;
pub(crate) mod store;
