use bytes::Bytes;

use crate::flight::recording::{Recording, TooLate};

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
        let mut recording = Recording::new(limit);
        let mut held = 0;
        for number in 0..2 * limit / length {
            recording.push(&frame(number, length));
            held = held.max(recording.weight());
            assert!(
                recording.weight() <= limit + length + 96, // with the frame that was too much
                "{} of {limit}",
                recording.weight()
            );
        }
        assert!(recording.is_over() && recording.frames().is_none());
        // What is counted beside the bytes of a stream's usual events is little of it.
        if length == 150 {
            assert!(held > limit * 9 / 10);
        }
    }
}

#[test]
fn frames_stay_what_they_were_until_they_are_dropped() {
    let mut recording = Recording::new(64 << 10);
    for number in 0..2_000 {
        recording.push(&frame(number, 100));
        if let Ok(Some(old)) = recording.get(number / 2) {
            assert_eq!(*old, frame(number / 2, 100));
        }
    }
    assert_eq!(recording.get(0), Err(TooLate));
    assert_eq!(recording.get(1_999), Ok(Some(&frame(1_999, 100))));
    assert_eq!(recording.get(2_000), Ok(None));
    recording.forget_before(2_000);
    assert_eq!((recording.weight(), recording.end()), (0, 2_000));
}

#[test]
fn short_ones_are_kept_frame_for_frame_in_memory_of_their_own() {
    let mut recording = Recording::new(64 << 10);
    let frames: Vec<Bytes> = (0..50).map(|number| frame(number, number + 1)).collect();
    frames.iter().for_each(|frame| recording.push(frame));
    assert_eq!(recording.frames().as_deref(), Some(&*frames));
    assert_eq!(recording.whole(), Some(frames.concat().into()));
}
