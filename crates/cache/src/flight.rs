//! One call to the inner service, and all who wait for its answer or read it.
//!
//! The inner body belongs to the flight. Whoever wants the next frame polls it for all, so that neither a slow reader
//! nor one that is gone holds up the others.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::time::Instant;
use tower_claude_core::{Kind, Tenant};

use crate::{
    answer::{Inspector, Rules},
    entry::{Entry, EntryParts},
    head::Head,
    key::Key,
    recording::{Recording, TooLate},
    source::{Fault, Source},
    wakers::Wakers,
};

/// What the one who asks knows of the request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) rules: Rules,
    pub(crate) tenant: Option<Tenant>,
    /// Jittered already.
    pub(crate) fresh_for: Duration,
    pub(crate) stale_for: Duration,
}

#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) key: Key,
    pub(crate) wakers: Arc<Wakers>,
    state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) seats: usize,
    next_seat: u64,
    phase: Phase,
    was_led: bool,
    head: Option<Arc<Head>>,
    ask: Option<Ask>,
    recording: Recording,
    /// Of event streams only.
    inspector: Option<Inspector>,
    source: Option<Box<dyn Source>>,
    /// The inner body's error, until a reader has taken it.
    fault: Option<Fault>,
    trailers: Option<HeaderMap>,
    /// A whole answer that is no stream.
    whole: Option<Bytes>,
    settled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nobody asks: the next who looks does.
    Leaderless,
    /// Somebody asks.
    Led,
    /// There is a head.
    Open,
    Over(Ending),
}

/// How a flight ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Complete,
    /// The body broke off.
    Broken,
    /// There was no head.
    Lost(Kind),
    /// The answer cannot be shared.
    Alone,
}

/// What those who wait are told.
#[derive(Debug)]
pub(crate) enum News {
    /// Ask yourself, for all; `again`, when somebody has before.
    Lead {
        again: bool,
    },
    Answer(Answer),
    /// The one who asked got an error in place of a response.
    Lost(Kind),
    /// Ask yourself, for yourself.
    Alone,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: Arc<Head>,
    /// The body, unless it is a stream.
    pub(crate) whole: Option<Bytes>,
    /// It failed before its content began.
    pub(crate) failed: bool,
}

/// What a reader gets next.
pub(crate) enum Next {
    Frame(Frame<Bytes>),
    /// The inner body's own error.
    Fault(Fault),
    /// There is more, and it cannot be had.
    Broken,
    /// What comes next is not kept any more.
    CutOff,
    End,
}

impl Flight {
    /// One seat is taken.
    pub(crate) fn new(key: Key, limit: usize) -> Self {
        Self {
            key,
            wakers: Arc::default(),
            state: Mutex::new(State {
                seats: 0,
                next_seat: 0,
                phase: Phase::Leaderless,
                was_led: false,
                head: None,
                ask: None,
                recording: Recording::new(limit),
                inspector: None,
                source: None,
                fault: None,
                trailers: None,
                whole: None,
                settled: false,
            }),
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

impl State {
    pub(crate) fn take_seat(&mut self) -> u64 {
        self.seats += 1;
        self.next_seat += 1;
        self.next_seat
    }

    /// Somebody is gone. What is returned is to be dropped when nothing is locked.
    pub(crate) fn leave(&mut self) -> Option<Box<dyn Source>> {
        self.seats -= 1;
        let panicked = self.phase == Phase::Open && self.source.is_none();
        if panicked {
            self.end(Ending::Broken);
        }
        if self.seats > 0 || matches!(self.phase, Phase::Over(_)) {
            return None;
        }
        let source = self.source.take();
        // Many callers stop reading at the last event.
        let complete = self.inspector.as_ref().is_some_and(Inspector::is_complete);
        self.end(if complete {
            Ending::Complete
        } else {
            Ending::Broken
        });
        source
    }

    pub(crate) const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_))
    }

    fn end(&mut self, ending: Ending) {
        if self.is_over() {
            return;
        }
        let open = self.phase == Phase::Open;
        self.phase = Phase::Over(ending);
        self.source = None;
        if open && ending == Ending::Complete && self.inspector.is_none() {
            self.whole = self.recording.whole();
        }
    }

    fn take(&mut self, frame: Option<Result<Frame<Bytes>, Fault>>, is_end: bool) {
        match frame {
            None => return self.end(Ending::Complete),
            Some(Err(fault)) => {
                self.fault = Some(fault);
                return self.end(Ending::Broken);
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    if let Some(inspector) = &mut self.inspector {
                        inspector.feed(&data);
                    }
                    self.recording.push(&data);
                }
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            },
        }
        if is_end {
            self.end(Ending::Complete);
        }
    }

    /// What to tell of an answer that has a head, when there is enough of it.
    fn news(&self, patience: bool) -> Option<News> {
        let head = self.head.clone()?;
        let over = self.is_over();
        if let Some(stream) = &self.inspector {
            let failed = !stream.has_begun() && (stream.has_failed() || over);
            let enough = !patience || failed || stream.has_begun() || self.recording.is_over();
            return enough.then_some(News::Answer(Answer {
                head,
                whole: None,
                failed,
            }));
        }
        match self.phase {
            Phase::Over(Ending::Complete) if self.whole.is_some() => {
                let whole = self.whole.clone();
                Some(News::Answer(Answer {
                    head,
                    whole,
                    failed: false,
                }))
            }
            Phase::Over(Ending::Complete) => Some(News::Alone),
            Phase::Over(_) => Some(News::Lost(Kind::Transport)),
            _ => self.recording.is_over().then_some(News::Alone),
        }
    }

    /// What comes after the last frame.
    fn last(&mut self, ending: Ending, index: &mut usize) -> Next {
        match (&self.trailers, self.fault.take()) {
            (_, Some(fault)) => Next::Fault(fault),
            (Some(trailers), None) if *index == self.recording.end() => {
                *index += 1;
                Next::Frame(Frame::trailers(trailers.clone()))
            }
            _ if ending == Ending::Complete => Next::End,
            _ => Next::Broken,
        }
    }

    /// What is to be stored, and whether this is the first time that is asked after the end.
    pub(crate) fn settle(&mut self) -> Option<Result<Entry, &'static str>> {
        if !self.is_over() || std::mem::replace(&mut self.settled, true) {
            return None;
        }
        Some(self.entry())
    }

    fn entry(&self) -> Result<Entry, &'static str> {
        let (Some(head), Some(ask)) = (&self.head, &self.ask) else {
            return Err("no_answer");
        };
        if self.phase != Phase::Over(Ending::Complete) || self.trailers.is_some() {
            return Err("incomplete");
        }
        if !head.storable {
            return Err("head");
        }
        if ask.fresh_for.is_zero() {
            return Err("ttl");
        }
        let frames = match (&self.inspector, &self.whole) {
            (Some(stream), _) => {
                stream.verdict()?;
                self.recording.frames().ok_or("length")?
            }
            (None, Some(whole)) => {
                ask.rules.whole(whole)?;
                Box::new([whole.clone()])
            }
            (None, None) => return Err("length"),
        };
        Ok(EntryParts {
            headers: head.headers.clone(),
            frames,
            tenant: ask.tenant.clone(),
            stored_at: Instant::now(),
            fresh_for: ask.fresh_for,
            stale_for: ask.stale_for,
        }
        .into())
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("seats", &self.seats)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}
