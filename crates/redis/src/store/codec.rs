//! The bytes of a stored response.
//!
//! A version, a keyed hash of the cache key and of all that follows, then the fields. Bytes that
//! another program wrote, that were cut, or that belong to another key therefore decode to nothing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tower_claude_cache::{EntryParts, Key};
use tower_claude_core::Tenant;

use crate::config::RedisConfig;

/// The first bytes of each value, with the version of the format.
const MAGIC: &[u8; 4] = b"tcc1";
/// Length of the version and the hash.
const HEAD: usize = MAGIC.len() + 16;
/// The length that marks a missing text.
const NONE: u32 = u32::MAX;

/// A stored response, and the time that the API took for it.
pub(crate) struct Saved {
    pub(crate) parts: EntryParts,
    pub(crate) took: Duration,
}

/// Returns the bytes of a response. `None` if a part is too long for the format.
pub(crate) fn encode(
    config: &RedisConfig,
    key: &Key,
    parts: &EntryParts,
    took: Duration,
) -> Option<Vec<u8>> {
    let frames: usize = parts.frames.iter().map(|frame| frame.len() + 4).sum();
    let mut bytes = Vec::with_capacity(HEAD + frames + 1024);
    bytes.resize(HEAD, 0);
    let stored_at = parts.stored_at.duration_since(UNIX_EPOCH).ok()?;
    for time in [stored_at, parts.fresh_for, parts.stale_for, took] {
        bytes.extend(millis(time).to_le_bytes());
    }
    match &parts.tenant {
        Some(tenant) => put(&mut bytes, tenant.0.as_bytes())?,
        None => bytes.extend(NONE.to_le_bytes()),
    }
    bytes.extend(u32::try_from(parts.headers.len()).ok()?.to_le_bytes());
    for (name, value) in &parts.headers {
        put(&mut bytes, name.as_str().as_bytes())?;
        put(&mut bytes, value.as_bytes())?;
    }
    bytes.extend(u32::try_from(parts.frames.len()).ok()?.to_le_bytes());
    for frame in &parts.frames {
        put(&mut bytes, frame)?;
    }
    let hash = config.hash(&[MAGIC, key.as_bytes(), &bytes[HEAD..]]);
    bytes[..MAGIC.len()].copy_from_slice(MAGIC);
    bytes[MAGIC.len()..HEAD].copy_from_slice(&hash);
    Some(bytes)
}

/// Returns the response, if [`encode`] made the bytes for this key.
pub(crate) fn decode(config: &RedisConfig, key: &Key, bytes: Vec<u8>) -> Option<Saved> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let hash = config.hash(&[MAGIC, key.as_bytes(), rest]);
    if head[..MAGIC.len()] != *MAGIC || head[MAGIC.len()..] != hash {
        return None;
    }
    let mut reader = Reader(Bytes::from(bytes).split_off(HEAD));
    let stored_at = UNIX_EPOCH.checked_add(reader.time()?)?;
    let [fresh_for, stale_for, took] = [reader.time()?, reader.time()?, reader.time()?];
    let tenant = match reader.optional()? {
        Some(name) => Some(Tenant(str::from_utf8(&name).ok()?.into())),
        None => None,
    };
    let mut headers = HeaderMap::new();
    for _ in 0..reader.number()? {
        let name = HeaderName::from_bytes(&reader.text()?).ok()?;
        headers.append(name, HeaderValue::from_bytes(&reader.text()?).ok()?);
    }
    let frames = (0..reader.number()?)
        .map(|_| reader.text())
        .collect::<Option<_>>()?;
    if !reader.0.is_empty() {
        return None;
    }
    let mut parts = EntryParts::new(headers, frames, fresh_for);
    parts.tenant = tenant;
    parts.stored_at = stored_at;
    parts.stale_for = stale_for;
    Some(Saved { parts, took })
}

/// Returns a time of storing as it is saved, to compare two of them.
pub(crate) fn stamp(time: SystemTime) -> Option<u64> {
    time.duration_since(UNIX_EPOCH).ok().map(millis)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn put(bytes: &mut Vec<u8>, text: &[u8]) -> Option<()> {
    let length = u32::try_from(text.len())
        .ok()
        .filter(|length| *length != NONE)?;
    bytes.extend(length.to_le_bytes());
    bytes.extend(text);
    Some(())
}

struct Reader(Bytes);

impl Reader {
    fn take(&mut self, length: usize) -> Option<Bytes> {
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }

    fn number(&mut self) -> Option<u32> {
        let bytes = self.take(4)?;
        Some(u32::from_le_bytes((*bytes).try_into().ok()?))
    }

    fn time(&mut self) -> Option<Duration> {
        let bytes = self.take(8)?;
        Some(Duration::from_millis(u64::from_le_bytes(
            (*bytes).try_into().ok()?,
        )))
    }

    fn optional(&mut self) -> Option<Option<Bytes>> {
        match self.number()? {
            NONE => Some(None),
            length => Some(Some(self.take(usize::try_from(length).ok()?)?)),
        }
    }

    fn text(&mut self) -> Option<Bytes> {
        self.optional()?
    }
}
