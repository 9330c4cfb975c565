//! The same over real sockets. Nothing here looks at a clock: every wait is for bytes or for the
//! log.

mod common;

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tower_claude_fake_claude::{BreakKind, BreakPoint, FakeClaude, FakeServer, Fault};

const FOREVER: Duration = Duration::from_secs(86_400);

fn request(stream: bool) -> Vec<u8> {
    let body = common::json(stream);
    format!(
        "POST /v1/messages HTTP/1.1\r\nhost: fake\r\nx-api-key: k\r\nanthropic-version: 2023-06-01\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

async fn connect(server: &FakeServer, stream: bool) -> TcpStream {
    let mut socket = TcpStream::connect(server.addr()).await.unwrap();
    socket.write_all(&request(stream)).await.unwrap();
    socket
}

/// Reads until `wanted` has come, or the connection ends.
async fn read_until(socket: &mut TcpStream, wanted: &str) -> (String, Option<io::ErrorKind>) {
    let mut seen = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&seen).into_owned();
        if !wanted.is_empty() && text.contains(wanted) {
            return (text, None);
        }
        let mut buffer = [0; 4096];
        match socket.read(&mut buffer).await {
            Ok(0) => return (text, Some(io::ErrorKind::UnexpectedEof)),
            Ok(count) => seen.extend_from_slice(&buffer[..count]),
            Err(error) => return (text, Some(error.kind())),
        }
    }
}

/// The end of a chunked body.
const LAST_CHUNK: &str = "\r\n0\r\n\r\n";

#[tokio::test]
async fn connection_is_reused_for_the_next_request() {
    let fake = FakeClaude::default();
    let server = fake.serve().await.unwrap();
    assert_eq!(server.url(), format!("http://{}", server.addr()));
    let mut socket = connect(&server, true).await;
    let (text, end) = read_until(&mut socket, LAST_CHUNK).await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && end.is_none());
    assert!(text.contains("event: message_stop"));
    socket.write_all(&request(false)).await.unwrap();
    let (text, end) = read_until(&mut socket, "\"inference_geo\":\"global\"}}").await;
    assert!(text.contains("content-length: ") && end.is_none(), "{text}");
    fake.wait_for(|log| log.iter().filter(|attempt| attempt.completed).count() == 2)
        .await;
    assert_eq!(fake.in_flight(), 0);
}

#[tokio::test]
async fn error_on_a_socket_has_status_and_headers() {
    let fake = FakeClaude::default();
    let server = fake.serve().await.unwrap();
    let cases = [
        (Fault::Overloaded, "HTTP/1.1 529 ", "x-should-retry: true"),
        (Fault::ServerError, "HTTP/1.1 500 ", "api_error"),
        (Fault::Unavailable, "HTTP/1.1 503 ", "api_error"),
        (Fault::Timeout504, "HTTP/1.1 504 ", "timeout_error"),
        (
            Fault::RateLimited {
                retry_after: Duration::from_secs(7),
            },
            "HTTP/1.1 429 ",
            "retry-after: 7\r\n",
        ),
        (Fault::RateLimitedBare, "HTTP/1.1 429 ", "rate_limit_error"),
        (
            Fault::Ramp {
                retry_after: Duration::from_secs(2),
            },
            "HTTP/1.1 429 ",
            "ramp_limit_exceeded",
        ),
        (Fault::SpendCap, "HTTP/1.1 429 ", "x-should-retry: false"),
        (
            Fault::OwnSpendLimit,
            "HTTP/1.1 400 ",
            "specified API usage limits",
        ),
        (
            Fault::NonJson(http::StatusCode::BAD_GATEWAY),
            "HTTP/1.1 502 ",
            "content-type: text/html",
        ),
    ];
    let mut socket = TcpStream::connect(server.addr()).await.unwrap();
    for (fault, status, part) in cases {
        let end = if matches!(fault, Fault::NonJson(_)) {
            "</html>\r\n"
        } else {
            "}"
        };
        let end = if end == "}" {
            "\"request_id\":\"req_"
        } else {
            end
        };
        fake.inject(fault.clone());
        socket.write_all(&request(true)).await.unwrap();
        let (mut text, _) = read_until(&mut socket, end).await;
        if !text.ends_with("</html>\r\n") && !text.ends_with('}') {
            text += &read_until(&mut socket, "}").await.0;
        }
        assert!(text.starts_with(status), "{fault:?}: {text}");
        assert!(text.contains(part), "{fault:?}: {text}");
    }
}

