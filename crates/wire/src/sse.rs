//! Incremental parser for [server-sent
//! events](https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream).

use std::fmt;
use std::mem;

use memchr::memchr2;

pub(crate) const BOM: &[u8] = b"\xEF\xBB\xBF";
const DEFAULT_LIMIT: usize = 1 << 20;
/// Enough for the longest field prefix and every known event name.
const LEAST_LIMIT: usize = 64;
/// Larger buffers are freed after the event that grew them.
const KEPT_CAPACITY: usize = 64 << 10;

/// One event, borrowed from the chunk if it is complete in it, else from the scanner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// Value of the last `event` field, or empty.
    pub name: &'a [u8],
    /// The values of the `data` fields, joined by `\n`.
    pub data: &'a [u8],
    /// True if the event was longer than the limit. `name` and `data` are then cut.
    pub overflowed: bool,
}

/// A scanner that splits a byte stream into events. The chunking of the bytes does not matter.
///
/// It accepts LF, CR and CRLF, a leading byte order mark, comments and several `data` lines. It
/// ignores `id`, `retry` and unknown fields. As the standard requires, an event without `data` is
/// dropped, and so is a last event without its blank line, unless [`finish`](Self::finish) is
/// called. An event that is complete in one chunk is not copied.
///
/// ```
/// use tower_claude_wire::SseScanner;
///
/// let mut names = Vec::new();
/// let mut scanner = SseScanner::new();
/// for chunk in ["event: pi", "ng\ndata: {}\n\neve"] {
///     scanner.feed(chunk.as_bytes(), |event| names.push(event.name.to_vec()));
/// }
/// assert_eq!(names, [b"ping"]);
/// assert!(!scanner.at_boundary()); // "eve" begins an event
/// ```
#[derive(Clone)]
pub struct SseScanner {
    limit: usize,
    /// Bytes of the byte order mark matched so far. `BOM.len()` after the first other byte.
    bom: usize,
    /// The last chunk ended in CR. An LF at the start of the next chunk belongs to it.
    skip_lf: bool,
    /// The start of a line that is not complete.
    line: Vec<u8>,
    /// `line` was cut at the limit.
    line_cut: bool,
    name: Vec<u8>,
    data: Vec<u8>,
    event: Pending,
}

/// State of the event whose lines have been read since the last blank line.
#[derive(Clone, Copy, Default)]
struct Pending {
    has_field: bool,
    has_data: bool,
    overflowed: bool,
}

/// Fields in the current chunk. They override the fields in the scanner's own buffers.
#[derive(Default)]
struct InChunk<'c> {
    name: Option<&'c [u8]>,
    data: Option<&'c [u8]>,
}

