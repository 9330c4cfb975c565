mod config;
mod link;
#[cfg(feature = "cache")]
mod store;
