use bytes::Bytes;

use crate::coalesce::frame_buffer::{FrameBuffer, Lagged};

fn frame(number: usize, length: usize) -> Bytes {
    // A slice of a much larger buffer, as a client's frames are.
    let buffer = Bytes::from(vec![number as u8; length + 100_000]);
    buffer.slice(..length)
}

#[test]
fn frame_buffer_weighs_at_most_its_limit_plus_one_frame() {
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
                buffer.weight() <= limit + length + 112, // with the frame that was too much
                "{} of {limit}",
                buffer.weight()
            );
        }
        assert!(buffer.is_over() && buffer.frames().is_none());
        // For events of the usual length, the overhead is small.
        if length == 150 {
            assert!(held > limit * 9 / 10);
        }
    }
}

#[test]
fn buffered_frame_is_unchanged_until_dropped() {
    let mut buffer = FrameBuffer::new(64 << 10);
    for number in 0..2_000 {
        buffer.push(&frame(number, 100));
        if let Ok(Some(old)) = buffer.get(number as u64 / 2 * 100) {
            assert_eq!(old, frame(number / 2, 100));
        }
    }
    assert_eq!(buffer.get(0), Err(Lagged));
    assert_eq!(buffer.get(199_900), Ok(Some(frame(1_999, 100))));
    assert_eq!(buffer.get(200_000), Ok(None));
    buffer.drop_before(200_000);
    assert_eq!((buffer.weight(), buffer.end()), (0, 200_000));
}

#[test]
fn tiny_frames_take_hardly_more_memory_than_their_bytes() {
    let text: Vec<u8> = (0..65_000u32).map(|number| number as u8).collect();
    let mut buffer = FrameBuffer::new(4 << 20);
    // Readers are at any position while frames are joined.
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for (number, byte) in text.iter().enumerate() {
        buffer.push(&Bytes::copy_from_slice(&[*byte]));
        near.extend(buffer.get(near.len() as u64).unwrap().unwrap());
        if number % 100 == 0 {
            far.extend(buffer.get(far.len() as u64).unwrap().unwrap());
        }
    }
    while let Some(frame) = buffer.get(far.len() as u64).unwrap() {
        far.extend(frame);
    }
    assert!(near == text && far == text);
    assert!(buffer.weight() < 6 * text.len(), "{}", buffer.weight());
    let frames = buffer.frames().expect("all frames");
    assert!(frames.len() < 1_100 && frames.concat() == text);
    assert!(buffer.whole().expect("room for a copy") == text);
}

#[test]
fn short_response_is_copied_frame_by_frame() {
    let mut buffer = FrameBuffer::new(64 << 10);
    let frames: Vec<Bytes> = (0..50).map(|number| frame(number, number + 1)).collect();
    frames.iter().for_each(|frame| buffer.push(frame));
    assert_eq!(buffer.frames().as_deref(), Some(&*frames));
    assert_eq!(buffer.whole(), Some(frames.concat().into()));
}
