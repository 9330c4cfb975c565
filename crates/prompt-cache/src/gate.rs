//! The cold-cache gate: requests with the same uncached prefix wait for the first of them.

use std::collections::HashMap;

use foldhash::fast::RandomState;

/// The most prefixes that are led at a time.
const MAX_LED: usize = 16_384;

/// The leaders of prefixes that are being written, with the followers that wait for them.
///
/// An entry is readable once the response of its writer has begun, so requests that are sent at the
/// same time would all write the prefix.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    led: HashMap<u64, Led, RandomState>,
}

#[derive(Debug)]
struct Led {
    leader: u64,
    followers: Vec<u64>,
}

impl Gate {
    /// Returns true if another request leads one of these prefixes.
    pub(crate) fn is_led(&self, prefixes: &[u64], id: u64) -> bool {
        let led_by_other = |hash| self.led.get(hash).is_some_and(|led| led.leader != id);
        prefixes.iter().any(led_by_other)
    }

    /// Adds the request to the followers of the first of these prefixes that has a leader, and
    /// returns true. Returns false if none has one.
    pub(crate) fn follow(&mut self, prefixes: &[u64], id: u64) -> bool {
        for hash in prefixes {
            if let Some(led) = self.led.get_mut(hash)
                && led.leader != id
            {
                if !led.followers.contains(&id) {
                    led.followers.push(id);
                }
                return true;
            }
        }
        false
    }

    /// Makes the request the leader of these prefixes, so far as they have none.
    pub(crate) fn lead(&mut self, prefixes: &[u64], id: u64) {
        for hash in prefixes {
            if self.led.len() >= MAX_LED {
                return;
            }
            self.led.entry(*hash).or_insert_with(|| Led {
                leader: id,
                followers: Vec::new(),
            });
        }
    }

    /// Removes a request that does not wait any longer.
    pub(crate) fn leave(&mut self, prefixes: &[u64], id: u64) {
        for hash in prefixes {
            if let Some(led) = self.led.get_mut(hash) {
                led.followers.retain(|follower| *follower != id);
            }
        }
    }

    /// Ends the lead of these prefixes by any request, because they can be read now. Returns the
    /// followers, which then decide anew.
    pub(crate) fn release_all(&mut self, prefixes: impl Iterator<Item = u64>) -> Vec<u64> {
        let led = prefixes.filter_map(|hash| self.led.remove(&hash));
        led.flat_map(|led| led.followers).collect()
    }

    /// Ends the lead of a request, and returns the followers, which then decide anew.
    pub(crate) fn release(&mut self, prefixes: &[u64], id: u64) -> Vec<u64> {
        let mut released = Vec::new();
        for hash in prefixes {
            if self.led.get(hash).is_some_and(|led| led.leader == id)
                && let Some(led) = self.led.remove(hash)
            {
                released.extend(led.followers);
            }
        }
        released
    }

    /// Returns the number of requests that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.led.values().map(|led| led.followers.len()).sum()
    }
}