impl SseScanner {
    /// Creates a scanner with a limit of 1 MiB per event.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(DEFAULT_LIMIT)
    }

    /// Creates a scanner with a limit in bytes, at least 64. It applies to each line and to the
    /// joined data of an event, so the buffers hold at most three times as much. Further bytes are
    /// dropped, and the event is marked as `overflowed`.
    #[must_use]
    pub fn with_limit(bytes: usize) -> Self {
        Self {
            limit: bytes.max(LEAST_LIMIT),
            bom: 0,
            skip_lf: false,
            line: Vec::new(),
            line_cut: false,
            name: Vec::new(),
            data: Vec::new(),
            event: Pending::default(),
        }
    }

    /// Reads the next chunk and calls `on_event` for every event that ends in it.
    pub fn feed(&mut self, chunk: &[u8], mut on_event: impl FnMut(SseEvent<'_>)) {
        let mut rest = self.begin(chunk);
        let mut fields = InChunk::default();
        while let Some(&first) = rest.first() {
            // A blank line needs no search.
            let end = if first == b'\n' {
                Some(0)
            } else {
                memchr2(b'\n', b'\r', rest)
            };
            let Some(end) = end else {
                self.carry(rest);
                break;
            };
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            if rest[end] == b'\r' {
                self.skip_lf = after.is_empty();
                rest = after.strip_prefix(b"\n").unwrap_or(after);
            } else {
                rest = after;
            }
            if !self.line.is_empty() {
                self.carried_line(line);
            } else if line.is_empty() {
                self.dispatch(&mut fields, &mut on_event);
            } else {
                let kept = &line[..line.len().min(self.limit)];
                self.chunk_line(kept, kept.len() < line.len(), &mut fields);
            }
        }
        self.keep(&fields);
    }

    /// Ends the stream, and calls `on_event` for a last event without its blank line.
    ///
    /// The standard drops such an event, because it may be cut. The caller must check its data.
    pub fn finish(&mut self, mut on_event: impl FnMut(SseEvent<'_>)) {
        if !self.line.is_empty() {
            self.carried_line(b"");
        }
        self.dispatch(&mut InChunk::default(), &mut on_event);
    }

    /// Returns true if the bytes so far end between two events, so that an event could be inserted
    /// here.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        !self.event.has_field && self.line.is_empty() && matches!(self.bom, 0 | 3)
    }

    /// Skips a byte order mark and the second half of a CRLF.
    fn begin<'c>(&mut self, mut chunk: &'c [u8]) -> &'c [u8] {
        while self.bom < BOM.len()
            && let Some(&byte) = chunk.first()
        {
            if byte == BOM[self.bom] {
                chunk = &chunk[1..];
                self.bom += 1;
            } else {
                self.line.extend_from_slice(&BOM[..self.bom]);
                self.bom = BOM.len();
            }
        }
        if self.skip_lf && !chunk.is_empty() {
            self.skip_lf = false;
            chunk = chunk.strip_prefix(b"\n").unwrap_or(chunk);
        }
        chunk
    }

    /// Stores the start of a line up to the limit.
    fn carry(&mut self, part: &[u8]) {
        let kept = part.len().min(self.limit - self.line.len());
        self.line.extend_from_slice(&part[..kept]);
        self.line_cut |= kept < part.len();
    }

    /// Handles a line that began in an earlier chunk. It is the first of its chunk, so no field of
    /// this chunk is pending.
    fn carried_line(&mut self, tail: &[u8]) {
        self.carry(tail);
        let mut line = mem::take(&mut self.line);
        let cut = mem::take(&mut self.line_cut);
        match field(&line) {
            Field::Data(value) => self.push_data(value, cut),
            Field::Event(value) => {
                self.event.has_field = true;
                self.event.overflowed |= cut;
                replace(&mut self.name, value);
            }
            Field::Other => self.event.has_field = true,
            Field::Comment => {}
        }
        if line.capacity() <= KEPT_CAPACITY {
            line.clear();
            self.line = line;
        }
    }

    /// Handles a line that is complete in the chunk.
    #[inline]
    fn chunk_line<'c>(&mut self, line: &'c [u8], cut: bool, fields: &mut InChunk<'c>) {
        match field(line) {
            Field::Data(value) if !self.event.has_data => {
                self.event.has_field = true;
                self.event.has_data = true;
                self.event.overflowed |= cut;
                fields.data = Some(value);
            }
            Field::Data(value) => {
                if let Some(first) = fields.data.take() {
                    replace(&mut self.data, first);
                }
                self.push_data(value, cut);
            }
            Field::Event(value) => {
                self.event.has_field = true;
                self.event.overflowed |= cut;
                fields.name = Some(value);
            }
            Field::Other => self.event.has_field = true,
            Field::Comment => {}
        }
    }

    /// Handles a blank line: passes on the event, if there is one, and begins the next.
    #[inline]
    fn dispatch(&mut self, fields: &mut InChunk<'_>, on_event: &mut impl FnMut(SseEvent<'_>)) {
        let event = mem::take(&mut self.event);
        let fields = mem::take(fields);
        if event.has_data {
            on_event(SseEvent {
                name: fields.name.unwrap_or(&self.name),
                data: fields.data.unwrap_or(&self.data),
                overflowed: event.overflowed,
            });
        }
        clear(&mut self.name);
        clear(&mut self.data);
    }

    fn push_data(&mut self, value: &[u8], cut: bool) {
        let joint: &[u8] = if self.event.has_data { b"\n" } else { b"" };
        let mut cut = cut;
        for part in [joint, value] {
            let kept = part.len().min(self.limit - self.data.len());
            self.data.extend_from_slice(&part[..kept]);
            cut |= kept < part.len();
        }
        self.event.has_field = true;
        self.event.has_data = true;
        self.event.overflowed |= cut;
    }

    /// Copies the fields of an incomplete event, because the chunk is not available later.
    fn keep(&mut self, fields: &InChunk<'_>) {
        if let Some(name) = fields.name {
            replace(&mut self.name, name);
        }
        if let Some(data) = fields.data {
            replace(&mut self.data, data);
        }
    }
}

impl Default for SseScanner {
    fn default() -> Self {
        Self::new()
    }
}

/// Shows sizes only: the content of events must not appear in logs.
impl fmt::Debug for SseScanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SseScanner")
            .field("limit", &self.limit)
            .field("pending_line", &self.line.len())
            .field("pending_data", &self.data.len())
            .field("at_boundary", &self.at_boundary())
            .finish_non_exhaustive()
    }
}

fn replace(buffer: &mut Vec<u8>, with: &[u8]) {
    buffer.clear();
    buffer.extend_from_slice(with);
}

#[inline]
fn clear(buffer: &mut Vec<u8>) {
    buffer.clear();
    if buffer.capacity() > KEPT_CAPACITY {
        *buffer = Vec::new();
    }
}

/// Field of one line that is not empty.
enum Field<'a> {
    Data(&'a [u8]),
    Event(&'a [u8]),
    Comment,
    Other,
}

#[inline]
fn field(line: &[u8]) -> Field<'_> {
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
