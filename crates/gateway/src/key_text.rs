//! The texts of keys: their prefixes and hashes, and the hosts that they may be sent to.

use blake3::Hash;
use http::Uri;

/// The prefix of every gateway key, by which it is recognized in logs and on its way upstream.
pub const KEY_PREFIX: &str = "tcg-";

/// The prefix of the keys and tokens of Anthropic.
const ANTHROPIC_PREFIX: &str = "sk-ant-";

/// The random bytes of a key.
const KEY_BYTES: usize = 32;

/// Creates a gateway key. Returns the key, and its hash for the configuration.
///
/// # Errors
/// Returns an error if the operating system has no random bytes.
pub fn new_key() -> Result<(String, String), NoRandomBytes> {
    let mut random = [0; KEY_BYTES];
    let provider = rustls::crypto::ring::default_provider();
    provider
        .secure_random
        .fill(&mut random)
        .map_err(|_| NoRandomBytes)?;
    let digits = Hash::from_bytes(random).to_hex();
    let key = format!("{KEY_PREFIX}{digits}");
    let hash = blake3::hash(key.as_bytes()).to_hex().to_string();
    Ok((key, hash))
}

/// The error of [`new_key`]: the operating system has no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NoRandomBytes;

impl std::fmt::Display for NoRandomBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the operating system has no random bytes")
    }
}

impl std::error::Error for NoRandomBytes {}

/// Parses the hash of a key in hexadecimal digits.
pub(crate) fn parse_hash(hash: &str) -> Option<Hash> {
    Hash::from_hex(hash).ok()
}

/// Returns true for a key or token of Anthropic.
pub(crate) fn is_anthropic_key(key: &[u8]) -> bool {
    key.starts_with(ANTHROPIC_PREFIX.as_bytes())
}

/// Returns true if keys of Anthropic may be sent to this URL: to Anthropic's hosts by https, and
/// to this machine.
pub(crate) fn may_receive_anthropic_key(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default().to_ascii_lowercase();
    let is_anthropic = host == "anthropic.com" || host.ends_with(".anthropic.com");
    is_loopback(&host) || (is_anthropic && url.scheme_str() == Some("https"))
}

/// Returns true if the host is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let address = address.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_key_has_the_hash_that_is_returned() {
        let (key, hash) = new_key().expect("random bytes");
        assert!(key.starts_with(KEY_PREFIX));
        assert_eq!(parse_hash(&hash), Some(blake3::hash(key.as_bytes())));
        assert_ne!(new_key().expect("random bytes").0, key);
    }

    #[test]
    fn anthropic_keys_go_to_anthropic_and_to_this_machine_only() {
        for (url, is_allowed) in [
            ("https://api.anthropic.com", true),
            ("https://API.Anthropic.com:443", true),
            ("http://api.anthropic.com", false),
            ("https://anthropic.com.evil.example", false),
            ("https://evilanthropic.com", false),
            ("http://127.0.0.1:9", true),
            ("http://[::1]:9", true),
            ("http://localhost", true),
            ("http://127.0.0.1.evil.example", false),
        ] {
            let url: Uri = url.parse().expect("a URL");
            assert_eq!(may_receive_anthropic_key(&url), is_allowed, "{url}");
        }
    }
}
