//! Request coalescing: one call to the inner service, shared by all equal requests in flight.
//!
//! The first caller leads: it makes the call. The others subscribe to its response. The inner body
//! belongs to the [`SharedFetch`](shared_fetch::SharedFetch), and whichever subscriber wants the
//! next frame polls it for all. A slow reader or a cancelled reader therefore cannot delay the
//! others.

pub(crate) mod fetch_future;
pub(crate) mod frame_buffer;
pub(crate) mod leader_call;
pub(crate) mod shared_fetch;
pub(crate) mod state;
mod waker_set;
