//! The output of answers: a running mean by workload and size of `max_tokens`.

use tower_claude_core::Cost;

use super::{float::rounded_up, kinds::Kinds, predict::Mean};

/// The variance of one answer is taken to be no more than this, so that no sum overflows.
const MOST_VARIANCE: f64 = (1_u64 << 40) as f64;

/// A kind of request that has a mean of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutputKind(u64);

impl OutputKind {
    /// Its workload, and its `max_tokens` by powers of four: what people set is a choice of few values.
    pub(crate) const fn of(cost: &Cost) -> Self {
        let band = match cost.max_output_tokens {
            None => 0,
            Some(0) => 1,
            Some(most) => 2 + most.ilog2() as u64 / 2,
        };
        Self(cost.workload.to_bits() << 6 | band)
    }
}

/// Where the answer to a request in flight is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place(Option<u8>);

#[derive(Debug, Default)]
struct Cell {
    mean: Mean,
    in_flight: u64,
    /// Of each one in flight, in whole square tokens, so that the sum stays exact.
    variance: u64,
}

impl Cell {
    fn vary(&mut self, all: &Mean) {
        let variance = self.mean.variance_within(all);
        self.variance = rounded_up(variance.min(MOST_VARIANCE));
    }
}

/// Means by kind, and the variance of all that is in flight.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    all: Mean,
    kinds: Kinds<Cell>,
    /// Those in flight that found no place of their own.
    others: Cell,
    /// The sum of the variances of those in flight, in square tokens.
    open_variance: u64,
}

impl Outputs {
    /// The mean of the whole scope.
    pub(crate) fn mean(&self) -> Option<f64> {
        self.all.mean()
    }

    /// The mean of one kind.
    pub(crate) fn mean_of(&self, kind: OutputKind) -> Option<f64> {
        match self.kinds.get(kind.0) {
            Some(cell) => cell.mean.mean_within(&self.all),
            None => self.all.mean(),
        }
    }

    /// The variance of what the requests in flight will use together: the sum of each one's own.
    pub(crate) const fn variance(&self) -> f64 {
        self.open_variance as f64
    }

    /// One more is in flight.
    pub(crate) fn sent(&mut self, kind: OutputKind) -> Place {
        let idle = |cell: &Cell| cell.in_flight == 0;
        let place = self.kinds.claim(kind.0, idle);
        let place = Place(place.and_then(|place| u8::try_from(place).ok()));
        self.count(place, |in_flight| in_flight + 1);
        place
    }

    /// It is in flight no more.
    pub(crate) fn ended(&mut self, place: Place) {
        self.count(place, |in_flight| in_flight.saturating_sub(1));
    }

    /// Its answer used so much.
    pub(crate) fn learn(&mut self, place: Place, tokens: u64) {
        self.all.learn(tokens);
        self.change(place, |cell, all| {
            cell.mean.learn(tokens);
            cell.vary(all);
        });
    }

    /// Changes the number of those in flight.
    fn count(&mut self, place: Place, change: impl FnOnce(u64) -> u64) {
        self.change(place, |cell, all| {
            cell.in_flight = change(cell.in_flight);
            // A young kind also varies as all do, who have learned meanwhile.
            if !cell.mean.is_grown() {
                cell.vary(all);
            }
        });
    }

    /// Changes a cell and keeps the sum in step.
    fn change(&mut self, place: Place, change: impl FnOnce(&mut Cell, &Mean)) {
        let own = place.0.and_then(|place| self.kinds.at(place.into()));
        let cell = own.unwrap_or(&mut self.others);
        self.open_variance -= cell.in_flight * cell.variance;
        change(cell, &self.all);
        self.open_variance += cell.in_flight * cell.variance;
    }
}
