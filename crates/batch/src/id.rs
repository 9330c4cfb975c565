//! The names of calls, pools and batches. None of them reveals a prompt or a credential.

use std::{fmt, hash::BuildHasher};

/// A pool of calls that may share a batch: a keyed hash of their credential, host, tenant and
/// headers, which are equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId(pub [u8; 16]);

/// A keyed hash of a question: its pool and the body of the request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 16]);

/// A random number that this layer gives to a batch before it is created.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchNumber(pub u64);

/// The name of a call: its question, and its number among equal questions that are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct ItemId {
    /// The question.
    pub key: Key,
    /// The number among equal questions, from 0.
    pub ordinal: u32,
}

impl ItemId {
    /// Creates the name of a call.
    #[must_use]
    pub const fn new(key: Key, ordinal: u32) -> Self {
        Self { key, ordinal }
    }

    /// Returns the `custom_id` of the call in a batch. It is unique, also among all batches.
    #[must_use]
    pub fn custom_id(&self, batch: BatchNumber) -> String {
        format!("{}-{:x}-{:016x}", Hex(&self.key.0), self.ordinal, batch.0)
    }

    /// Reads a `custom_id`. `None` if another program has made it.
    #[must_use]
    pub fn parse_custom_id(text: &str) -> Option<(Self, BatchNumber)> {
        let (item, batch) = text.rsplit_once('-')?;
        let number = u64::from_str_radix(batch, 16).ok()?;
        (batch.len() == 16).then_some((item.parse().ok()?, BatchNumber(number)))
    }
}

/// Writes `key-ordinal` in hexadecimal digits.
impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:x}", Hex(&self.key.0), self.ordinal)
    }
}

impl std::str::FromStr for ItemId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (key, ordinal) = text.split_once('-').ok_or(InvalidId)?;
        Ok(Self {
            key: Key(parse_hex(key).ok_or(InvalidId)?),
            ordinal: u32::from_str_radix(ordinal, 16).map_err(|_| InvalidId)?,
        })
    }
}

/// The error for a text that is no name of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidId;

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the name of a call in a batch")
    }
}

impl std::error::Error for InvalidId {}

/// Bytes in hexadecimal digits.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Reads hexadecimal digits.
pub(crate) fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Returns random bytes, from the randomness that the standard library gets from the system.
pub(crate) fn random_bytes() -> [u8; 32] {
    let state = std::hash::RandomState::new();
    let seed = [state.hash_one(0), state.hash_one(1)].map(u64::to_le_bytes);
    blake3::derive_key("tower-claude-batch secret", &seed.concat())
}

macro_rules! short_debug {
    ($($name:ident: $bytes:expr;)*) => {
        $(impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let bytes: &dyn Fn(&Self) -> [u8; 4] = &$bytes;
                write!(f, concat!(stringify!($name), "({})"), Hex(&bytes(self)))
            }
        })*
    };
}

short_debug! {
    PoolId: |id| [id.0[0], id.0[1], id.0[2], id.0[3]];
    Key: |id| [id.0[0], id.0[1], id.0[2], id.0[3]];
    BatchNumber: |id| ((id.0 >> 32) as u32).to_be_bytes();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn custom_id_is_short_and_can_be_read_again() {
        let item = ItemId::new(Key([0xfe; 16]), u32::MAX);
        let text = item.custom_id(BatchNumber(u64::MAX));
        assert!(text.len() <= 64, "{text}");
        assert_eq!(
            ItemId::parse_custom_id(&text),
            Some((item, BatchNumber(u64::MAX)))
        );
        let text = ItemId::new(Key([0; 16]), 0).custom_id(BatchNumber(1));
        assert!(ItemId::parse_custom_id(&text).is_some());
        for other in ["", "request-1", "a-b-c", &text[1..], &format!("{text}0")] {
            assert_eq!(ItemId::parse_custom_id(other), None, "{other}");
        }
    }
}
