//! Reader of the frames of an AWS event stream.

use aws_smithy_eventstream::frame::read_message_from;
use aws_smithy_types::event_stream::Message;

/// The two lengths at the start of a frame, and their checksum.
const PRELUDE: usize = 12;
/// The prelude and the checksum at the end.
const LEAST_FRAME: usize = PRELUDE + 4;
/// The greatest frame, as the protocol defines it.
const MOST_FRAME: usize = 16 << 20;
/// The most headers, as the protocol defines it.
const MOST_HEADERS: usize = 128 << 10;
/// Larger buffers are freed after the frame that grew them.
const KEPT_CAPACITY: usize = 64 << 10;

/// A reader that splits a byte stream into frames. The chunking of the bytes does not matter.
///
/// A frame that is complete in one chunk is not copied. The buffer grows with the bytes that have
/// arrived, and never with a length that a frame only claims to have.
#[derive(Default)]
pub(super) struct FrameReader {
    /// The start of a frame that is not complete.
    held: Vec<u8>,
}

impl FrameReader {
    /// Reads the next chunk and passes each frame that ends in it on, until `on_frame` returns an
    /// error.
    ///
    /// Nothing can be read after an error, because the start of the next frame is unknown.
    pub(super) fn read(
        &mut self,
        mut chunk: &[u8],
        mut on_frame: impl FnMut(Message) -> Result<(), BrokenFrame>,
    ) -> Result<(), BrokenFrame> {
        loop {
            if !self.held.is_empty() {
                self.take(&mut chunk, PRELUDE);
                let Some(length) = frame_length(&self.held)? else {
                    return Ok(());
                };
                self.take(&mut chunk, length);
                if self.held.len() < length {
                    return Ok(());
                }
                let message = read_frame(&self.held)?;
                self.held.clear();
                self.held.shrink_to(KEPT_CAPACITY);
                on_frame(message)?;
            }
            match frame_length(chunk)? {
                Some(length) if length <= chunk.len() => {
                    let (frame, rest) = chunk.split_at(length);
                    on_frame(read_frame(frame)?)?;
                    chunk = rest;
                }
                _ => {
                    self.held.extend_from_slice(chunk);
                    return Ok(());
                }
            }
        }
    }

    /// Returns true if the bytes so far end between two frames.
    pub(super) fn at_boundary(&self) -> bool {
        self.held.is_empty()
    }

    /// Moves bytes from the chunk into the buffer, until the buffer has this length.
    fn take(&mut self, chunk: &mut &[u8], length: usize) {
        let missing = length.saturating_sub(self.held.len());
        let (part, rest) = chunk.split_at(missing.min(chunk.len()));
        self.held.extend_from_slice(part);
        *chunk = rest;
    }
}

/// Returns the length of the frame that starts here, checked. `None` if its prelude is incomplete.
///
/// The library checks a prelude when the whole frame is there. By then a damaged length would have
/// swallowed the frames that follow, and the stream would seem to hang.
fn frame_length(frame: &[u8]) -> Result<Option<usize>, BrokenFrame> {
    let Some(prelude) = frame.first_chunk::<PRELUDE>() else {
        return Ok(None);
    };
    let word = |at: usize| {
        let bytes = [
            prelude[at],
            prelude[at + 1],
            prelude[at + 2],
            prelude[at + 3],
        ];
        u32::from_be_bytes(bytes)
    };
    if crc32fast::hash(&prelude[..8]) != word(8) {
        return Err(BrokenFrame("a frame has a wrong checksum of its lengths"));
    }
    let (length, headers) = (word(0) as usize, word(4) as usize);
    if !(LEAST_FRAME..=MOST_FRAME).contains(&length) {
        return Err(BrokenFrame("a frame is too short or over 16 MiB long"));
    }
    if headers > MOST_HEADERS.min(length - LEAST_FRAME) {
        return Err(BrokenFrame(
            "a frame has headers that are longer than itself or than 128 KiB",
        ));
    }
    Ok(Some(length))
}

/// Reads a whole frame, and checks its checksum.
fn read_frame(frame: &[u8]) -> Result<Message, BrokenFrame> {
    read_message_from(frame)
        .map_err(|_| BrokenFrame("a frame has a wrong checksum or an invalid header"))
}

/// The reason why an event stream cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BrokenFrame(pub(super) &'static str);

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let length = (LEAST_FRAME + payload.len()) as u32;
        let mut frame = [length.to_be_bytes(), [0; 4]].concat();
        frame.extend(crc32fast::hash(&frame).to_be_bytes());
        frame.extend(payload);
        frame.extend(crc32fast::hash(&frame).to_be_bytes());
        frame
    }

    #[test]
    fn claimed_length_reserves_no_memory() {
        let mut reader = FrameReader::default();
        let longest = frame(&vec![0; MOST_FRAME - LEAST_FRAME]);
        let read = reader.read(&longest[..100], |_| panic!("the frame is not complete"));
        assert_eq!(read, Ok(()));
        assert!(reader.held.capacity() < 1_000);
    }

    #[test]
    fn longest_frame_is_read_and_its_buffer_is_freed() {
        let mut reader = FrameReader::default();
        let longest = frame(&vec![7; MOST_FRAME - LEAST_FRAME]);
        let mut lengths = Vec::new();
        for chunk in longest.chunks(1 << 20) {
            let read = reader.read(chunk, |message| {
                lengths.push(message.payload().len());
                Ok(())
            });
            assert_eq!(read, Ok(()));
            assert!(reader.held.len() < MOST_FRAME);
        }
        assert_eq!(lengths, [MOST_FRAME - LEAST_FRAME]);
        assert!(reader.at_boundary());
        assert!(reader.held.capacity() <= KEPT_CAPACITY);
    }

    #[test]
    fn frames_in_one_chunk_are_not_buffered() {
        let mut reader = FrameReader::default();
        let chunk = frame(b"one").repeat(3);
        let mut count = 0;
        let read = reader.read(&chunk, |_| {
            count += 1;
            Ok(())
        });
        assert_eq!((read, count), (Ok(()), 3));
        assert_eq!(reader.held.capacity(), 0);
    }
}
