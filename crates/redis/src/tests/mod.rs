mod config;
mod limiter;
mod link;
#[cfg(feature = "cache")]
mod store;
