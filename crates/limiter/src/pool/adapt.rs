//! Requests in flight after a 429 that no level explains: a limit on requests at once, or on how fast
//! use may rise, which no header shows.
//!
//! Additive increase, multiplicative decrease. What the server took at the last such 429 is kept: up to
//! there the cap grows by one each round of answers, over it by one a minute and more rarely each time
//! that it fails, so that looking for more costs next to nothing.

const MINUTE: u64 = 60_000_000_000;

/// Forgotten after so long without such a 429.
const FORGOTTEN: u64 = 10 * MINUTE;

/// The longest time between two looks for more is 2^3 minutes, less than that.
const MOST_DOUBLINGS: u32 = 3;

/// The cap on requests in flight, while there is one.
#[derive(Debug, Default)]
pub(crate) struct Adaptive {
    on: bool,
    state: Option<State>,
}

#[derive(Debug)]
struct State {
    cap: u64,
    /// What the server took when it last refused.
    wall: u64,
    /// When it was last lowered: a 429 for what was sent before is about the same crowd.
    lowered: u64,
    /// In flight when it was last lowered.
    crowd: u64,
    /// Answers since it was lowered or raised.
    answers: u64,
    /// Answers since it was lowered.
    served: u64,
    refused: u64,
    look: u64,
    failed: u32,
}

impl Adaptive {
    pub(crate) const fn new(on: bool) -> Self {
        Self { on, state: None }
    }

    /// The most in flight; `None` is any number.
    pub(crate) fn cap(&self, now: u64) -> Option<u64> {
        let state = self.state.as_ref()?;
        (now.saturating_sub(state.refused) < FORGOTTEN).then_some(state.cap)
    }

    /// When the cap is forgotten that holds the next one back; `None` when none does.
    pub(crate) fn full_until(&self, now: u64, in_flight: u64) -> Option<u64> {
        let state = self.state.as_ref()?;
        let until = state.refused.saturating_add(FORGOTTEN);
        (now < until && in_flight >= state.cap).then_some(until)
    }

    /// A 429 that no level explains, for a request sent at `sent`; `in_flight` counts it.
    pub(crate) fn refused(&mut self, now: u64, sent: u64, in_flight: u64) {
        if !self.on {
            return;
        }
        let in_flight = in_flight.max(1);
        if self.cap(now).is_none() {
            self.state = None;
        }
        match &mut self.state {
            Some(state) if sent <= state.lowered => {
                // The same crowd: the last to be refused shows how many were not.
                let mut crowd = in_flight + state.served;
                if crowd == 1 {
                    // All were refused, so that it was not for their number.
                    crowd = state.crowd;
                    state.cap = lower(crowd);
                    state.wall = (crowd - 1).max(1);
                }
                state.wall = state.wall.min((crowd - 1).max(1));
                state.cap = state.cap.min(lower(crowd));
                state.refused = now;
            }
            Some(state) if state.cap > state.wall => {
                // It was a look for more.
                state.cap = state.wall.min((in_flight - 1).max(1));
                state.wall = state.cap;
                state.failed = (state.failed + 1).min(MOST_DOUBLINGS);
                state.since(now, in_flight);
            }
            state => {
                let failed = state.as_ref().map_or(0, |state| state.failed);
                let mut new = State {
                    cap: lower(in_flight),
                    wall: (in_flight - 1).max(1),
                    lowered: now,
                    crowd: in_flight,
                    answers: 0,
                    served: 0,
                    refused: now,
                    look: 0,
                    failed,
                };
                new.since(now, in_flight);
                *state = Some(new);
            }
        }
    }

    /// An answer; `in_flight` counts it.
    pub(crate) fn answered(&mut self, now: u64, in_flight: u64) {
        let Some(state) = &mut self.state else { return };
        if now.saturating_sub(state.refused) >= FORGOTTEN {
            self.state = None;
            return;
        }
        state.served += 1;
        // A cap that holds nobody back proves nothing.
        if in_flight < state.cap {
            return;
        }
        state.answers += 1;
        if state.answers < state.cap {
            return;
        }
        if state.cap > state.wall {
            state.wall = state.cap;
            state.failed = 0;
            state.look = now;
        }
        if state.cap < state.wall || now >= state.look {
            state.cap += 1;
            state.answers = 0;
        }
    }
}

