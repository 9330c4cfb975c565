//! The accounts that made the thinking of conversations.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use tokio::time::Instant;

/// The most prompts that are remembered.
const MAX_PROMPTS: usize = 65_536;

/// The account that answered each prompt with thinking that is bound to it.
///
/// The next turn of the conversation has that prompt as its beginning, so its hash is the key.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    prompts: HashMap<u64, Entry, RandomState>,
}

#[derive(Clone, Debug)]
struct Entry {
    account: Arc<str>,
    used_at: Instant,
}

impl Accounts {
    pub(crate) fn insert(&mut self, prompt: u64, account: Arc<str>, now: Instant) {
        if self.prompts.len() >= MAX_PROMPTS && !self.prompts.contains_key(&prompt) {
            self.evict();
        }
        self.prompts.insert(
            prompt,
            Entry {
                account,
                used_at: now,
            },
        );
    }

    /// Returns the account that answered the first of these prompts that is known.
    pub(crate) fn find(&mut self, prompts: &[u64], now: Instant) -> Option<Arc<str>> {
        let known = prompts
            .iter()
            .find(|prompt| self.prompts.contains_key(prompt))?;
        let entry = self.prompts.get_mut(known)?;
        entry.used_at = now;
        Some(entry.account.clone())
    }

    pub(crate) fn len(&self) -> usize {
        self.prompts.len()
    }

    /// Removes the quarter that was not used for the longest time.
    fn evict(&mut self) {
        let mut used: Vec<Instant> = self.prompts.values().map(|entry| entry.used_at).collect();
        let quarter = used.len() / 4;
        let (_, last, _) = used.select_nth_unstable(quarter);
        let last = *last;
        self.prompts.retain(|_, entry| entry.used_at > last);
    }
}
