//! The layer over the fake API, whose prompt cache follows the rules of the API.

mod common;
mod gate;
mod keep_alive;
mod marking;
mod misses;