impl State {
    fn since(&mut self, now: u64, crowd: u64) {
        self.crowd = crowd;
        self.lowered = now;
        self.refused = now;
        self.answers = 0;
        self.served = 0;
        self.look = now + (MINUTE << self.failed);
    }
}

fn lower(in_flight: u64) -> u64 {
    (in_flight.saturating_mul(7) / 10).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn after_a_crowd() -> Adaptive {
        let mut adaptive = Adaptive::new(true);
        // 300 sent, 290 refused one after the other.
        for left in (11..=300).rev() {
            adaptive.refused(S, 0, left);
        }
        adaptive
    }

    #[test]
    fn a_crowd_is_judged_by_how_many_were_not_refused() {
        let adaptive = after_a_crowd();
        assert_eq!(adaptive.cap(S), Some(7));
    }

    #[test]
    fn answers_of_the_crowd_count_as_not_refused() {
        let mut adaptive = Adaptive::new(true);
        adaptive.refused(S, 0, 20);
        assert_eq!(adaptive.cap(S), Some(14));
        for left in (11..20).rev() {
            adaptive.answered(S, left + 1);
        }
        adaptive.refused(S, 0, 10);
        assert_eq!(adaptive.cap(S), Some(13));
    }

    #[test]
    fn grows_by_one_each_round_to_what_was_taken_and_then_looks_once_a_minute() {
        let mut adaptive = after_a_crowd();
        let mut rounds = Vec::new();
        let mut now = 2 * S;
        for _ in 0..40 {
            let cap = adaptive.cap(now).unwrap();
            rounds.push(cap);
            for _ in 0..cap {
                now += S / 10;
                adaptive.answered(now, cap);
            }
        }
        assert_eq!(rounds[..6], [7, 8, 9, 10, 10, 10]);
        assert!(now < 61 * S && rounds.iter().all(|cap| *cap <= 10));
        while now < 62 * S {
            now += S / 10;
            adaptive.answered(now, 10);
        }
        assert_eq!(adaptive.cap(now), Some(11));
        adaptive.refused(now, now - 1, 11);
        assert_eq!(
            adaptive.cap(now),
            Some(10),
            "a look costs one 429 and no more"
        );
    }

    #[test]
    fn a_refusal_below_what_was_taken_lowers_again() {
        let mut adaptive = after_a_crowd();
        adaptive.refused(3 * S, 2 * S, 7);
        assert_eq!(adaptive.cap(3 * S), Some(4));
        for sent in 3..20 {
            adaptive.refused((sent + 1) * S, sent * S + 1, 1);
        }
        assert_eq!(adaptive.cap(20 * S), Some(1));
    }

    #[test]
    fn a_crowd_of_which_all_were_refused_was_not_refused_for_its_number() {
        let mut adaptive = Adaptive::new(true);
        for left in (1..=30).rev() {
            adaptive.refused(S, 0, left);
        }
        assert_eq!(adaptive.cap(S), Some(21));
    }

    #[test]
    fn idle_answers_do_not_raise_it() {
        let mut adaptive = after_a_crowd();
        for _ in 0..1_000 {
            adaptive.answered(2 * S, 6);
        }
        assert_eq!(adaptive.cap(2 * S), Some(7));
    }

    #[test]
    fn is_forgotten_after_ten_minutes() {
        let mut adaptive = after_a_crowd();
        assert_eq!(adaptive.cap(601 * S - 1), Some(7));
        assert_eq!(adaptive.cap(601 * S), None);
        adaptive.refused(700 * S, 699 * S, 100);
        assert_eq!(adaptive.cap(700 * S), Some(70), "it begins anew");
    }

    #[test]
    fn is_nothing_when_off() {
        let mut adaptive = Adaptive::new(false);
        adaptive.refused(S, 0, 300);
        assert_eq!(adaptive.cap(S), None);
    }
}
