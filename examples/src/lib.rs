//! Runnable examples: storm replays a real trace through the layers.
