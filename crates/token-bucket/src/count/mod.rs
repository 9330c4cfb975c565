//! Counting input tokens by the API before the bucket charges them.

mod future;
mod layer;
mod memory;
mod request;
mod service;

pub use future::CountTokensFuture;
pub use layer::CountTokensLayer;
pub use service::CountTokens;

/// The name in events.
const NAME: &str = "count-tokens";
