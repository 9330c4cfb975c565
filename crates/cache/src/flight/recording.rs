//! What was received of an answer, in the frames it came in, bounded in bytes.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// What a frame costs beside its bytes: its handle, the room a queue keeps for more of them, and its count of readers.
const FRAME: usize = 96;
const FIRST_BLOCK: usize = 1024;
const LAST_BLOCK: usize = 64 * 1024;
/// Frames longer than this part of a block get memory of their own, so that the end of a block that they do not fit
/// into is little.
const PART: usize = 32;

/// Frames by index, append-only. They are copied into blocks of the recording's own, since a frame may be a slice of a
/// far larger buffer.
///
/// Once they would weigh more than `limit`, the first ones are dropped: what is left is a window for readers that are
/// not far apart, and no recording any more.
#[derive(Debug)]
pub(crate) struct Recording {
    frames: VecDeque<Bytes>,
    /// The index of the first frame in `frames`.
    base: usize,
    block: BytesMut,
    next_block: usize,
    last_block: usize,
    weight: usize,
    limit: usize,
    is_over: bool,
}

impl Recording {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            frames: VecDeque::new(),
            base: 0,
            block: BytesMut::new(),
            next_block: FIRST_BLOCK,
            // A block goes with its last frame: while the window moves, one may be more than it holds.
            last_block: (limit / 64).clamp(FIRST_BLOCK, LAST_BLOCK),
            weight: 0,
            limit,
            is_over: false,
        }
    }

    /// Whether it was too long to be kept.
    pub(crate) const fn is_over(&self) -> bool {
        self.is_over
    }

    /// The index that the next frame will have.
    pub(crate) fn end(&self) -> usize {
        self.base + self.frames.len()
    }

    /// The frame of this index; an error when it is not there any more.
    pub(crate) fn get(&self, index: usize) -> Result<Option<&Bytes>, TooLate> {
        let at = index.checked_sub(self.base).ok_or(TooLate)?;
        Ok(self.frames.get(at))
    }

    pub(crate) fn push(&mut self, data: &Bytes) {
        if !self.is_over {
            let apart = data.len() > self.last_block / PART || self.frames.is_empty();
            let room = self.block.capacity() - self.block.len();
            let more = match (apart, data.len() > room) {
                (true, _) => data.len(),
                (false, true) => self.next_block.max(data.len()),
                (false, false) => 0,
            };
            if self.weight + more + FRAME <= self.limit {
                self.weight += more + FRAME;
                let frame = if apart {
                    Bytes::copy_from_slice(data)
                } else {
                    self.in_block(data, more)
                };
                self.frames.push_back(frame);
                return;
            }
            // Nothing is dropped yet: whoever reads on only to have it recorded stops here, and takes nothing away from
            // those who really read.
            self.is_over = true;
            self.block = BytesMut::new();
            self.weight = self.frames.iter().map(weight).sum();
        } else {
            while self.weight + data.len() + FRAME > self.limit && !self.frames.is_empty() {
                self.drop_first();
            }
        }
        let frame = Bytes::copy_from_slice(data);
        self.weight += weight(&frame);
        self.frames.push_back(frame);
    }

    fn in_block(&mut self, data: &Bytes, more: usize) -> Bytes {
        if more > 0 {
            self.block = BytesMut::with_capacity(more);
            self.next_block = (self.next_block * 2).min(self.last_block);
        }
        self.block.extend_from_slice(data);
        self.block.split().freeze()
    }

    /// Lets go of what nobody will ask for again, once it cannot be kept anyway.
    pub(crate) fn forget_before(&mut self, index: usize) {
        while self.is_over && self.base < index && !self.frames.is_empty() {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(frame) = self.frames.pop_front() {
            self.weight -= weight(&frame);
            self.base += 1;
        }
    }

    /// All frames joined; `None` when the first are gone, or when there is no room for a second copy.
    pub(crate) fn whole(&mut self) -> Option<Bytes> {
        if self.is_over || self.base > 0 {
            return None;
        }
        match self.frames.len() {
            0 => Some(Bytes::new()),
            1 => self.frames.front().cloned(),
            _ => {
                let length = self.length();
                if self.weight + length > self.limit {
                    return None;
                }
                let whole = joined(&self.frames, length);
                self.weight += length;
                Some(whole)
            }
        }
    }

    /// All frames, those of a short answer in memory of their own; `None` when the first are gone.
    pub(crate) fn frames(&self) -> Option<Box<[Bytes]>> {
        if self.is_over || self.base > 0 {
            return None;
        }
        let length = self.length();
        if length > LAST_BLOCK {
            return Some(self.frames.iter().cloned().collect());
        }
        let mut whole = joined(&self.frames, length);
        let lengths = self.frames.iter().map(Bytes::len);
        Some(lengths.map(|length| whole.split_to(length)).collect())
    }

    fn length(&self) -> usize {
        self.frames.iter().map(Bytes::len).sum()
    }

    /// Bytes of memory that it takes, counted upwards.
    #[cfg(test)]
    pub(crate) const fn weight(&self) -> usize {
        self.weight
    }
}

/// The frame was dropped before it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLate;

fn weight(frame: &Bytes) -> usize {
    frame.len() + FRAME
}

fn joined(frames: &VecDeque<Bytes>, length: usize) -> Bytes {
    let mut whole = Vec::with_capacity(length);
    frames
        .iter()
        .for_each(|frame| whole.extend_from_slice(frame));
    whole.into()
}
