//! The memory of a waiting request.
#![allow(unsafe_code)] // a counting allocator

use std::{
    alloc::{GlobalAlloc, Layout, System},
    future::Future,
    num::NonZeroU64,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Waker},
};

use tower_claude_core::{Cost, Scope, Tenant};
use tower_claude_limiter::{
    AcquireRequest, Limiter, LimiterConfig, Limits, LocalAcquire, LocalLimiter,
};

struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: it is the system's allocator; the counter is beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const WAITERS: usize = 100_000;

/// Bytes for each of 10^5 that wait, their futures included.
fn bytes(tenants: usize) -> usize {
    let limits = Limits::new().with_requests_per_minute(NonZeroU64::MIN);
    let config = LimiterConfig::new().with_queue_limit(2 * WAITERS);
    let limiter = LocalLimiter::with_config(limits, config);
    let ask = AcquireRequest::new(Scope::named("memory"), Cost::new(10, 10));
    let names: Vec<_> = (0..tenants)
        .map(|name| Tenant(Arc::from(name.to_string())))
        .collect();
    let mut cx = Context::from_waker(Waker::noop());
    let mut first = Box::pin(limiter.acquire(ask.clone()));
    let held = first.as_mut().poll(&mut cx);
    assert!(held.is_ready(), "the only one");
    let mut waiting: Vec<Pin<Box<LocalAcquire>>> = Vec::with_capacity(WAITERS);
    let before = BYTES.load(Ordering::Relaxed);
    for number in 0..WAITERS {
        let tenant = (tenants > 0).then(|| names[number % tenants].clone());
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(1 << 30);
        let ask = ask
            .clone()
            .with_tenant(tenant)
            .with_deadline(Some(deadline));
        let mut acquire = Box::pin(limiter.acquire(ask));
        let polled = acquire.as_mut().poll(&mut cx);
        assert!(polled.is_pending(), "{number}: {polled:?}");
        waiting.push(acquire);
    }
    let each = (BYTES.load(Ordering::Relaxed) - before) / WAITERS;
    assert_eq!(limiter.snapshot()[0].queued, WAITERS);
    drop(waiting);
    assert_eq!(limiter.snapshot()[0].queued, 0);
    drop(held);
    each
}

// One test: they would count each other's.
#[tokio::test(start_paused = true)]
async fn waiting_request_takes_at_most_a_kibibyte() {
    for tenants in [0, 1_000, WAITERS] {
        let each = bytes(tenants);
        println!("{tenants} tenants: {each} bytes for each that waits");
        assert!(each <= 1_024, "{tenants} tenants: {each} bytes");
    }
}
