//! Storage of responses.

pub(crate) mod entry;
pub(crate) mod memory;

use crate::{request::key::Key, store::entry::Entry};

/// A store of responses, such as [`MemoryStore`](crate::MemoryStore). A store over a network fits
/// too: `get` is a future, and `insert` and `remove` may leave their work to a task of the store.
///
/// The layer checks the freshness of entries. The store may evict any entry at any time. Its
/// functions must not panic or block for long, because `insert` and `remove` also run in
/// destructors. They may use the layer's [handle](crate::CacheHandle).
///
/// # A store outside the process
///
/// Keys are made with a secret, which all processes need ([`with_secret`]). An entry is saved with
/// its [parts](crate::EntryParts), for instance as bytes:
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
/// use bytes::Bytes;
/// use http::{HeaderMap, HeaderName, HeaderValue};
/// use tower_claude_cache::{Entry, EntryParts};
/// use tower_claude_core::Tenant;
///
/// /// Headers, frames, tenant, and three times in milliseconds.
/// type Saved = (Vec<(String, Vec<u8>)>, Vec<Vec<u8>>, Option<String>, [u64; 3]);
///
/// fn to_bytes(entry: &Entry) -> Option<Vec<u8>> {
///     let parts = entry.parts();
///     let headers = parts.headers.iter();
///     let headers = headers.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
///     let frames = parts.frames.iter().map(|frame| frame.to_vec()).collect();
///     let tenant = parts.tenant.as_ref().map(|tenant| tenant.0.to_string());
///     let stored_at = parts.stored_at.duration_since(UNIX_EPOCH).ok()?;
///     let times = [stored_at, parts.fresh_for, parts.stale_for];
///     let times = times.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
///     let saved: Saved = (headers.collect(), frames, tenant, times);
///     serde_json::to_vec(&saved).ok()
/// }
///
/// fn from_bytes(bytes: &[u8]) -> Option<Entry> {
///     let (headers, frames, tenant, times): Saved = serde_json::from_slice(bytes).ok()?;
///     let headers = headers.iter().map(|(name, value)| {
///         let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
///         Some((name, HeaderValue::from_bytes(value).ok()?))
///     });
///     let headers: HeaderMap = headers.collect::<Option<_>>()?;
///     let frames = frames.into_iter().map(Bytes::from).collect();
///     let [stored_at, fresh_for, stale_for] = times.map(Duration::from_millis);
///     let mut parts = EntryParts::new(headers, frames, fresh_for);
///     parts.tenant = tenant.map(|tenant| Tenant(tenant.into()));
///     parts.stored_at = UNIX_EPOCH.checked_add(stored_at)?;
///     parts.stale_for = stale_for;
///     Some(parts.into())
/// }
/// # let parts = EntryParts::new(HeaderMap::new(), Box::new([Bytes::from("{}")]), Duration::MAX);
/// # let entry = from_bytes(&to_bytes(&parts.into()).expect("bytes")).expect("an entry");
/// # assert_eq!(*entry.parts().frames, [Bytes::from("{}")]);
/// ```
///
/// [`with_secret`]: crate::CacheLayer::with_secret
pub trait Store: Clone + Send + Sync + 'static {
    /// Future of [`get`](Self::get). Just before a call to the inner service, the layer calls `get`
    /// again and polls its future once.
    type Get: Future<Output = Option<Entry>> + Unpin + Send;

    /// Returns the entry of this key, if it is stored. The layer waits for it for a
    /// [limited time](crate::CacheLayer::with_store_timeout).
    fn get(&self, key: &Key) -> Self::Get;

    /// Stores an entry and replaces the previous entry of the key.
    fn insert(&self, key: Key, entry: Entry);

    /// Removes the entry of this key.
    fn remove(&self, key: &Key);

    /// Returns the number of stored bytes, or 0 if the store does not count them.
    fn bytes(&self) -> u64 {
        0
    }
}
