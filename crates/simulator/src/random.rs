//! Seeded random numbers, one stream per purpose, so that a change of one does not move the others.

use std::f64::consts::TAU;

/// What a stream is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Sizes,
    Arrivals,
    Network,
    Strategy,
}

/// The stream of one purpose and client.
pub(crate) fn stream(seed: u64, purpose: Purpose, client: usize) -> fastrand::Rng {
    let salt = (purpose as u64) << 32 | client as u64;
    // Neighbouring seeds must not give neighbouring streams.
    let mixed =
        (seed ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    fastrand::Rng::with_seed(mixed ^ mixed >> 32)
}

/// Exponential with this mean.
pub(crate) fn exponential(rng: &mut fastrand::Rng, mean: f64) -> f64 {
    -mean * (1.0 - rng.f64()).ln()
}

/// Standard normal (Box and Muller).
pub(crate) fn normal(rng: &mut fastrand::Rng) -> f64 {
    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (TAU * rng.f64()).cos()
}

/// Lognormal with this mean; `sigma` is that of the logarithm.
pub(crate) fn lognormal(rng: &mut fastrand::Rng, mean: f64, sigma: f64) -> f64 {
    mean * (sigma * normal(rng) - sigma * sigma / 2.0).exp()
}
