//! The prices and facts of the simulated cache.

/// Prices as multiples of plain input, and facts of the server's cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prices {
    pub(super) read: f64,
    pub(super) write_5m: f64,
    pub(super) write_1h: f64,
    /// The least tokens of a cached prefix.
    pub(super) least_tokens: u64,
    pub(super) stores: usize,
}
