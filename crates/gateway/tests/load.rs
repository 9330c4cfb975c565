//! Many clients, slow clients, large requests: the gateway's memory stays bounded, and other
//! clients are served.
//!
//! The larger runs by `cargo test --release -p tower-claude-gateway --test load -- --ignored
//! --nocapture`. The file limit must allow 10,100 open files for the largest.
#![cfg(target_os = "linux")]

mod common;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, response::Response, routing::post};
use bytes::Bytes;
use common::{process::GatewayProcess, *};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

const KIB: usize = 1024;
const MIB: u64 = 1024; // In KiB, as memory is reported.

#[test]
#[ignore = "the gateway of the other tests"]
fn gateway_process() {
    process::serve();
}

/// Sends a message and checks that it is answered.
async fn is_served(gateway: &GatewayProcess) {
    let got = send(gateway.request("POST", "/v1/messages"), REQUEST).await;
    assert_eq!((got.status, got.text()), (200, MESSAGE));
}

async fn raw(addr: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Reads until the gateway closes the connection. Returns what came.
async fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    // A reset is an end as well.
    let _ = within(stream.read_to_end(&mut all)).await;
    String::from_utf8_lossy(&all).into_owned()
}

/// Opens connections, each with one request, and leaves them open.
async fn connections(count: usize) {
    let upstream = Upstream::with_message().await;
    let toml = format!(
        "server = {{ header_timeout = \"10m\", max_connections = {} }}",
        count + 1
    );
    let gateway = GatewayProcess::before(&upstream.url(), &toml, "");
    is_served(&gateway).await;
    let before = gateway.memory();
    let mut opening = JoinSet::new();
    let mut open = Vec::new();
    for _ in 0..count {
        let addr = gateway.addr;
        opening.spawn(async move {
            let mut stream = raw(addr, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
            read_until(&mut stream, "ok").await;
            stream
        });
        if opening.len() == 64 {
            open.extend(opening.join_next().await.map(Result::unwrap));
        }
    }
    open.extend(opening.join_all().await);
    let each = (gateway.memory() - before) as f64 / count as f64;
    println!("{count} open connections: {each:.1} KiB each");
    assert!(each < 40.0);
    // The last slot. `send` closes its connection afterwards.
    is_served(&gateway).await;
    is_served(&gateway).await;
    drop(open);
    is_served(&gateway).await;
}

#[tokio::test]
async fn open_connections_take_little_memory() {
    connections(500).await;
}

#[tokio::test]
#[ignore = "10,000 connections"]
async fn ten_thousand_open_connections_take_little_memory() {
    connections(10_000).await;
}

#[tokio::test]
async fn headers_that_arrive_byte_by_byte_are_cut() {
    let upstream = Upstream::with_message().await;
    let toml = "server.header_timeout = \"500ms\"";
    let gateway = GatewayProcess::before(&upstream.url(), toml, "");
    let mut slow = JoinSet::new();
    for number in 0..100 {
        let addr = gateway.addr;
        slow.spawn(async move {
            let whole = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
            // On some connections a whole request comes first.
            let first = if number % 2 == 0 { "" } else { whole };
            let stream = raw(addr, format!("{first}GET / HTTP/1.1\r\nx: ").as_bytes()).await;
            let (mut reads, mut writes) = stream.into_split();
            let dripping = async {
                while writes.write_all(b"x").await.is_ok() {
                    sleep(Duration::from_millis(20)).await;
                }
            };
            let mut all = Vec::new();
            tokio::select! {
                () = dripping => {}
                _ = reads.read_to_end(&mut all) => {}
            }
        });
    }
    is_served(&gateway).await;
    within(slow.join_all()).await;
    is_served(&gateway).await;
}

#[tokio::test]
async fn headers_without_end_are_cut_and_not_kept() {
    let upstream = Upstream::with_message().await;
    let gateway = GatewayProcess::before(&upstream.url(), "", "");
    is_served(&gateway).await;
    let before = gateway.peak_memory();
    let mut bombs = JoinSet::new();
    for number in 0..64 {
        let addr = gateway.addr;
        bombs.spawn(async move {
            let line = match number % 2 {
                0 => "x".repeat(64),
                _ => "x: 1\r\n".repeat(16),
            };
            let stream = raw(addr, b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx: ").await;
            let (mut reads, mut writes) = stream.into_split();
            let sending = tokio::spawn(async move {
                let mut sent = 0;
                // The gateway closes long before.
                while sent < 64 << 20 && writes.write_all(line.as_bytes()).await.is_ok() {
                    sent += line.len();
                }
                sent
            });
            let mut got = Vec::new();
            let _ = within(reads.read_to_end(&mut got)).await;
            let sent = within(sending).await.unwrap();
            (String::from_utf8_lossy(&got).into_owned(), sent)
        });
    }
    is_served(&gateway).await;
    for (got, sent) in within(bombs.join_all()).await {
        // The response is lost if the bytes that the gateway did not read reset the connection.
        assert!(got.is_empty() || got.starts_with("HTTP/1.1 431"), "{got}");
        assert!(sent < 64 << 20, "the connection stayed open");
    }
    is_served(&gateway).await;
    let grown = gateway.peak_memory() - before;
    println!("64 endless headers: {grown} KiB");
    assert!(grown < 24 * MIB);
    assert!(
        upstream
            .received()
            .iter()
            .all(|got| got.uri.path() != "/v1/models")
    );
}

#[tokio::test]
async fn http2_headers_without_end_are_cut() {
    let upstream = Upstream::with_message().await;
    let gateway = GatewayProcess::before(&upstream.url(), "", "");
    is_served(&gateway).await;
    let before = gateway.peak_memory();
    let frame = |kind: u8, flags: u8, stream: u8, data: &[u8]| {
        let length = u32::try_from(data.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, stream]);
        frame.extend(data);
        frame
    };
    let (settings, headers, continuation) = (4, 1, 9);
    let mut start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    start.extend(frame(settings, 0, 0, &[]));
    // Indexed `:method: GET`, and no flag for the end of the headers.
    start.extend(frame(headers, 0, 1, &[0x82]));
    let mut stream = raw(gateway.addr, &start).await;
    let more = frame(continuation, 0, 1, &[0x82; 4096]);
    let mut sent = 0;
    while sent < 64 << 20 && stream.write_all(&more).await.is_ok() {
        sent += more.len();
    }
    rest(&mut stream).await;
    assert!(sent < 64 << 20, "the connection stayed open");
    is_served(&gateway).await;
    assert!(gateway.peak_memory() - before < 16 * MIB);
}

/// A server of streams without end, as fast as they are read.
struct Flood {
    addr: SocketAddr,
    /// The number of open streams.
    open: Arc<AtomicUsize>,
    /// The bytes that were taken from all streams.
    sent: Arc<AtomicU64>,
}

/// Counts an open stream.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Flood {
    async fn new() -> Self {
        let (open, sent) = (Arc::<AtomicUsize>::default(), Arc::<AtomicU64>::default());
        let state = (open.clone(), sent.clone());
        let answer = move |request: Request| {
            let (open, sent) = state.clone();
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                if !body.starts_with(b"{\"stream\"") {
                    return json(200, MESSAGE);
                }
                open.fetch_add(1, Ordering::SeqCst);
                let guard = Open(open);
                let deltas = stream::repeat(DELTA.repeat(64)).inspect(move |data| {
                    let _guard = &guard;
                    sent.fetch_add(data.len() as u64, Ordering::SeqCst);
                });
                let chunks = stream::iter([START.to_owned()]).chain(deltas);
                let chunks = chunks.map(|text| Ok::<_, std::io::Error>(Bytes::from(text)));
                let mut response = Response::new(Body::from_stream(chunks));
                let kind = "text/event-stream".parse().unwrap();
                response.headers_mut().insert("content-type", kind);
                response
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { addr, open, sent }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_not_read_are_held_back_and_freed_when_their_clients_leave() {
    const CLIENTS: usize = 32;
    let flood = Flood::new().await;
    let gateway = GatewayProcess::before(&format!("http://{}", flood.addr), "", "");
    is_served(&gateway).await;
    let before = gateway.memory();
    let request = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\ncontent-length: {}\r\n\r\n{STREAM_REQUEST}",
        STREAM_REQUEST.len()
    );
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(raw(gateway.addr, request.as_bytes()).await);
    }
    // Until no byte moves for a second, because all buffers on the way are full.
    let mut last = u64::MAX;
    within(async {
        loop {
            let sent = flood.sent.load(Ordering::SeqCst);
            let is_open = flood.open.load(Ordering::SeqCst) == CLIENTS;
            if is_open && sent == last {
                return;
            }
            last = sent;
            sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
    let each = (gateway.memory() - before) as usize / CLIENTS;
    println!(
        "{CLIENTS} streams that are not read: {each} KiB each, {} KiB taken from the upstream",
        last as usize / CLIENTS / KIB
    );
    assert!(each < 2048);
    assert_eq!(gateway.in_flight().await, CLIENTS as f64);
    is_served(&gateway).await;
    // A slow reader gets what it reads, and no more is taken from the upstream than that.
    let mut buffer = vec![0; 16 * KIB];
    for _ in 0..20 {
        within(clients[0].read_exact(&mut buffer)).await.unwrap();
    }
    assert!(flood.sent.load(Ordering::SeqCst) - last < 8 << 20);
    drop(clients);
    within(async {
        while flood.open.load(Ordering::SeqCst) > 0 || gateway.in_flight().await > 0.0 {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    is_served(&gateway).await;
}

/// Uploads a file of so many bytes, and returns by how many KiB the memory grew at most.
async fn upload(bytes: u64) -> u64 {
    let count = |request: Request| async move {
        let mut body = request.into_body();
        let mut received = 0;
        while let Some(frame) = body.frame().await {
            received += frame.unwrap().data_ref().map_or(0, Bytes::len);
        }
        received.to_string()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let router = Router::new().route("/v1/files", post(count));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let gateway = GatewayProcess::before(&format!("http://{addr}"), "", "");
    let send = async |bytes: u64| {
        let head = format!(
            "POST /v1/files HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\nconnection: close\r\ncontent-length: {bytes}\r\n\r\n"
        );
        let mut stream = raw(gateway.addr, head.as_bytes()).await;
        let block = vec![b'x'; 64 * KIB];
        for _ in 0..bytes / block.len() as u64 {
            within(stream.write_all(&block)).await.unwrap();
        }
        let got = rest(&mut stream).await;
        assert!(got.starts_with("HTTP/1.1 200"), "{got}");
        assert!(got.ends_with(&format!("\r\n{bytes}")), "{got}");
    };
    send(1 << 20).await;
    let before = gateway.peak_memory();
    send(bytes).await;
    let grown = gateway.peak_memory() - before;
    println!("upload of {} MiB: {grown} KiB", bytes >> 20);
    grown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_is_streamed_and_not_kept() {
    assert!(upload(64 << 20).await < 8 * MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "1 GiB"]
async fn upload_of_a_gibibyte_is_streamed_and_not_kept() {
    assert!(upload(1 << 30).await < 8 * MIB);
}

#[tokio::test]
async fn upload_to_an_upstream_that_does_not_read_is_held_back() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let gateway = GatewayProcess::before(&format!("http://{addr}"), "", "");
    let before = gateway.memory();
    let head =
        "POST /v1/files HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\ncontent-length: 1073741824\r\n\r\n";
    let mut stream = raw(gateway.addr, head.as_bytes()).await;
    let block = vec![b'x'; 64 * KIB];
    let mut sent = 0_u64;
    // Until nothing is taken any more, because all buffers on the way are full.
    while let Ok(written) = timeout(Duration::from_secs(1), stream.write(&block)).await {
        sent += written.unwrap() as u64;
        assert!(sent < 256 << 20, "the upload is not held back");
    }
    let grown = gateway.memory() - before;
    println!(
        "upload that is not read: {grown} KiB, {} KiB taken",
        sent >> 10
    );
    assert!(grown < 8 * MIB);
}
