//! The load: a client of HTTP/1.1 that does no more than it must, since it shares the processors
//! with what it measures.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};

use crate::messages::{DELTA, IDLE, JSON, STREAM, request};

/// The end of a chunked body.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A connection of a client.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(addr: SocketAddr, size: usize) -> Self {
        let stream = TcpStream::connect(addr).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        let buffer = vec![0; size];
        Self { stream, buffer }
    }

    async fn read(&mut self, from: usize) -> usize {
        let read = self.stream.read(&mut self.buffer[from..]).await;
        let read = read.expect("a response");
        assert!(read > 0, "the connection was closed");
        from + read
    }

    /// Sends a request and reads the head of its response. Returns the number of bytes read, and
    /// the length of the head.
    async fn head(&mut self, request: &[u8]) -> (usize, usize) {
        self.stream.write_all(request).await.expect("a server");
        let mut read = 0;
        loop {
            read = self.read(read).await;
            let head = memmem::find(&self.buffer[..read], b"\r\n\r\n");
            if let Some(head) = head {
                let text = String::from_utf8_lossy(&self.buffer[..read]);
                assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
                return (read, head + 4);
            }
        }
    }

    /// Sends a request and reads the response, which has a `content-length`.
    async fn json(&mut self, request: &[u8]) {
        let (mut read, head) = self.head(request).await;
        let name = b"content-length: ";
        let at = memmem::find(&self.buffer[..head], name).expect("a length") + name.len();
        let digits = self.buffer[at..head].iter();
        let digits = digits.take_while(|byte| byte.is_ascii_digit());
        let length = digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
        while read < head + length {
            read = self.read(read).await;
        }
        assert_eq!(read, head + length);
    }

    /// Sends a request and reads the response, which is chunked.
    async fn stream(&mut self, request: &[u8]) {
        let (mut end, _) = self.head(request).await;
        while !self.buffer[..end].ends_with(LAST_CHUNK) {
            // What was read before may hold the start of the last chunk.
            let kept = end.min(LAST_CHUNK.len());
            self.buffer.copy_within(end - kept..end, 0);
            end = self.read(kept).await;
        }
    }
}

/// The counts of a round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Round {
    /// The times of all requests.
    pub(crate) times: Vec<Duration>,
    /// The time of the round.
    pub(crate) time: Duration,
}

impl Round {
    pub(crate) fn per_second(&self) -> f64 {
        self.times.len() as f64 / self.time.as_secs_f64()
    }

    /// Returns the time that this share of the requests does not exceed.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let index = (self.times.len() as f64 * share) as usize;
        self.times.get(index).copied().unwrap_or_default()
    }
}

/// Sends requests for JSON on these many connections for `time`.
pub(crate) async fn requests(addr: SocketAddr, connections: usize, time: Duration) -> Round {
    run(addr, connections, time, false).await
}

/// The same for streams. Each is read to its end.
pub(crate) async fn streams(addr: SocketAddr, connections: usize, time: Duration) -> Round {
    run(addr, connections, time, true).await
}

async fn run(addr: SocketAddr, connections: usize, time: Duration, is_stream: bool) -> Round {
    let request: Arc<[u8]> = request(if is_stream { STREAM } else { JSON }).into();
    let mut clients = JoinSet::new();
    let size = if is_stream { 64 << 10 } else { 8 << 10 };
    let start = Instant::now();
    for _ in 0..connections {
        let request = request.clone();
        clients.spawn(async move {
            let mut connection = Connection::open(addr, size).await;
            let mut times = Vec::new();
            while start.elapsed() < time {
                let began = Instant::now();
                if is_stream {
                    connection.stream(&request).await;
                } else {
                    connection.json(&request).await;
                }
                times.push(began.elapsed());
            }
            times
        });
    }
    let mut times: Vec<Duration> = clients.join_all().await.into_iter().flatten().collect();
    times.sort_unstable();
    let time = start.elapsed();
    Round { times, time }
}

/// Open streams that are silent.
pub(crate) struct IdleStreams(Vec<Connection>);

impl IdleStreams {
    /// Opens streams, some at a time, and waits for the first content of each.
    pub(crate) async fn open(addr: SocketAddr, count: usize) -> Self {
        let request: Arc<[u8]> = request(IDLE).into();
        let mut opening = JoinSet::new();
        let mut open = Vec::with_capacity(count);
        for _ in 0..count {
            let request = request.clone();
            opening.spawn(async move {
                let mut connection = Connection::open(addr, 4 << 10).await;
                let (mut read, _) = connection.head(&request).await;
                while memmem::find(&connection.buffer[..read], b"content_block_start").is_none() {
                    read = connection.read(read).await;
                }
                connection.buffer = Vec::new();
                connection
            });
            if opening.len() >= 64 {
                open.extend(
                    opening
                        .join_next()
                        .await
                        .map(|done| done.expect("it opens")),
                );
            }
        }
        open.extend(opening.join_all().await);
        Self(open)
    }

    /// Waits for a heartbeat on each stream.
    pub(crate) async fn wait_for_pings(&mut self) {
        let mut buffer = [0; DELTA.len() * 8];
        for connection in &mut self.0 {
            let read = connection.stream.read(&mut buffer).await;
            let read = read.expect("an open stream");
            let text = &buffer[..read];
            assert!(memmem::find(text, b"event: ping").is_some(), "no heartbeat");
        }
    }
}
