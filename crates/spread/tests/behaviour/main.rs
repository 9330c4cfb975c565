//! The behaviour of the layer, alone and in a stack.

mod alone;
mod common;
mod order;
mod retried;
