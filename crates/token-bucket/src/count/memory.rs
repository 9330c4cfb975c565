//! What was counted already.

use std::{collections::HashMap, hash::BuildHasher};

use foldhash::quality::RandomState;

/// Counts kept at once, in two generations: when the younger is full, the older goes.
const GENERATION: usize = 2_048;

/// A prompt, by a hash with a key of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Prompt(u64);

/// Counts by prompt; bounded.
#[derive(Debug, Default)]
pub(super) struct Memory {
    key: RandomState,
    young: HashMap<Prompt, u64, RandomState>,
    old: HashMap<Prompt, u64, RandomState>,
}

impl Memory {
    /// The prompt of a `count_tokens` body, which names its model.
    pub(super) fn prompt(&self, body: &[u8]) -> Prompt {
        Prompt(self.key.hash_one(body))
    }

    pub(super) fn get(&mut self, prompt: Prompt) -> Option<u64> {
        if let Some(tokens) = self.young.get(&prompt) {
            return Some(*tokens);
        }
        let tokens = self.old.remove(&prompt)?;
        self.put(prompt, tokens);
        Some(tokens)
    }

    pub(super) fn put(&mut self, prompt: Prompt, tokens: u64) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(prompt, tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::{GENERATION, Memory};

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let mut memory = Memory::default();
        let used = memory.prompt(b"used");
        let unused = memory.prompt(b"unused");
        memory.put(used, 7);
        memory.put(unused, 8);
        for number in 0..10 * GENERATION as u64 {
            let prompt = memory.prompt(&number.to_le_bytes());
            memory.put(prompt, number);
            assert_eq!(memory.get(used), Some(7));
            assert!(memory.young.len() + memory.old.len() <= 2 * GENERATION);
        }
        assert_eq!(memory.get(unused), None);
    }
}
