//! The hash that identifies a credential.

use std::{hash::BuildHasher, sync::LazyLock};

use foldhash::{SharedSeed, quality::SeedableRandomState};
use http::{HeaderMap, HeaderName, header::AUTHORIZATION};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The key of the hash. It is random for each process, so a hash identifies nothing outside of it.
static HASH_KEY: LazyLock<SeedableRandomState> = LazyLock::new(|| {
    let seed = std::hash::RandomState::new().hash_one("credential");
    SeedableRandomState::with_seed(seed, SharedSeed::global_random())
});

/// Returns the keyed hash of `x-api-key`, or else of `authorization`. Returns 0 if both are absent.
pub(crate) fn credential(headers: &HeaderMap) -> u64 {
    headers
        .get(&API_KEY)
        .or_else(|| headers.get(AUTHORIZATION))
        .map_or(0, |value| HASH_KEY.hash_one(value.as_bytes()))
}
