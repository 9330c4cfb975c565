//! The requests in flight.

use tower_claude_core::Cost;

use crate::pool::{
    bucket::{Charge, DIMENSIONS, INPUT, MAX_CHARGE, OUTPUT, TOTAL},
    queue::flow::FlowTag,
};

/// From this many requests on, the initial limit ends.
const INITIAL_LIMIT_ENDS: u64 = 4_096;

/// The id of a reservation of one pool. A slot counts its generations, so that the id of a settled
/// reservation is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReservationId(u64);

impl ReservationId {
    /// Returns the id as a number.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Returns the id of a number. A number that no id had refers to no reservation.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    fn new(slot: u32, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(slot))
    }

    const fn slot(self) -> usize {
        self.0 as u32 as usize
    }
}

/// The slot of the output statistics that counts a request in flight. `None` is the shared slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutputSlot(pub(crate) Option<u8>);

/// A request in flight, with its charge and the state at its sending.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    /// The cost that the caller estimated.
    pub(crate) cost: Cost,
    /// The amounts that the buckets are charged now.
    pub(crate) charge: Charge,
    /// The time of sending, and the part of the charge in the flow counters.
    pub(crate) sent: SendSnapshot,
    /// The input charged, until the server's count is known.
    pub(crate) uncounted_input: u64,
    pub(crate) head_received: bool,
    /// The server took the request.
    pub(crate) accepted: bool,
    /// The response was a 429 that paused the scope.
    pub(crate) paused: bool,
    /// The cause of the 429 was determined.
    pub(crate) rejection_handled: bool,
    /// Output tokens reported so far.
    pub(crate) produced: u64,
    /// The slot of the output statistics.
    pub(crate) output_slot: OutputSlot,
    /// The tag of its flow, if other requests were queued when it was admitted.
    pub(crate) flow_tag: Option<FlowTag>,
}

impl InFlight {
    /// Returns its charge with the counted tokens, where they are known.
    #[inline]
    pub(crate) fn charge_of(&self, input: Option<u64>, output: Option<u64>) -> Charge {
        let mut charge = self.charge;
        charge[INPUT] = input.map_or(charge[INPUT], |input| input.min(MAX_CHARGE));
        charge[OUTPUT] = output.map_or(charge[OUTPUT], |output| output.min(MAX_CHARGE));
        charge[TOTAL] = charge[INPUT] + charge[OUTPUT];
        charge
    }
}

/// The state at a request's sending, by which response headers are interpreted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendSnapshot {
    pub(crate) at: u64,
    /// The number of the charge.
    pub(crate) number: u64,
    /// The part of the charge that the flow counters contain.
    pub(crate) counted: Charge,
    /// The flow that the server had surely counted by then.
    pub(crate) seen: [i64; DIMENSIONS.len()],
}

/// A slab of the requests in flight, with the limits on their number. It does not allocate once it
/// has grown to the highest number in flight.
#[derive(Debug)]
pub(crate) struct InFlightTable {
    slots: Vec<Slot>,
    free: Vec<u32>,
    limit: Option<u64>,
    initial_limit: Option<u64>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    used: bool,
    request: InFlight,
}

impl Slot {
    fn is_of(&self, id: ReservationId) -> bool {
        self.used && u64::from(self.generation) == id.0 >> 32
    }
}

impl InFlightTable {
    /// Returns an empty table. `initial_limit` applies until the first headers, and rises by one
    /// with each response.
    pub(crate) fn new(limit: Option<u64>, initial_limit: Option<u64>) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            limit,
            initial_limit: initial_limit.filter(|limit| *limit < INITIAL_LIMIT_ENDS),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) const fn limit(&self) -> Option<u64> {
        self.limit
    }

    pub(crate) const fn initial_limit(&self) -> Option<u64> {
        self.initial_limit
    }

    /// Returns true if another request must wait until one ends.
    pub(crate) fn is_full(&self) -> bool {
        let len = self.len() as u64;
        self.limit.is_some_and(|limit| len >= limit)
            || self.initial_limit.is_some_and(|limit| len >= limit)
    }

    /// Ends the initial limit: headers or 429s have shown a limit of the server.
    pub(crate) const fn end_initial_limit(&mut self) {
        self.initial_limit = None;
    }

    /// Raises the initial limit for the first response to a request. Each response then makes room
    /// for two requests, so that the limit doubles with each round trip.
    pub(crate) fn on_answered(&mut self) {
        let raised = self.initial_limit.map(|limit| limit + 1);
        self.initial_limit = raised.filter(|limit| *limit < INITIAL_LIMIT_ENDS);
    }

    /// Inserts a request, which is written in place.
    #[inline]
    pub(crate) fn insert_with(&mut self, request: impl FnOnce() -> InFlight) -> ReservationId {
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            slot.generation = slot.generation.wrapping_add(1);
            slot.used = true;
            slot.request = request();
            return ReservationId::new(index, slot.generation);
        }
        self.push(request())
    }

    /// Inserts a request into a new slot.
    #[cold]
    fn push(&mut self, request: InFlight) -> ReservationId {
        let index = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.slots.push(Slot {
            generation: 0,
            used: true,
            request,
        });
        ReservationId::new(index, 0)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: ReservationId) -> Option<&mut InFlight> {
        let slot = self.slots.get_mut(id.slot())?;
        slot.is_of(id).then_some(&mut slot.request)
    }

    #[inline]
    pub(crate) fn get(&self, id: ReservationId) -> Option<&InFlight> {
        let slot = self.slots.get(id.slot())?;
        slot.is_of(id).then_some(&slot.request)
    }

    /// Returns the sum of the charges in one dimension.
    pub(crate) fn charged(&self, dimension: usize) -> u64 {
        let used = self.slots.iter().filter(|slot| slot.used);
        used.map(|slot| slot.request.charge[dimension]).sum()
    }

    /// Frees the slot of `id`, and returns the request that it held.
    #[inline]
    pub(crate) fn remove(&mut self, id: ReservationId) -> Option<&InFlight> {
        let slot = self.slots.get_mut(id.slot())?;
        if !slot.is_of(id) {
            return None;
        }
        slot.used = false;
        self.free.push(id.0 as u32);
        Some(&slot.request)
    }
}
