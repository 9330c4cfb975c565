//! The layer over the fake API, whose prompt cache follows the rules of the API.

mod common;
mod gate;
mod marking;
mod misses;
