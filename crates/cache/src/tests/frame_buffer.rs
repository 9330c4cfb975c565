use bytes::Bytes;

use crate::coalesce::frame_buffer::{FrameBuffer, Lagged};

fn frame(number: usize, length: usize) -> Bytes {
    // Of a far larger buffer, as a client's frames are.
    let buffer = Bytes::from(vec![number as u8; length + 100_000]);
    buffer.slice(..length)
}

#[test]
fn it_weighs_no_more_than_its_limit_and_a_frame() {
    for (limit, length) in [
        (4 << 20, 150),
        (4 << 20, 7),
        (4 << 20, 70_000),
        (16 << 10, 100),
        (16 << 10, 15_000),
    ] {
        let mut buffer = FrameBuffer::new(limit);
        let mut held = 0;
        for number in 0..2 * limit / length {
            buffer.push(&frame(number, length));
            held = held.max(buffer.weight());
            assert!(
                buffer.weight() <= limit + length + 96, // with the frame that was too much
                "{} of {limit}",
                buffer.weight()
            );
        }
        assert!(buffer.is_over() && buffer.frames().is_none());
        // What is counted beside the bytes of a stream's usual events is little of it.
        if length == 150 {
            assert!(held > limit * 9 / 10);
        }
    }
}

#[test]
fn frames_stay_what_they_were_until_they_are_dropped() {
    let mut buffer = FrameBuffer::new(64 << 10);
    for number in 0..2_000 {
        buffer.push(&frame(number, 100));
        if let Ok(Some(old)) = buffer.get(number / 2) {
            assert_eq!(*old, frame(number / 2, 100));
        }
    }
    assert_eq!(buffer.get(0), Err(Lagged));
    assert_eq!(buffer.get(1_999), Ok(Some(&frame(1_999, 100))));
    assert_eq!(buffer.get(2_000), Ok(None));
    buffer.drop_before(2_000);
    assert_eq!((buffer.weight(), buffer.end()), (0, 2_000));
}

#[test]
fn short_ones_are_kept_frame_for_frame_in_memory_of_their_own() {
    let mut buffer = FrameBuffer::new(64 << 10);
    let frames: Vec<Bytes> = (0..50).map(|number| frame(number, number + 1)).collect();
    frames.iter().for_each(|frame| buffer.push(frame));
    assert_eq!(buffer.frames().as_deref(), Some(&*frames));
    assert_eq!(buffer.whole(), Some(frames.concat().into()));
}
