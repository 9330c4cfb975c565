//! A buffer of the received frames of a response, bounded in bytes.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Bytes of memory a frame takes beside its data: its handle, spare room in the queue, and its
/// reference count.
const FRAME_OVERHEAD: usize = 96;
/// Bytes of the first block. Each block doubles the size of the one before, up to the last.
const FIRST_BLOCK: usize = 1024;
const LAST_BLOCK: usize = 64 * 1024;
/// Frames longer than this fraction of a block get memory of their own, so that little of a block
/// stays unused.
const OWN_MEMORY_FRACTION: usize = 32;

/// An append-only buffer of frames by index. Frames are copied into blocks of the buffer, because a
/// frame may be a slice of a much larger read buffer.
///
/// Once the frames would weigh more than `limit`, the first frames are dropped. What remains is a
/// sliding window for readers that are close together, and the response is no longer complete.
#[derive(Debug)]
pub(crate) struct FrameBuffer {
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

impl FrameBuffer {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            frames: VecDeque::new(),
            base: 0,
            block: BytesMut::new(),
            next_block: FIRST_BLOCK,
            // A block is freed with its last frame, so a moving window holds up to one block more
            // than its frames.
            last_block: (limit / 64).clamp(FIRST_BLOCK, LAST_BLOCK),
            weight: 0,
            limit,
            is_over: false,
        }
    }

    /// Returns true if the response was too long for the buffer.
    pub(crate) const fn is_over(&self) -> bool {
        self.is_over
    }

    /// Returns the index of the next frame to be pushed.
    pub(crate) fn end(&self) -> usize {
        self.base + self.frames.len()
    }

    /// Returns the frame at `index`, or `None` if it was not received yet.
    pub(crate) fn get(&self, index: usize) -> Result<Option<&Bytes>, Lagged> {
        let at = index.checked_sub(self.base).ok_or(Lagged)?;
        Ok(self.frames.get(at))
    }

    pub(crate) fn push(&mut self, data: &Bytes) {
        if !self.is_over {
            let apart =
                data.len() > self.last_block / OWN_MEMORY_FRACTION || self.frames.is_empty();
            let room = self.block.capacity() - self.block.len();
            let more = match (apart, data.len() > room) {
                (true, _) => data.len(),
                (false, true) => self.next_block.max(data.len()),
                (false, false) => 0,
            };
            if self.weight + more + FRAME_OVERHEAD <= self.limit {
                self.weight += more + FRAME_OVERHEAD;
                let frame = if apart {
                    Bytes::copy_from_slice(data)
                } else {
                    self.in_block(data, more)
                };
                self.frames.push_back(frame);
                return;
            }
            // Nothing is dropped yet: a detached task stops reading here, and must not drop frames
            // that readers still need.
            self.is_over = true;
            self.block = BytesMut::new();
            self.weight = self.frames.iter().map(weight).sum();
        } else {
            while self.weight + data.len() + FRAME_OVERHEAD > self.limit && !self.frames.is_empty()
            {
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

    /// Drops the frames before `index`, if the response is too long to be kept anyway.
    pub(crate) fn drop_before(&mut self, index: usize) {
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

    /// Returns all frames joined, or `None` if frames were dropped or there is no room for a second
    /// copy.
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

    /// Returns all frames, or `None` if frames were dropped. Frames of a short response share one
    /// block of exact size.
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

    /// Returns an upper bound of the memory use in bytes.
    #[cfg(test)]
    pub(crate) const fn weight(&self) -> usize {
        self.weight
    }
}

/// An error: the frame was dropped before it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lagged;

fn weight(frame: &Bytes) -> usize {
    frame.len() + FRAME_OVERHEAD
}

fn joined(frames: &VecDeque<Bytes>, length: usize) -> Bytes {
    let mut whole = Vec::with_capacity(length);
    frames
        .iter()
        .for_each(|frame| whole.extend_from_slice(frame));
    whole.into()
}