#[tokio::test]
async fn reset_on_a_socket_is_before_the_first_byte() {
    let fake = FakeClaude::default();
    let server = fake.serve().await.unwrap();
    fake.inject(Fault::Reset);
    let mut socket = connect(&server, true).await;
    let (text, end) = read_until(&mut socket, "").await;
    assert_eq!(
        (text.as_str(), end),
        ("", Some(io::ErrorKind::ConnectionReset))
    );
    // Only that connection.
    let mut socket = connect(&server, true).await;
    assert!(read_until(&mut socket, LAST_CHUNK).await.1.is_none());
}

#[tokio::test]
async fn broken_stream_delivers_earlier_events() {
    let fake = FakeClaude::default();
    let server = fake.serve().await.unwrap();
    let delta = "event: content_block_delta";
    // What breaks it, how many deltas come, whether the body ends as a body should.
    let cases = [
        (Fault::ErrorBeforeContent, 0, true),
        (Fault::ErrorMidStream { after_tokens: 8 }, 2, true),
        (Fault::Truncated { after_tokens: 4 }, 1, true),
        (Fault::TruncatedBeforeContent, 0, true),
        (Fault::Cut { after_tokens: 8 }, 2, false),
        (Fault::Cut { after_tokens: 0 }, 0, false),
    ];
    for (fault, deltas, clean) in cases {
        fake.inject(fault.clone());
        let mut socket = connect(&server, true).await;
        let (text, end) = read_until(&mut socket, LAST_CHUNK).await;
        assert!(text.contains("event: message_start"), "{fault:?}: {text}");
        assert_eq!(text.matches(delta).count(), deltas, "{fault:?}");
        assert_eq!(end.is_none(), clean, "{fault:?}: {end:?}");
        assert!(!text.contains("message_stop"));
        let error = matches!(
            fault,
            Fault::ErrorBeforeContent | Fault::ErrorMidStream { .. }
        );
        assert_eq!(text.contains("event: error"), error);
        let content = text.contains("event: content_block_start");
        let attempt = fake.log().pop().unwrap();
        assert_eq!(attempt.broken_after_content, content, "{fault:?}");
        assert!(
            !attempt.client_gone && attempt.finished_at.is_some(),
            "{fault:?}"
        );
    }
    assert_eq!(fake.in_flight(), 0);
}

#[tokio::test]
async fn broken_json_delivers_earlier_bytes() {
    let fake = FakeClaude::default();
    let server = fake.serve().await.unwrap();
    for (fault, clean) in [
        (Fault::Truncated { after_tokens: 8 }, true),
        (Fault::Cut { after_tokens: 8 }, false),
    ] {
        fake.inject(fault);
        let mut socket = connect(&server, false).await;
        let (text, end) = read_until(&mut socket, LAST_CHUNK).await;
        assert!(text.contains("{\"id\":\"msg_") && !text.contains("inference_geo"));
        assert_eq!(end.is_none(), clean);
    }
    assert!(
        fake.log()
            .iter()
            .all(|attempt| attempt.broken_after_content)
    );
}

