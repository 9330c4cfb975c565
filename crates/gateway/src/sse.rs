//! The body of a stream of server-sent events: heartbeats, the idle timeout, and the end of the
//! process.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http_body::Frame;
use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};
use tower_claude::wire::ApiError;

use crate::config::StreamConfig;

/// The event that keeps a connection alive. Clients ignore it, as the API itself sends it.
pub(crate) const PING: &str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";

type Cut = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A stream of events from an upstream.
///
/// Its bytes pass unchanged and as they arrive. Between two events a `ping` event is added when the
/// upstream has been silent for too long. The stream ends with an `error` event when the silence
/// goes on, and when the process ends.
pub(crate) struct EventStream {
    /// `None` after the end.
    inner: Option<Body>,
    boundary: Boundary,
    heartbeat: Option<Duration>,
    idle: Duration,
    ping: Bytes,
    last_received: Instant,
    last_sent: Instant,
    timer: Pin<Box<Sleep>>,
    cut: Cut,
}

impl EventStream {
    /// Wraps a body. `cut` becomes true when the process ends.
    pub(crate) fn new(inner: Body, config: &StreamConfig, mut cut: watch::Receiver<bool>) -> Self {
        let now = Instant::now();
        let padding = match config.heartbeat_padding {
            0 => String::new(),
            size => format!(":{:1$}\n", "", size.saturating_sub(2)),
        };
        Self {
            inner: Some(inner),
            boundary: Boundary::default(),
            heartbeat: Some(config.heartbeat).filter(|time| !time.is_zero()),
            idle: config.idle_timeout,
            ping: format!("{padding}{PING}").into(),
            last_received: now,
            last_sent: now,
            timer: Box::pin(sleep_until(now)),
            cut: Box::pin(async move {
                if cut.wait_for(|is_cut| *is_cut).await.is_err() {
                    // Without a server there is nothing that could end.
                    std::future::pending::<()>().await;
                }
            }),
        }
    }

    /// Returns the time of the next ping. `None` within an event.
    fn ping_at(&self) -> Option<Instant> {
        let time = self.heartbeat.filter(|_| self.boundary.is_at())?;
        Some(self.last_sent + time)
    }

    /// Ends the stream with an `error` event.
    fn fail(&mut self, kind: &str, message: &str) -> Frame<Bytes> {
        self.inner = None;
        // A blank line closes an event that was cut in half.
        let close = if self.boundary.is_at() { "" } else { "\n\n" };
        let data = ApiError::body(kind, message, None);
        Frame::data(format!("{close}event: error\ndata: {data}\n\n").into())
    }
}

impl http_body::Body for EventStream {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = Pin::new(inner).poll_frame(cx) {
            if let Some(Ok(frame)) = &frame {
                let now = Instant::now();
                (this.last_received, this.last_sent) = (now, now);
                if let Some(data) = frame.data_ref() {
                    this.boundary.feed(data);
                }
            } else {
                this.inner = None;
            }
            return Poll::Ready(frame);
        }
        if this.cut.as_mut().poll(cx).is_ready() {
            tracing::info!("stream cut at the end of the drain");
            let message = "the gateway is shutting down, send the request again";
            return Poll::Ready(Some(Ok(this.fail("api_error", message))));
        }
        loop {
            let now = Instant::now();
            let cut_at = this.last_received + this.idle;
            if cut_at <= now {
                tracing::warn!(idle = ?this.idle, "upstream went silent within a stream");
                let message = "upstream went silent";
                return Poll::Ready(Some(Ok(this.fail("api_error", message))));
            }
            let ping_at = this.ping_at();
            if ping_at.is_some_and(|at| at <= now) {
                this.last_sent = now;
                return Poll::Ready(Some(Ok(Frame::data(this.ping.clone()))));
            }
            let next = ping_at.map_or(cut_at, |at| at.min(cut_at));
            this.timer.as_mut().reset(next);
            if this.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

/// The last bytes of a stream, to find out whether it is between two events.
struct Boundary([u8; 3]);

impl Default for Boundary {
    /// The start of a stream is between two events.
    fn default() -> Self {
        Self(*b"\n\n\n")
    }
}

impl Boundary {
    fn feed(&mut self, data: &[u8]) {
        let tail = &data[data.len().saturating_sub(3)..];
        self.0.rotate_left(tail.len());
        self.0[3 - tail.len()..].copy_from_slice(tail);
    }

    /// Returns true after a blank line. Lines end with LF, CR or CRLF.
    const fn is_at(&self) -> bool {
        matches!(
            self.0,
            [_, b'\n', b'\n'] | [_, b'\r', b'\r'] | [b'\n' | b'\r', b'\r', b'\n']
        )
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body_util::BodyExt;
    use tokio::{sync::mpsc, time::timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_within_an_event_gets_no_ping_and_after_it_one_each_time() {
        let (sender, receiver) = mpsc::unbounded_channel::<Bytes>();
        let chunks = stream::unfold(receiver, async |mut receiver| {
            let chunk = receiver.recv().await?;
            Some((Ok::<_, Infallible>(chunk), receiver))
        });
        let config = StreamConfig::default();
        let (_cut, is_cut) = watch::channel(false);
        let mut events = EventStream::new(Body::from_stream(chunks), &config, is_cut);
        let mut next = async |patience| {
            let frame = timeout(patience, events.frame()).await.ok()?;
            let frame = frame.expect("no end").expect("no error");
            let data = frame.into_data().expect("it has data");
            Some(String::from_utf8_lossy(&data).into_owned())
        };
        sender.send(Bytes::from_static(b"data: 1")).unwrap();
        assert_eq!(next(config.heartbeat).await.as_deref(), Some("data: 1"));
        let long = config.idle_timeout - Duration::from_secs(1);
        assert_eq!(next(long).await, None);
        sender.send(Bytes::from_static(b"\n\n")).unwrap();
        assert_eq!(next(config.heartbeat).await.as_deref(), Some("\n\n"));
        for _ in 0..3 {
            let early = config.heartbeat - Duration::from_secs(1);
            assert_eq!(next(early).await, None);
            assert_eq!(next(config.heartbeat).await.as_deref(), Some(PING));
        }
    }

    #[test]
    fn boundary_in_chunks_of_any_size_is_found() {
        for (text, is_at) in [
            ("", true),
            ("data: 1", false),
            ("data: 1\n", false),
            ("data: 1\n\n", true),
            ("data: 1\r\n", false),
            ("data: 1\r\n\r\n", true),
            ("data: 1\r\r", true),
            ("data: 1\n\r\n", true),
            ("data: 1\n\n:", false),
            ("\n", true),
        ] {
            for size in 1..=text.len().max(1) {
                let mut boundary = Boundary::default();
                text.as_bytes()
                    .chunks(size)
                    .for_each(|chunk| boundary.feed(chunk));
                assert_eq!(boundary.is_at(), is_at, "{text:?} in chunks of {size}");
            }
        }
    }
}
