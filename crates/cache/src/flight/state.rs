//! How far a flight is: what has been received, and what its end means. Synchronous; whoever polls is told what changed.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::time::Instant;
use tower_claude_core::{Kind, Tenant};

use crate::{
    answer::head::Head,
    answer::rules::{Inspector, Rules},
    flight::recording::Recording,
    flight::source::{Fault, Source},
    request::key::Aside,
    store::entry::{Entry, EntryParts},
};

/// What the one who asks knows of the request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) rules: Rules,
    /// What sets it apart from others with its key.
    pub(crate) aside: Aside,
    pub(crate) tenant: Option<Tenant>,
    /// Jittered already.
    pub(crate) fresh_for: Duration,
    pub(crate) stale_for: Duration,
}

/// How far a flight is, and what it has received.
pub(crate) struct State {
    pub(super) seats: usize,
    pub(super) next_seat: u64,
    /// One of the seats is that of a task which reads on for all.
    pub(super) has_task: bool,
    pub(super) phase: Phase,
    pub(super) was_led: bool,
    pub(super) head: Option<Arc<Head>>,
    pub(super) ask: Option<Ask>,
    pub(super) recording: Recording,
    /// Of event streams only.
    pub(super) inspector: Option<Inspector>,
    pub(super) source: Option<Box<dyn Source>>,
    /// The inner body's error, until a reader has taken it.
    pub(super) fault: Option<Fault>,
    pub(super) trailers: Option<HeaderMap>,
    /// A whole answer that is no stream.
    pub(super) whole: Option<Bytes>,
    pub(super) settled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
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
    /// What set the request apart that was answered.
    pub(crate) aside: Aside,
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

impl State {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            seats: 0,
            next_seat: 0,
            has_task: false,
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
        }
    }

    pub(super) fn take_seat(&mut self) -> u64 {
        self.seats += 1;
        self.next_seat += 1;
        self.next_seat
    }

    /// Whether so many callers share it already.
    pub(super) fn is_full(&self, most: usize) -> bool {
        self.seats >= most.saturating_add(usize::from(self.has_task))
    }

    /// Somebody is gone. What is returned is to be dropped when nothing is locked.
    pub(super) fn leave(&mut self) -> Option<Box<dyn Source>> {
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

    /// Whether who comes now can still have all of it: not when its beginning is or will be gone, or its end is bad.
    pub(super) fn is_worth_joining(&self) -> bool {
        let failed = match self.phase {
            Phase::Over(ending) => ending != Ending::Complete,
            _ => self.inspector.as_ref().is_some_and(Inspector::has_failed),
        };
        !failed && !self.recording.is_over()
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_))
    }

    pub(super) fn end(&mut self, ending: Ending) {
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

    pub(super) fn take(&mut self, frame: Option<Result<Frame<Bytes>, Fault>>, is_end: bool) {
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
    pub(super) fn news(&self, patience: bool) -> Option<News> {
        let (head, aside) = (self.head.clone()?, self.ask.as_ref()?.aside);
        let over = self.is_over();
        if let Some(stream) = &self.inspector {
            let failed = !stream.has_begun() && (stream.has_failed() || over);
            let enough = !patience || failed || stream.has_begun() || self.recording.is_over();
            return enough.then_some(News::Answer(Answer {
                head,
                aside,
                whole: None,
                failed,
            }));
        }
        match self.phase {
            Phase::Over(Ending::Complete) if self.whole.is_some() => {
                let whole = self.whole.clone();
                Some(News::Answer(Answer {
                    head,
                    aside,
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
    pub(super) fn last(&mut self, ending: Ending, index: &mut usize) -> Next {
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
    pub(super) fn settle(&mut self) -> Option<Result<Entry, &'static str>> {
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
        if ask.fresh_for <= head.age {
            return Err("ttl");
        }
        let stored_at = Instant::now().checked_sub(head.age).ok_or("age")?;
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
            stored_at,
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