#[tokio::test]
async fn closed_connection_ends_the_attempt() {
    let fake = FakeClaude::default();
    let server = fake.serve().await.unwrap();
    // During a silence in the middle of a stream, of a JSON body, and before the head.
    for (index, (fault, stream)) in [
        (
            Fault::Stall {
                after_tokens: 4,
                duration: FOREVER,
            },
            true,
        ),
        (
            Fault::Stall {
                after_tokens: 4,
                duration: FOREVER,
            },
            false,
        ),
        (Fault::SlowHead(FOREVER), true),
        (Fault::SlowHead(FOREVER), false),
    ]
    .into_iter()
    .enumerate()
    {
        let slow_head = matches!(fault, Fault::SlowHead(_));
        fake.inject(fault);
        let mut socket = connect(&server, stream).await;
        if slow_head {
            fake.wait_for(|log| log.len() > index).await;
        } else {
            let some = if stream {
                "event: content_block_delta"
            } else {
                "{\"id\":\"msg_"
            };
            read_until(&mut socket, some).await;
        }
        assert_eq!(fake.in_flight(), 1);
        drop(socket);
        fake.wait_for(|log| log[index].client_gone).await;
        assert_eq!(fake.in_flight(), 0);
    }
}

#[tokio::test]
async fn shutdown_closes_port_and_open_connections() {
    let fake = FakeClaude::default();
    let server = fake.serve().await.unwrap();
    let addr = server.addr();
    fake.inject(Fault::Stall {
        after_tokens: 4,
        duration: FOREVER,
    });
    let mut socket = connect(&server, true).await;
    read_until(&mut socket, "event: content_block_delta").await;
    server.shutdown().await;
    fake.wait_for(|log| log[0].finished_at.is_some()).await;
    assert!(read_until(&mut socket, "").await.1.is_some());
    assert!(TcpStream::connect(addr).await.is_err());
    assert_eq!(fake.in_flight(), 0);
}

/// Sends one request over HTTP/2, and returns its status and body.
async fn over_http2(server: &FakeServer) -> Result<(u16, Vec<u8>), h2::Error> {
    let socket = TcpStream::connect(server.addr()).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("{}/v1/messages", server.url()))
        .header("x-api-key", "k")
        .header("anthropic-version", "2023-06-01")
        .body(())
        .unwrap();
    let (response, mut body) = client.ready().await?.send_request(request, false)?;
    body.send_data(common::json(true).into(), true)?;
    let response = response.await?;
    let (status, mut data) = (response.status().as_u16(), response.into_body());
    let mut bytes = Vec::new();
    while let Some(part) = data.data().await {
        let part = part?;
        data.flow_control().release_capacity(part.len())?;
        bytes.extend_from_slice(&part);
    }
    connection.abort();
    Ok((status, bytes))
}

#[tokio::test]
async fn http2_is_answered_and_broken_as_asked() {
    let fake = FakeClaude::default();
    let server = fake.serve().await.unwrap();
    let (status, body) = over_http2(&server).await.unwrap();
    assert_eq!(status, 200);
    assert!(
        String::from_utf8(body)
            .unwrap()
            .contains("event: message_stop")
    );
    for at in [
        BreakPoint::BeforeHead,
        BreakPoint::AfterHead,
        BreakPoint::AfterTokens(2),
    ] {
        let fail = async |how| {
            fake.inject(Fault::Break { how, at });
            over_http2(&server).await
        };
        for code in [2, 7] {
            let error = fail(BreakKind::ResetStream(code)).await.unwrap_err();
            assert!(error.is_reset() && error.is_remote(), "{at:?}: {error}");
            assert_eq!(error.reason(), Some(code.into()));
        }
        let error = fail(BreakKind::GoAwayUntaken).await.unwrap_err();
        assert!(error.is_go_away() && error.is_remote(), "{at:?}: {error}");
        assert_eq!(error.reason(), Some(h2::Reason::NO_ERROR));
        for how in [BreakKind::Close, BreakKind::GoAwayTaken] {
            let error = fail(how).await.unwrap_err();
            assert!(error.is_io(), "{at:?}: {error}");
        }
    }
    // Only what was injected.
    assert_eq!(over_http2(&server).await.unwrap().0, 200);
}
