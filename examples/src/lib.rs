//! Runnable examples, against a fake Claude API in the same process: the layers in each form an
//! application uses them (`axum_service`, `hyper_service`, `reqwest_client`, `reqwest_middleware`,
//! `custom_pipeline`), and `storm`, which replays a real trace through them.
//!
//! `worker_queue` is a durable queue over Redis Streams, with several worker processes.
