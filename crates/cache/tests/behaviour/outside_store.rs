//! A store that keeps entries as bytes, for another process.

use std::{
    collections::HashMap,
    future::{Ready, ready},
    sync::{Arc, Mutex},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tower::Layer;
use tower_claude_cache::{CacheLayer, Entry, EntryParts, Inline, Key, Store};
use tower_claude_core::Tenant;

use crate::api::*;

/// Headers, frames, tenant, and three times in milliseconds.
type Saved = (
    Vec<(String, Vec<u8>)>,
    Vec<Vec<u8>>,
    Option<String>,
    [u64; 3],
);

/// The bytes, which outlive a process.
#[derive(Clone, Default)]
struct ByteStore(Arc<Mutex<HashMap<[u8; 32], Vec<u8>>>>);

impl ByteStore {
    /// Changes all saved entries.
    fn change(&self, change: impl Fn(&mut Saved)) {
        for bytes in self.0.lock().expect("it").values_mut() {
            let mut saved: Saved = serde_json::from_slice(bytes).expect("saved");
            change(&mut saved);
            *bytes = serde_json::to_vec(&saved).expect("JSON");
        }
    }
}

impl Store for ByteStore {
    type Get = Ready<Option<Entry>>;

    fn get(&self, key: &Key) -> Self::Get {
        let map = self.0.lock().expect("it");
        ready(map.get(key.as_bytes()).map(|bytes| from_bytes(bytes)))
    }

    fn insert(&self, key: Key, entry: Entry) {
        let bytes = to_bytes(&entry);
        self.0.lock().expect("it").insert(*key.as_bytes(), bytes);
    }

    fn remove(&self, key: &Key) {
        self.0.lock().expect("it").remove(key.as_bytes());
    }
}

fn to_bytes(entry: &Entry) -> Vec<u8> {
    let parts = entry.parts();
    let headers = parts.headers.iter();
    let headers = headers.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    let stored_at = parts.stored_at.duration_since(UNIX_EPOCH).expect("later");
    let times = [stored_at, parts.fresh_for, parts.stale_for];
    let saved: Saved = (
        headers.collect(),
        parts.frames.iter().map(|frame| frame.to_vec()).collect(),
        parts.tenant.as_ref().map(|tenant| tenant.0.to_string()),
        times.map(|time| time.as_millis() as u64),
    );
    serde_json::to_vec(&saved).expect("JSON")
}

fn from_bytes(bytes: &[u8]) -> Entry {
    let (headers, frames, tenant, times): Saved = serde_json::from_slice(bytes).expect("saved");
    let headers = headers.iter().map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        (name, HeaderValue::from_bytes(value).expect("a value"))
    });
    let headers: HeaderMap = headers.collect();
    let frames = frames.into_iter().map(Bytes::from).collect();
    let [stored_at, fresh_for, stale_for] = times.map(Duration::from_millis);
    let mut parts = EntryParts::new(headers, frames, fresh_for);
    parts.tenant = tenant.map(|tenant| Tenant(tenant.into()));
    parts.stored_at = UNIX_EPOCH + stored_at;
    parts.stale_for = stale_for;
    parts.into()
}

/// Returns the layer of a new process.
fn process(store: &ByteStore) -> CacheLayer<Inline, ByteStore> {
    let layer = layer().with_secret([7; 32]);
    layer.with_store(store.clone())
}

/// Returns the status and the age of the response to a request that another process has stored.
async fn asked(store: &ByteStore, stream: bool) -> (String, String) {
    let (upstream, scripts) = upstream();
    let service = process(store).layer(upstream);
    let request = marked("Hi", stream);
    let got = tokio::select! {
        got = send(&service, request) => got.expect("an answer"),
        _ = scripts.next() => return ("miss".to_owned(), String::new()),
    };
    let text = if stream {
        STREAM.concat()
    } else {
        MESSAGE.to_owned()
    };
    assert_eq!(got.text(), text);
    (got.cache_status().to_owned(), got.header("age").to_owned())
}

#[tokio::test(start_paused = true)]
async fn entry_of_another_process_is_served_until_it_expires() {
    for stream in [false, true] {
        let store = ByteStore::default();
        let (upstream, scripts) = upstream();
        let service = process(&store).layer(upstream);
        let mut request = marked("Hi", stream);
        if stream {
            let (got, ()) = tokio::join!(send(&service, request), async {
                let body = scripts.next().await.stream();
                STREAM.iter().for_each(|frame| feed(&body, frame));
            });
            assert_eq!(got.expect("an answer").cache_status(), "miss");
        } else {
            request
                .headers_mut()
                .insert("x-kept", HeaderValue::from_static("1"));
            filled(&service, &scripts, request).await;
        }
        assert_eq!(asked(&store, stream).await, ("hit".into(), "0".into()));
        // The system was down for a minute. Its monotonic clock began anew.
        store.change(|saved| saved.3[0] -= 60_000);
        assert_eq!(asked(&store, stream).await, ("hit".into(), "60".into()));
        // The clock of the system was set back by a minute and a half.
        store.change(|saved| saved.3[0] += 120_000);
        assert_eq!(asked(&store, stream).await, ("hit".into(), "0".into()));
        // Out of date, then from a clock that was an hour ahead.
        for stored_at in [-(60_000 + 120_000), 120_000 + 3_600_000] {
            store.change(|saved| saved.3[0] = saved.3[0].saturating_add_signed(stored_at));
            assert_eq!(asked(&store, stream).await.0, "miss");
        }
    }
}
