//! The connection of a request, which a fault can break.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::error::FakeError;
use crate::fault::{BreakKind, Fault};

/// Type of the frame that ends an HTTP/2 connection.
const GOAWAY: u8 = 7;

/// Rounds of the connection before it breaks, so that what was written before is sent.
const ROUNDS: u8 = 2;

/// End of a connection or of one of its streams.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LineEnd {
    /// The response ends with an error.
    Error,
    /// The stream is reset.
    Stream(u32),
    /// The connection is closed.
    Close,
    /// The connection is reset.
    Reset,
    /// The connection is closed after a `GOAWAY` with this last stream.
    GoAway(u32),
}

impl LineEnd {
    pub(crate) fn of(fault: &Fault) -> Self {
        match fault {
            Fault::Reset => Self::Reset,
            Fault::Break { how, .. } => match how {
                BreakKind::Close => Self::Close,
                BreakKind::GoAwayUntaken => Self::GoAway(0),
                BreakKind::GoAwayTaken => Self::GoAway(u32::MAX >> 1),
                BreakKind::ResetStream(code) => Self::Stream((*code).min(13)),
            },
            _ => Self::Error,
        }
    }

    /// Returns the error with which the response ends. Never ready if the end of the connection
    /// ends it. `in_process` is the error of a caller without a connection.
    pub(crate) fn poll_break(self, line: Option<&Line>, in_process: FakeError) -> Poll<FakeError> {
        match (self, line) {
            (Self::Error, _) | (_, None) => Poll::Ready(in_process),
            (Self::Stream(code), Some(_)) => Poll::Ready(FakeError::StreamReset(code)),
            (end, Some(line)) => {
                line.end(end);
                Poll::Pending
            }
        }
    }
}

/// A connection, as its requests see it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line(Arc<Mutex<LineState>>);

#[derive(Debug, Default)]
struct LineState {
    end: Option<LineEnd>,
    rounds: u8,
    is_http2: bool,
    closed: bool,
    reader: Option<Waker>,
}

impl Line {
    /// Records the version that the connection speaks.
    pub(crate) fn set_http2(&self, is_http2: bool) {
        self.state().is_http2 = is_http2;
    }

    /// Ends the connection.
    fn end(&self, end: LineEnd) {
        let mut state = self.state();
        state.end.get_or_insert(end);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, LineState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket whose line can end.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) line: Line,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(LineEnd::Reset) = self.line.state().end {
            // Closing a socket that lingers for zero seconds sends RST instead of FIN.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, line } = self.get_mut();
        let mut state = line.state();
        if state.closed {
            return Poll::Ready(Ok(()));
        }
        state.reader = Some(cx.waker().clone());
        let Some(end) = state.end else {
            drop(state);
            return Pin::new(stream).poll_read(cx, buf);
        };
        if state.rounds < ROUNDS {
            state.rounds += 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let (LineEnd::GoAway(last), true) = (end, state.is_http2) {
            let mut frame = [0; 17];
            (frame[2], frame[3]) = (8, GOAWAY);
            frame[9..13].copy_from_slice(&last.to_be_bytes());
            // A few bytes fit into the buffer of the socket.
            let _ = Pin::new(stream).poll_write(cx, &frame);
        }
        state.closed = true;
        // No bytes: the end of the input, at which hyper drops the connection.
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, line } = self.get_mut();
        if line.state().closed {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, line } = self.get_mut();
        if let Some(LineEnd::Reset) = line.state().end {
            // The drop of the socket resets it.
            return Poll::Ready(Ok(()));
        }
        Pin::new(stream).poll_shutdown(cx)
    }
}
