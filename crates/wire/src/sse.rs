//! Incremental server-sent events.

/// One dispatched event, borrowed from the chunk (or from the scanner when it straddled chunks).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// Value of the last `event` field, empty if there was none.
    pub name: &'a [u8],
    /// The `data` lines, joined by `\n`.
    pub data: &'a [u8],
    /// The event was longer than the limit: `name` and `data` hold only what fits.
    pub overflowed: bool,
}

/// Splits a byte stream into events; any chunking gives the same events.
#[derive(Clone, Debug, Default)]
pub struct SseScanner {}

impl SseScanner {
    /// A scanner that holds at most 1 MiB per event.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(1 << 20)
    }

    /// A scanner with its own limit per event, in bytes.
    #[must_use]
    pub fn with_limit(_bytes: usize) -> Self {
        Self {}
    }

    /// Reads the next chunk and calls `on_event` for every event that ends in it.
    pub fn feed(&mut self, _chunk: &[u8], _on_event: impl FnMut(SseEvent<'_>)) {}

    /// Whether nothing of a half event is pending.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        true
    }
}
