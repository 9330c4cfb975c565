//! Seeded random numbers. Each purpose has its own stream, so that a change of one does not affect
//! the others.

use std::f64::consts::TAU;

/// Purpose of a random stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Sizes,
    Arrivals,
    Network,
    Strategy,
}

/// Returns the stream of one purpose and client.
pub(crate) fn stream(seed: u64, purpose: Purpose, client: usize) -> fastrand::Rng {
    let salt = (purpose as u64) << 32 | client as u64;
    // Mixed, so that consecutive seeds give independent streams.
    let mixed =
        (seed ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    fastrand::Rng::with_seed(mixed ^ mixed >> 32)
}

/// Returns an exponential value with this mean.
pub(crate) fn exponential(rng: &mut fastrand::Rng, mean: f64) -> f64 {
    -mean * (1.0 - rng.f64()).ln()
}

/// Returns a standard normal value (Box and Muller).
pub(crate) fn normal(rng: &mut fastrand::Rng) -> f64 {
    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (TAU * rng.f64()).cos()
}

/// Returns a lognormal value with this mean. `sigma` is the deviation of the logarithm.
pub(crate) fn lognormal(rng: &mut fastrand::Rng, mean: f64, sigma: f64) -> f64 {
    mean * (sigma * normal(rng) - sigma * sigma / 2.0).exp()
}
