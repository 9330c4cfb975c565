//! One line of an event stream.

/// What a line says; an empty one is not asked.
pub(super) enum Field<'a> {
    Data(&'a [u8]),
    Event(&'a [u8]),
    Comment,
    Other,
}

#[inline]
pub(super) fn field(line: &[u8]) -> Field<'_> {
    let value = |rest| <[u8]>::strip_prefix(rest, b" ").unwrap_or(rest);
    if let Some(rest) = line.strip_prefix(b"data:") {
        return Field::Data(value(rest));
    }
    if let Some(rest) = line.strip_prefix(b"event:") {
        return Field::Event(value(rest));
    }
    match line {
        [b':', ..] => Field::Comment,
        b"data" => Field::Data(b""),
        b"event" => Field::Event(b""),
        _ => Field::Other,
    }
}
