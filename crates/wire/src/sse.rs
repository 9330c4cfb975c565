//! Incremental [server-sent events](https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream).

mod line;

use std::fmt;
use std::mem;

use memchr::memchr2;

use self::line::{Field, field};

const BOM: &[u8] = b"\xEF\xBB\xBF";
const DEFAULT_LIMIT: usize = 1 << 20;
/// Room for the longest field prefix and every event name there is.
const LEAST_LIMIT: usize = 64;
/// Buffers above this are given back after the event that grew them.
const KEPT_CAPACITY: usize = 64 << 10;

/// One event, borrowed from the chunk when it was whole in it, else from the scanner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// Value of the last `event` field, empty if there was none.
    pub name: &'a [u8],
    /// The values of the `data` fields, joined by `\n`.
    pub data: &'a [u8],
    /// The event was longer than the limit: `name` and `data` hold only what fits.
    pub overflowed: bool,
}

/// Splits a byte stream into events. Any chunking of the same bytes gives the same events.
///
/// Knows LF, CR and CRLF, a leading byte order mark, comments and several `data` lines; ignores `id`, `retry` and
/// unknown fields. Events without `data` are not events, and neither is a last one without its blank line.
/// An event that is whole in a chunk is neither copied nor does it allocate.
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
/// assert!(!scanner.at_boundary()); // "eve" is the begin of something
/// ```
#[derive(Clone)]
pub struct SseScanner {
    limit: usize,
    /// Bytes of the byte order mark matched so far; `BOM.len()` once the begin of the stream is behind.
    bom: usize,
    /// The last chunk ended in CR: an LF at the begin of the next one belongs to it.
    skip_lf: bool,
    /// Begin of a line whose end is still to come.
    line: Vec<u8>,
    /// `line` lost bytes to the limit.
    line_cut: bool,
    name: Vec<u8>,
    data: Vec<u8>,
    event: Pending,
}

/// What the lines since the last blank one amount to.
#[derive(Clone, Copy, Default)]
struct Pending {
    has_field: bool,
    has_data: bool,
    overflowed: bool,
}

/// Fields that lie in the chunk at hand; they hide those in the scanner's own buffers.
#[derive(Default)]
struct InChunk<'c> {
    name: Option<&'c [u8]>,
    data: Option<&'c [u8]>,
}

impl SseScanner {
    /// A scanner that holds at most 1 MiB per event.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(DEFAULT_LIMIT)
    }

    /// A scanner with its own limit in bytes, at least 64. It bounds each line and the joined data of an event;
    /// its buffers hold at most three times that. What is beyond is skipped and reported as `overflowed`.
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

    /// Whether the bytes so far end between two events, so that something could be inserted here.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        !self.event.has_field && self.line.is_empty() && matches!(self.bom, 0 | 3)
    }

    /// Steps over a byte order mark and the second half of a CRLF.
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

    /// Keeps the begin of a line, as far as it fits.
    fn carry(&mut self, part: &[u8]) {
        let kept = part.len().min(self.limit - self.line.len());
        self.line.extend_from_slice(&part[..kept]);
        self.line_cut |= kept < part.len();
    }

    /// A line whose begin came in earlier chunks: the first of its chunk, nothing of which is remembered yet.
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

    /// A line that is whole in the chunk.
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

    /// A blank line: hands out the event, if there is one, and begins the next.
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

    /// The chunk goes away: what it holds of a half event is copied.
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

/// Shows sizes only: an event's bytes are nobody's to log.
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
