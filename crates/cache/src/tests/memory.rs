use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tower_claude_core::Tenant;

use crate::{Entry, EntryParts, Key, MemoryStore, Store};

fn key(number: u64) -> Key {
    let mut bytes = [0; 32];
    // Distributed like a hash.
    let spread = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bytes[..8].copy_from_slice(&spread.to_le_bytes());
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    Key::from(bytes)
}

fn entry(tenant: Option<&str>, length: usize) -> Entry {
    let frames = Box::new([vec![0; length].into()]);
    let mut parts = EntryParts::new(HeaderMap::new(), frames, Duration::from_secs(60));
    parts.tenant = tenant.map(|name| Tenant(name.into()));
    parts.into()
}

fn has(store: &MemoryStore, number: u64) -> bool {
    store.get(&key(number)).into_inner().is_some()
}

const MIB: u64 = 1024 * 1024;

#[tokio::test(start_paused = true)]
async fn memory_store_never_exceeds_its_capacity() {
    let store = MemoryStore::new(MIB);
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..20_000 {
        let tenant = random.bool().then(|| ["a", "b", "c"][random.usize(..3)]);
        // Keys repeat.
        store.insert(
            key(random.u64(..4_000)),
            entry(tenant, random.usize(..8_000)),
        );
        assert!(store.bytes() <= MIB, "{} bytes", store.bytes());
    }
    assert!(store.bytes() > MIB / 2 && store.entries() > 50);
}

#[tokio::test(start_paused = true)]
async fn tenant_cannot_evict_entries_of_another_tenant() {
    let store = MemoryStore::new(MIB).with_tenant_share(MIB / 4);
    for number in 0..20 {
        store.insert(key(number), entry(Some("quiet"), 1_000));
    }
    for number in 1_000..20_000 {
        store.insert(key(number), entry(Some("loud"), 3_000));
        let loud = store.bytes() - 20 * entry(Some("quiet"), 1_000).weight() as u64;
        assert!(loud <= MIB / 4, "{loud} bytes of one tenant");
    }
    assert!(
        (0..20).all(|number| has(&store, number)),
        "the quiet tenant's are gone"
    );
    assert!(
        has(&store, 19_999) && !has(&store, 1_000),
        "the loud tenant's oldest go"
    );
}

#[tokio::test(start_paused = true)]
async fn removed_or_replaced_entry_frees_its_tenant_share() {
    let store = MemoryStore::new(MIB).with_tenant_share(100_000);
    for round in 0..1_000 {
        store.insert(key(1), entry(Some("a"), 60_000));
        store.insert(key(2), entry(Some("a"), 20_000));
        assert!(has(&store, 1) && has(&store, 2), "round {round}");
        if round % 3 == 0 {
            store.remove(&key(1));
            assert!(!has(&store, 1));
        }
    }
    store.insert(key(3), entry(Some("a"), 200_000));
    assert!(!has(&store, 3), "larger than the share");
}

#[tokio::test(start_paused = true)]
async fn entry_stored_again_counts_for_its_tenant() {
    let store = MemoryStore::new(MIB).with_tenant_share(MIB / 4);
    store.insert(key(0), entry(Some("quiet"), 1_000));
    let quiet = store.bytes();
    for number in 1..1_000 {
        for _ in 0..2 {
            store.insert(key(number), entry(Some("loud"), 3_000));
        }
        let loud = store.bytes() - quiet;
        assert!(loud <= MIB / 4, "{loud} bytes of one tenant");
    }
}

#[tokio::test(start_paused = true)]
async fn entry_larger_than_a_share_evicts_nothing() {
    let store = MemoryStore::new(MIB).with_tenant_share(100_000);
    store.insert(key(1), entry(Some("a"), 1_000));
    store.insert(key(2), entry(Some("a"), 1_000));
    store.insert(key(2), entry(Some("a"), 200_000));
    assert!(has(&store, 1), "a small answer of the same tenant");
    assert!(!has(&store, 2), "neither the old one nor the new one");
    assert_eq!(store.bytes(), entry(Some("a"), 1_000).weight() as u64);
}

#[tokio::test(start_paused = true)]
async fn entry_headers_are_weighed_and_copied() {
    // Slices of one read buffer, as a client's headers are.
    let buffer = Bytes::from(vec![b'x'; 50_000]);
    let value = |part| HeaderValue::from_maybe_shared(buffer.slice(part)).expect("a value");
    let mut headers = HeaderMap::new();
    headers.append("x-long", value(0..40_000));
    headers.append("x-long", value(0..10));
    let parts = EntryParts::new(headers.clone(), Box::new([]), Duration::from_secs(60));
    let entry = Entry::from(parts);
    assert!(entry.weight() > 40_010);
    let kept: Vec<_> = entry.parts().headers.get_all("x-long").iter().collect();
    assert_eq!(kept, [&value(0..40_000), &value(0..10)]);
    drop((headers, entry.clone()));
    assert!(buffer.is_unique(), "nothing but the test holds it");
}
