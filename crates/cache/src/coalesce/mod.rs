//! Request coalescing: one call to the inner service, shared by all equal requests in flight.
//!
//! The first caller leads: it makes the call. The others subscribe to its response. A subscriber
//! that waits for the head polls the call, and a subscriber that wants the next frame polls the
//! inner body, for all others. A slow caller or a cancelled caller therefore cannot delay them.

pub(crate) mod fetch_future;
pub(crate) mod frame_buffer;
pub(crate) mod leader_call;
pub(crate) mod shared_fetch;
pub(crate) mod state;
mod waker_set;
