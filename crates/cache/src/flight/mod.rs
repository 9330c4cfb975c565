//! One call to the inner service, and all who wait for its answer or read it.
//!
//! The inner body belongs to the flight. Whoever wants the next frame polls it for all, so that neither a slow reader
//! nor one that is gone holds up the others.

pub(crate) mod fill;
pub(crate) mod flying;
pub(crate) mod recording;
pub(crate) mod seat;
pub(crate) mod source;
pub(crate) mod state;
mod wakers;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use http_body::Frame;

use crate::{
    answer::head::Head,
    answer::rules::Inspector,
    flight::recording::TooLate,
    flight::source::Source,
    flight::state::{Ask, Ending, News, Next, Phase, State},
    flight::wakers::Wakers,
    request::key::Key,
};

#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) key: Key,
    pub(crate) wakers: Arc<Wakers>,
    state: Mutex<State>,
}

impl Flight {
    /// One seat is taken.
    pub(crate) fn new(key: Key, limit: usize) -> Self {
        Self {
            key,
            wakers: Arc::default(),
            state: Mutex::new(State::new(limit)),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The head is there, and the body to read.
    pub(crate) fn open(&self, head: Head, ask: Ask, source: Box<dyn Source>) {
        let mut state = self.lock();
        state.inspector = head.is_stream.then(|| Inspector::new(ask.rules.clone()));
        state.head = Some(Arc::new(head));
        state.ask = Some(ask);
        state.phase = Phase::Open;
        let is_end = source.is_end();
        state.source = Some(source);
        if is_end {
            state.end(Ending::Complete);
        }
        drop(state);
        self.wakers.wake_all();
    }

    /// It ends without a head.
    pub(crate) fn fail(&self, ending: Ending) {
        self.lock().end(ending);
        self.wakers.wake_all();
    }

    /// The one who asked is gone without an answer.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        if state.phase != Phase::Led {
            return;
        }
        state.phase = Phase::Leaderless;
        drop(state);
        self.wakers.wake_all();
    }

    /// The answer, once there is one to hand on; with `patience`, once content has begun.
    pub(crate) fn poll_answer(
        &self,
        seat: u64,
        patience: bool,
        cx: &mut Context<'_>,
    ) -> Poll<News> {
        let mut state = self.lock();
        loop {
            match state.phase {
                Phase::Over(Ending::Lost(kind)) => return Poll::Ready(News::Lost(kind)),
                Phase::Over(Ending::Alone) => return Poll::Ready(News::Alone),
                Phase::Leaderless => {
                    state.phase = Phase::Led;
                    let again = std::mem::replace(&mut state.was_led, true);
                    return Poll::Ready(News::Lead { again });
                }
                Phase::Led => {
                    self.wakers.add(seat, cx.waker());
                    return Poll::Pending;
                }
                Phase::Open | Phase::Over(_) => {}
            }
            if let Some(news) = state.news(patience) {
                return Poll::Ready(news);
            }
            ready!(self.poll_source(&mut state, seat, cx));
        }
    }

    /// Frame number `index`.
    pub(crate) fn poll_next(
        &self,
        seat: u64,
        index: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<Next> {
        let mut state = self.lock();
        loop {
            match state.recording.get(*index) {
                Err(TooLate) => return Poll::Ready(Next::CutOff),
                Ok(Some(frame)) => {
                    let frame = Frame::data(frame.clone());
                    *index += 1;
                    if state.seats == 1 {
                        state.recording.forget_before(*index);
                    }
                    return Poll::Ready(Next::Frame(frame));
                }
                Ok(None) => {}
            }
            if let Phase::Over(ending) = state.phase {
                return Poll::Ready(state.last(ending, index));
            }
            ready!(self.poll_source(&mut state, seat, cx));
        }
    }

    /// Reads on for others, until the end or as long as it is recorded.
    pub(crate) fn poll_drain(&self, seat: u64, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        while state.phase == Phase::Open && !state.recording.is_over() {
            ready!(self.poll_source(&mut state, seat, cx));
        }
        Poll::Ready(())
    }

    /// Polls the inner body for all; ready when something changed.
    fn poll_source(&self, state: &mut State, seat: u64, cx: &mut Context<'_>) -> Poll<()> {
        self.wakers.add(seat, cx.waker());
        let Some(mut source) = state.source.take() else {
            // It panicked in another's hands.
            state.end(Ending::Broken);
            self.wakers.wake_all();
            return Poll::Ready(());
        };
        if !self.wakers.take_due() {
            state.source = Some(source);
            return Poll::Pending;
        }
        let waker = Waker::from(self.wakers.clone());
        let frame = source.poll(&mut Context::from_waker(&waker));
        let is_end = source.is_end();
        state.source = Some(source);
        let frame = ready!(frame);
        self.wakers.set_due();
        state.take(frame, is_end);
        self.wakers.remove(seat);
        self.wakers.wake_all();
        Poll::Ready(())
    }

    /// Whether this reader is at the end.
    pub(crate) fn is_at_end(&self, index: usize) -> bool {
        let state = self.lock();
        matches!(state.phase, Phase::Over(Ending::Complete))
            && index >= state.recording.end() + usize::from(state.trailers.is_some())
    }
}
