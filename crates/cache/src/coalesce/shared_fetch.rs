//! A fetch that several callers share.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use http_body::Frame;

use crate::{
    answer::head::Head,
    coalesce::{
        frame_buffer::Lagged,
        state::{ErasedBody, FetchEnd, FetchParams, FetchState, NextFrame, Phase, Update},
        waker_set::WakerSet,
    },
    request::key::Key,
};

/// A call to the inner service that several callers share.
#[derive(Debug)]
pub(super) struct SharedFetch {
    pub(super) key: Key,
    pub(super) wakers: Arc<WakerSet>,
    state: Mutex<FetchState>,
}

impl SharedFetch {
    pub(super) fn new(key: Key, limit: usize) -> Self {
        Self {
            key,
            wakers: Arc::default(),
            state: Mutex::new(FetchState::new(limit)),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, FetchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the head, and takes over the body.
    pub(super) fn open(&self, head: Head, params: FetchParams, source: Box<dyn ErasedBody>) {
        self.lock().open(head, params, source);
        self.wakers.wake_all();
    }

    /// Ends the fetch without a head.
    pub(super) fn fail(&self, end: FetchEnd) {
        self.lock().end(end);
        self.wakers.wake_all();
    }

    /// Gives up the leadership of a leader that was cancelled before it got a response.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        if state.phase != Phase::Fetching {
            return;
        }
        state.phase = Phase::NoLeader;
        drop(state);
        self.wakers.wake_all();
    }

    /// Waits for the next update. With `until_content`, a stream must have begun its content.
    pub(super) fn poll_update(
        &self,
        id: u64,
        until_content: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Update> {
        let mut state = self.lock();
        loop {
            match state.phase {
                Phase::Over(FetchEnd::LeaderFailed(kind)) => {
                    return Poll::Ready(Update::LeaderFailed(kind));
                }
                Phase::Over(FetchEnd::NotShareable) => return Poll::Ready(Update::NotShareable),
                Phase::NoLeader => {
                    let again = state.lead();
                    return Poll::Ready(Update::Lead { again });
                }
                Phase::Fetching => {
                    self.wakers.add(id, cx.waker());
                    return Poll::Pending;
                }
                Phase::Open | Phase::Over(_) => {}
            }
            if let Some(update) = state.update(until_content) {
                return Poll::Ready(update);
            }
            ready!(self.poll_source(&mut state, id, cx));
        }
    }

    /// Waits for the frame at `index`.
    pub(super) fn poll_next(
        &self,
        id: u64,
        index: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<NextFrame> {
        let mut state = self.lock();
        loop {
            match state.frames.get(*index) {
                Err(Lagged) => return Poll::Ready(NextFrame::Lagged),
                Ok(Some(frame)) => {
                    let frame = Frame::data(frame.clone());
                    *index += 1;
                    if state.subscribers == 1 {
                        state.frames.drop_before(*index);
                    }
                    return Poll::Ready(NextFrame::Frame(frame));
                }
                Ok(None) => {}
            }
            if let Phase::Over(end) = state.phase {
                return Poll::Ready(state.last(end, index));
            }
            ready!(self.poll_source(&mut state, id, cx));
        }
    }

    /// Reads the inner body to its end, or until it no longer fits the buffer.
    pub(super) fn poll_drain(&self, id: u64, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        while state.phase == Phase::Open && !state.frames.is_over() {
            ready!(self.poll_source(&mut state, id, cx));
        }
        Poll::Ready(())
    }

    /// Polls the inner body for all subscribers. Ready when the state has changed.
    fn poll_source(&self, state: &mut FetchState, id: u64, cx: &mut Context<'_>) -> Poll<()> {
        self.wakers.add(id, cx.waker());
        let Some(mut source) = state.source.take() else {
            // The body panicked while another subscriber polled it.
            state.end(FetchEnd::Broken);
            self.wakers.wake_all();
            return Poll::Ready(());
        };
        if !self.wakers.take_poll_pending() {
            state.source = Some(source);
            return Poll::Pending;
        }
        let waker = Waker::from(self.wakers.clone());
        let frame = source.poll(&mut Context::from_waker(&waker));
        let is_end = source.is_end();
        state.source = Some(source);
        let frame = ready!(frame);
        self.wakers.set_poll_pending();
        state.record(frame, is_end);
        self.wakers.remove(id);
        self.wakers.wake_all();
        Poll::Ready(())
    }

    /// Returns true if a reader at `index` has read the complete body.
    pub(super) fn is_at_end(&self, index: usize) -> bool {
        let state = self.lock();
        matches!(state.phase, Phase::Over(FetchEnd::Complete))
            && index >= state.frames.end() + usize::from(state.trailers.is_some())
    }
}
