//! The reservations in flight.

use tower_claude_core::Workload;

use super::{lane::LANES, outputs::Place, queue::Turn};

/// A reservation of one pool. Settled ids are never used again (a slot counts its generations).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReservationId(u64);

impl ReservationId {
    /// The id as a number.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The id from its number. One that was never given out names nothing.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    fn new(slot: u32, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(slot))
    }

    const fn slot(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What one request in flight holds, and what was known when it was sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) sent_at: u64,
    /// Taken from the levels now.
    pub(crate) charge: [u64; LANES],
    /// Counted in the flows.
    pub(crate) counted: [u64; LANES],
    /// The flow surely counted by the server when this was sent.
    pub(crate) seen: [i64; LANES],
    /// The input charged, as long as it is a guess.
    pub(crate) guessed_input: u64,
    /// The head of the response has been seen.
    pub(crate) heard: bool,
    /// A 429 that paused the scope.
    pub(crate) paused: bool,
    /// What the 429 means has been decided.
    pub(crate) judged: bool,
    /// Counted by the slow start.
    pub(crate) answered: bool,
    /// Its estimator has yet to be told of its use.
    pub(crate) teaches: bool,
    /// Output tokens reported so far.
    pub(crate) produced: u64,
    pub(crate) max_output: Option<u64>,
    /// The input estimate, uncorrected.
    pub(crate) estimate: u64,
    /// The estimate is a count, which no ratio corrects.
    pub(crate) counted_input: bool,
    /// Cache reads expected beside it, where somebody foresees them.
    pub(crate) cached: Option<u64>,
    pub(crate) workload: Workload,
    /// Where its answer is counted.
    pub(crate) output_place: Place,
    /// Its flow's turn, if others waited when it was let out.
    pub(crate) turn: Option<Turn>,
}

/// What answers are judged by: when the request was sent, and what was counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) at: u64,
    pub(crate) counted: [u64; LANES],
    pub(crate) seen: [i64; LANES],
}

impl Record {
    pub(crate) const fn sent(&self) -> Sent {
        Sent {
            at: self.sent_at,
            counted: self.counted,
            seen: self.seen,
        }
    }
}

/// A slab: no allocation once it has grown to the most ever in flight.
#[derive(Debug, Default)]
pub(crate) struct Book {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    used: bool,
    record: Record,
}

impl Book {
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, record: Record) -> ReservationId {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.generation = slot.generation.wrapping_add(1);
            slot.used = true;
            slot.record = record;
            return ReservationId::new(index, slot.generation);
        }
        let index = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.slots.push(Slot {
            generation: 0,
            used: true,
            record,
        });
        ReservationId::new(index, 0)
    }

    pub(crate) fn get_mut(&mut self, id: ReservationId) -> Option<&mut Record> {
        let slot = self.slots.get_mut(id.slot())?;
        (slot.used && slot.generation == id.generation()).then_some(&mut slot.record)
    }

    pub(crate) fn get(&self, id: ReservationId) -> Option<&Record> {
        let slot = self.slots.get(id.slot())?;
        (slot.used && slot.generation == id.generation()).then_some(&slot.record)
    }

    /// What is charged in one lane by all in flight.
    pub(crate) fn charged(&self, lane: usize) -> u64 {
        let used = self.slots.iter().filter(|slot| slot.used);
        used.map(|slot| slot.record.charge[lane]).sum()
    }

    /// Frees the slot. The record was read before.
    pub(crate) fn remove(&mut self, id: ReservationId) {
        if let Some(slot) = self.slots.get_mut(id.slot())
            && slot.used
            && slot.generation == id.generation()
        {
            slot.used = false;
            self.free.push(id.0 as u32);
        }
    }
}
