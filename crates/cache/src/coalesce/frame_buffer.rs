//! A buffer of the received frames of a response, bounded in bytes.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Bytes of memory a frame takes beside its data: its handle, spare room in the queue, and its
/// reference count.
const FRAME_OVERHEAD: usize = 112;
/// The number of tiny frames in a row that are joined into one, because each frame has an overhead.
const RUN: usize = 64;
/// The length in bytes below which a frame is tiny.
const TINY: usize = 64;
/// Bytes of the first block. Each block doubles the size of the one before, up to the last.
const FIRST_BLOCK: usize = 1024;
const LAST_BLOCK: usize = 64 * 1024;
/// Frames longer than this fraction of a block get memory of their own, so that little of a block
/// stays unused.
const OWN_MEMORY_FRACTION: usize = 32;

/// An append-only buffer of frames by the position of their bytes. Frames are copied into blocks of
/// the buffer, because a frame may be a slice of a much larger read buffer.
///
/// Once the frames would weigh more than `limit`, the first frames are dropped. What remains is a
/// sliding window for readers that are close together, and the response is no longer complete.
#[derive(Debug)]
pub(crate) struct FrameBuffer {
    /// The frames, each with the position of its first byte.
    frames: VecDeque<(u64, Bytes)>,
    /// The position after the last frame.
    end: u64,
    /// The number of tiny frames at the end.
    run: usize,
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
            end: 0,
            run: 0,
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

    /// Returns the position of the next frame to be pushed.
    pub(crate) const fn end(&self) -> u64 {
        self.end
    }

    /// Returns the frame at `position`, or the rest of it if the position is within a frame. `None`
    /// if it was not received yet.
    pub(crate) fn get(&self, position: u64) -> Result<Option<Bytes>, Lagged> {
        if position >= self.end {
            return Ok(None);
        }
        // Most readers are at the last frame.
        let index = match self.frames.back() {
            Some((start, _)) if *start <= position => self.frames.len(),
            _ => self.frames.partition_point(|(start, _)| *start <= position),
        };
        let frame = index
            .checked_sub(1)
            .and_then(|index| self.frames.get(index));
        let (start, frame) = frame.ok_or(Lagged)?;
        Ok(Some(frame.slice((position - start) as usize..)))
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
                self.append(frame);
                return self.join_run();
            }
            // Nothing is dropped yet: a detached task stops reading here, and must not drop frames
            // that readers still need.
            self.is_over = true;
            self.block = BytesMut::new();
            self.weight = self.frames.iter().map(|(_, frame)| weight(frame)).sum();
        } else {
            while self.weight + data.len() + FRAME_OVERHEAD > self.limit && !self.frames.is_empty()
            {
                self.drop_first();
            }
        }
        let frame = Bytes::copy_from_slice(data);
        self.weight += weight(&frame);
        self.append(frame);
    }

    fn append(&mut self, frame: Bytes) {
        self.run = if frame.len() < TINY { self.run + 1 } else { 0 };
        let start = self.end;
        self.end += frame.len() as u64;
        self.frames.push_back((start, frame));
    }

    /// Joins the tiny frames at the end, once they are many.
    fn join_run(&mut self) {
        if self.run < RUN {
            return;
        }
        let run = self.frames.split_off(self.frames.len() - RUN);
        if let Some((start, _)) = run.front() {
            let frame = joined(&run, length(&run));
            self.weight += weight(&frame);
            self.weight -= RUN * FRAME_OVERHEAD;
            self.frames.push_back((*start, frame));
        }
        self.run = 0;
    }

    fn in_block(&mut self, data: &Bytes, more: usize) -> Bytes {
        if more > 0 {
            self.block = BytesMut::with_capacity(more);
            self.next_block = (self.next_block * 2).min(self.last_block);
        }
        self.block.extend_from_slice(data);
        self.block.split().freeze()
    }

    /// Drops the frames before `position`, if the response is too long to be kept anyway.
    pub(crate) fn drop_before(&mut self, position: u64) {
        let is_read = |(start, frame): &(u64, Bytes)| start + frame.len() as u64 <= position;
        while self.is_over && self.frames.front().is_some_and(is_read) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some((_, frame)) = self.frames.pop_front() {
            self.weight -= weight(&frame);
        }
    }

    /// Returns all frames joined, or `None` if frames were dropped or there is no room for a second
    /// copy.
    pub(crate) fn whole(&mut self) -> Option<Bytes> {
        let length = length(&self.frames);
        if self.is_over {
            return None;
        }
        if let (1, Some((_, only))) = (self.frames.len(), self.frames.front()) {
            return Some(only.clone());
        }
        if length > 0 && self.weight + length > self.limit {
            return None;
        }
        self.weight += length;
        Some(joined(&self.frames, length))
    }

    /// Returns all frames, or `None` if frames were dropped. Frames of a short response share one
    /// block of exact size.
    pub(crate) fn frames(&self) -> Option<Box<[Bytes]>> {
        if self.is_over {
            return None;
        }
        let frames = self.frames.iter().map(|(_, frame)| frame);
        let length = length(&self.frames);
        if length > LAST_BLOCK {
            return Some(frames.cloned().collect());
        }
        let mut whole = joined(&self.frames, length);
        Some(frames.map(|frame| whole.split_to(frame.len())).collect())
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

fn length(frames: &VecDeque<(u64, Bytes)>) -> usize {
    frames.iter().map(|(_, frame)| frame.len()).sum()
}

fn joined(frames: &VecDeque<(u64, Bytes)>, length: usize) -> Bytes {
    let mut whole = Vec::with_capacity(length);
    for (_, frame) in frames {
        whole.extend_from_slice(frame);
    }
    whole.into()
}
