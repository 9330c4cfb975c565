//! The data frames of a body that are kept in memory.

use std::{borrow::Cow, collections::VecDeque, fmt, mem};

use bytes::{Bytes, BytesMut};

/// The number of short chunks in a row that are joined into one, because each chunk has a memory
/// overhead.
const RUN: usize = 64;
/// The length in bytes below which a chunk is short.
const SHORT: usize = 512;

/// The data frames of a body, in order.
///
/// Short chunks are joined, so a body of tiny frames takes hardly more memory than its bytes.
#[derive(Default)]
pub(crate) struct Chunks {
    /// The first chunk, which is often the only one. Empty if there is none.
    first: Bytes,
    more: VecDeque<Bytes>,
    /// The number of short chunks at the end of `more`.
    run: usize,
    length: usize,
}

impl Chunks {
    pub(crate) const fn new() -> Self {
        Self {
            first: Bytes::new(),
            more: VecDeque::new(),
            run: 0,
            length: 0,
        }
    }

    /// Adds a chunk. An empty chunk is dropped.
    pub(crate) fn push(&mut self, data: Bytes) {
        self.length += data.len();
        if self.first.is_empty() && self.more.is_empty() {
            self.first = data;
            return;
        }
        if data.is_empty() {
            return;
        }
        self.run = if data.len() < SHORT { self.run + 1 } else { 0 };
        self.more.push_back(data);
        if self.run == RUN {
            let from = self.more.len().saturating_sub(RUN);
            let run = join(self.more.range(from..));
            self.more.truncate(from);
            self.run = usize::from(run.len() < SHORT);
            self.more.push_back(run);
        }
    }

    /// Removes the first chunk and returns it.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        let chunk = if self.first.is_empty() {
            self.more.pop_front()?
        } else {
            mem::take(&mut self.first)
        };
        self.length -= chunk.len();
        Some(chunk)
    }

    /// Returns the number of bytes.
    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    /// Returns true if there is one chunk at most.
    pub(crate) fn is_single(&self) -> bool {
        self.more.is_empty()
    }

    /// Returns all bytes. They are copied if there are several chunks.
    pub(crate) fn bytes(&self) -> Cow<'_, [u8]> {
        if self.more.is_empty() {
            return Cow::Borrowed(&self.first);
        }
        let mut all = Vec::with_capacity(self.length);
        all.extend_from_slice(&self.first);
        self.more
            .iter()
            .for_each(|chunk| all.extend_from_slice(chunk));
        all.into()
    }

    /// Joins all chunks. A single chunk is not copied.
    pub(crate) fn into_bytes(mut self) -> Bytes {
        if self.more.is_empty() {
            return self.first;
        }
        self.more.push_front(self.first);
        join(self.more.iter())
    }
}

fn join<'a>(chunks: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
    let mut whole = BytesMut::with_capacity(chunks.clone().map(Bytes::len).sum());
    chunks.for_each(|chunk| whole.extend_from_slice(chunk));
    whole.freeze()
}

impl fmt::Debug for Chunks {
    /// Writes the length and never the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunks({} bytes)", self.length)
    }
}
