//! Asking the store, for a call that asks for the cache.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use http::Request;
use tower_claude_core::RequestBody;

use crate::{
    Entry, Key, Store, call::CacheCall, config::Config, flight::seat::Seat, request::policy::Plan,
};

/// A call until it is clear where its answer comes from.
pub(crate) struct Lookup<S, D, T: Store> {
    pub(crate) service: S,
    pub(crate) call: CacheCall<T>,
    pub(crate) detach: D,
    /// Since the first poll.
    get: Option<(Key, T::Get)>,
}

/// What was found.
pub(crate) enum Found {
    /// A stored answer.
    Hit(Entry),
    /// A call that others wait for, or will.
    Seat(Seat),
    /// That the call goes past the cache, which it had asked for when `bypassed`.
    Past { bypassed: bool },
}

impl<S, D, T: Store> Lookup<S, D, T> {
    pub(crate) fn new(
        service: S,
        config: Arc<Config<T>>,
        request: Request<RequestBody>,
        detach: D,
    ) -> Self {
        Self {
            service,
            call: CacheCall::new(config, request),
            detach,
            get: None,
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Found> {
        let call = &mut self.call;
        let (key, get) = match &mut self.get {
            Some(asked) => asked,
            None => match call.plan() {
                Plan::Lookup { key, .. } => self.get.insert((key, call.config.store.get(&key))),
                Plan::Bypass(because) => return Poll::Ready(bypass(call, because)),
                Plan::Pass => return Poll::Ready(Found::Past { bypassed: false }),
            },
        };
        let entry = ready!(Pin::new(get).poll(cx));
        Poll::Ready(match call.found(key, entry) {
            Some(entry) => Found::Hit(entry),
            None => join(call, *key),
        })
    }
}

fn bypass<T: Store>(call: &CacheCall<T>, because: &'static str) -> Found {
    call.bypass(because);
    Found::Past { bypassed: true }
}

/// Takes a seat; or finds that the answer has been stored since this call looked.
fn join<T: Store>(call: &mut CacheCall<T>, key: Key) -> Found {
    let config = call.config.clone();
    let stored = || {
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(&mut config.store.get(&key)).poll(&mut cx) {
            Poll::Ready(entry) => call.found(&key, entry),
            Poll::Pending => None,
        }
    };
    let (most, limit) = (config.max_waiters, config.entry_limit);
    match Seat::join(config.clone(), key, most, limit, stored) {
        Ok(Some(seat)) => Found::Seat(seat),
        Ok(None) => bypass(call, "waiters"),
        Err(entry) => Found::Hit(entry),
    }
}
