//! A place in a flight.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use crate::{
    answer::head::Head,
    flight::source::Source,
    flight::{
        Flight,
        state::{Ask, Ending, News, Next},
    },
    request::key::{AsIs, Key},
    store::entry::Entry,
};

type Map = HashMap<Key, Arc<Flight>, AsIs>;

/// The flights of one layer.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    map: Mutex<Map>,
}

/// The layer, to its flights.
pub(crate) trait Home: Send + Sync {
    fn flights(&self) -> &Flights;
    /// What becomes of an answer that has ended.
    fn settled(&self, key: Key, entry: Result<Entry, &'static str>);
    /// A reader fell too far behind.
    fn cut_off(&self);
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }
}

/// Who reads or waits. With the last one, the inner call ends.
pub(crate) struct Seat {
    home: Arc<dyn Home>,
    flight: Arc<Flight>,
    number: u64,
}

impl Seat {
    /// Takes a seat in the flight of this key; in a new one if there is none and `fresh` still finds no stored answer.
    /// `None` when `most` are there already.
    pub(crate) fn join<E>(
        home: Arc<dyn Home>,
        key: Key,
        most: usize,
        limit: usize,
        stored: impl FnOnce() -> Option<E>,
    ) -> Result<Option<Self>, E> {
        let mut map = home.flights().lock();
        let flight = match map.get(&key) {
            Some(flight) if flight.lock().is_worth_joining() => flight.clone(),
            // None, or one that those who are in it go on with.
            _ => {
                // A flight may have landed since this call looked.
                if let Some(stored) = stored() {
                    return Err(stored);
                }
                let flight = Arc::new(Flight::new(key, limit));
                map.insert(key, flight.clone());
                flight
            }
        };
        let mut state = flight.lock();
        if state.is_full(most) {
            return Ok(None);
        }
        let number = state.take_seat();
        drop(state);
        drop(map);
        Ok(Some(Self {
            home,
            flight,
            number,
        }))
    }

    /// Another seat in the same flight, for the task that makes the call.
    pub(crate) fn for_task(&self) -> Self {
        let mut state = self.flight.lock();
        state.has_task = true;
        let number = state.take_seat();
        drop(state);
        Self {
            home: self.home.clone(),
            flight: self.flight.clone(),
            number,
        }
    }

    pub(crate) fn poll_answer(&self, patience: bool, cx: &mut Context<'_>) -> Poll<News> {
        let news = self.flight.poll_answer(self.number, patience, cx);
        self.settle();
        news
    }

    pub(crate) fn poll_next(&self, index: &mut usize, cx: &mut Context<'_>) -> Poll<Next> {
        let next = self.flight.poll_next(self.number, index, cx);
        self.settle();
        if matches!(next, Poll::Ready(Next::CutOff)) {
            self.home.cut_off();
        }
        next
    }

    pub(crate) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<()> {
        let end = self.flight.poll_drain(self.number, cx);
        self.settle();
        end
    }

    pub(crate) fn is_at_end(&self, index: usize) -> bool {
        self.flight.is_at_end(index)
    }

    /// The right to ask for all; given back when it is dropped.
    pub(crate) fn lead(&self) -> Lead {
        Lead {
            home: self.home.clone(),
            flight: self.flight.clone(),
        }
    }

    fn settle(&self) {
        settle(&*self.home, &self.flight);
    }
}

/// Stores what has ended, first, and forgets the flight then: who comes in between reads the flight.
fn settle(home: &dyn Home, flight: &Arc<Flight>) {
    let settled = flight.lock().settle();
    let Some(entry) = settled else {
        return;
    };
    home.settled(flight.key, entry);
    forget(&mut home.flights().lock(), flight);
}

fn forget(map: &mut Map, flight: &Arc<Flight>) {
    if map
        .get(&flight.key)
        .is_some_and(|known| Arc::ptr_eq(known, flight))
    {
        map.remove(&flight.key);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Nobody can take a seat meanwhile.
        let map = self.home.flights().lock();
        let mut state = self.flight.lock();
        let was_over = state.is_over();
        let source = state.leave();
        let ended = state.is_over() && !was_over;
        drop((state, map));
        self.flight.wakers.remove(self.number);
        drop(source);
        if ended {
            self.flight.wakers.wake_all();
        }
        self.settle();
    }
}

/// The right to ask for all in a flight.
pub(crate) struct Lead {
    home: Arc<dyn Home>,
    flight: Arc<Flight>,
}

impl Lead {
    pub(crate) fn open(self, head: Head, ask: Ask, source: Box<dyn Source>) {
        self.flight.open(head, ask, source);
        settle(&*self.home, &self.flight);
    }

    pub(crate) fn fail(self, ending: Ending) {
        self.flight.fail(ending);
        settle(&*self.home, &self.flight);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.flight.abandon();
    }
}
