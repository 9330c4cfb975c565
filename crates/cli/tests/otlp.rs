//! Traces as a collector gets them, and the trace as an upstream gets it.
#![cfg(all(feature = "otlp", unix))]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT_SPAN: &str = "b7ad6b7169203331";

const MESSAGE: &str = r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-5-5","content":[{"type":"text","text":"Hi"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":3,"output_tokens":1}}"#;

const OVERLOADED: &str =
    r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;

/// A request as a server received it.
struct Received {
    head: String,
    body: Vec<u8>,
}

impl Received {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1);
        let mut headers = lines.filter_map(|line| line.split_once(": "));
        let found = headers.find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    }
}

/// Reads a request from a connection. `None` at its end.
fn read(stream: &mut BufReader<TcpStream>) -> Option<Received> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let mut received = Received {
        head,
        body: Vec::new(),
    };
    let length = received
        .header("content-length")
        .map_or(0, |length| length.parse().expect("the length is a number"));
    received.body.resize(length, 0);
    stream.read_exact(&mut received.body).ok()?;
    Some(received)
}

/// Starts a server with these answers, the last one for all further requests. Returns its address
/// and its requests.
fn serve(answers: &'static [(u16, &'static str)]) -> (String, mpsc::Receiver<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it has an address");
    let (sender, requests) = mpsc::channel();
    let (count, counted) = mpsc::channel();
    thread::spawn(move || {
        for number in 0.. {
            if count
                .send(answers[usize::min(number, answers.len() - 1)])
                .is_err()
            {
                return;
            }
        }
    });
    let counted = std::sync::Arc::new(std::sync::Mutex::new(counted));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (sender, counted) = (sender.clone(), counted.clone());
            thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                while let Some(request) = read(&mut stream) {
                    let (status, body) = counted.lock().unwrap().recv().expect("an answer");
                    let _ = sender.send(request);
                    let answer = format!(
                        "HTTP/1.1 {status} OK\r\ncontent-type: application/json\r\n\
                         request-id: req_1\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (format!("http://{addr}"), requests)
}

/// A value of a field in protobuf.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Returns the fields of a message in protobuf with their numbers.
fn fields(mut message: &[u8]) -> Vec<(u64, Field<'_>)> {
    fn varint(message: &mut &[u8]) -> u64 {
        let mut number = 0;
        for shift in (0..).step_by(7) {
            let (byte, rest) = message.split_first().expect("the message is whole");
            *message = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        number
    }
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let length = match tag & 7 {
            0 => {
                fields.push((tag >> 3, Field::Number(varint(&mut message))));
                continue;
            }
            1 => 8,
            5 => 4,
            _ => usize::try_from(varint(&mut message)).expect("it is short"),
        };
        let (bytes, rest) = message.split_at(length);
        message = rest;
        fields.push((tag >> 3, Field::Bytes(bytes)));
    }
    fields
}

/// Returns the messages in a field that is repeated.
fn repeated(message: &[u8], number: u64) -> Vec<&[u8]> {
    let fields = fields(message).into_iter();
    let found = fields.filter(|(found, _)| *found == number);
    found
        .filter_map(|(_, field)| match field {
            Field::Bytes(bytes) => Some(bytes),
            Field::Number(_) => None,
        })
        .collect()
}

/// A span as the collector gets it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    /// 2 for a server, 3 for a client.
    kind: u64,
}

/// Returns the spans of a request to the collector.
fn spans(request: &[u8]) -> Vec<Span> {
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let mut spans = Vec::new();
    for resource in repeated(request, 1) {
        for scope in repeated(resource, 2) {
            for span in repeated(scope, 2) {
                let mut found = Span::default();
                for field in fields(span) {
                    match field {
                        (1, Field::Bytes(id)) => found.trace = hex(id),
                        (2, Field::Bytes(id)) => found.id = hex(id),
                        (4, Field::Bytes(id)) => found.parent = hex(id),
                        (5, Field::Bytes(name)) => {
                            found.name = String::from_utf8_lossy(name).into_owned();
                        }
                        (6, Field::Number(kind)) => found.kind = kind,
                        _ => {}
                    }
                }
                spans.push(found);
            }
        }
    }
    spans
}

/// A running program. It is killed if a test fails.
struct Program(Child, std::path::PathBuf);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_file(&self.1);
    }
}

/// Runs the program in front of an upstream, sends one request through it and ends it with SIGTERM.
/// Returns its log.
fn run(name: &str, upstream: &str, variables: &[(&str, &str)]) -> String {
    let file = format!("tower-claude-otlp-{name}-{}.toml", std::process::id());
    let file = std::env::temp_dir().join(file);
    std::fs::write(&file, format!("[[upstreams]]\nurl = \"{upstream}\"\n")).expect("it is written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tower-claude"));
    command
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ])
        .arg("--config")
        .arg(&file)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
        .envs(variables.iter().copied());
    let mut program = Program(command.spawn().expect("it starts"), file);
    // It is kept, because a program that cannot print ends.
    let mut lines = BufReader::new(program.0.stdout.take().expect("it is piped")).lines();
    let address = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| Some(line.strip_prefix("listening on http://")?.to_owned()))
        .expect("the address is printed");
    let body = r#"{"model":"claude-sonnet-5-5","max_tokens":4,"messages":[{"role":"user","content":"canary-prompt"}]}"#;
    let mut stream = TcpStream::connect(&address).expect("it listens");
    let request = format!(
        "POST /v1/messages?q=canary-query HTTP/1.1\r\nhost: {address}\r\nx-api-key: canary-key\r\n\
         anthropic-version: 2023-06-01\r\ncontent-type: application/json\r\n\
         traceparent: 00-{TRACE}-{CLIENT_SPAN}-01\r\ntracestate: vendor=1\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut response = String::new();
    stream
        .read_to_string(&mut response)
        .expect("it is answered");
    assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
    assert!(response.ends_with(MESSAGE), "{response}");
    let id = program.0.id().to_string();
    let killed = Command::new("kill").args(["-TERM", &id]).status();
    assert!(killed.expect("kill is there").success());
    let mut log = String::new();
    let mut stderr = program.0.stderr.take().expect("it is piped");
    stderr.read_to_string(&mut log).expect("it is text");
    assert_eq!(program.0.wait().expect("it ends").code(), Some(0), "{log}");
    log
}

#[test]
fn collector_gets_request_call_and_attempts_in_the_trace_of_the_client() {
    let (upstream, attempts) = serve(&[(529, OVERLOADED), (200, MESSAGE)]);
    let (collector, exports) = serve(&[(200, "")]);
    let log = run(
        "export",
        &upstream,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-collector-key=abc"),
            ("OTEL_SERVICE_NAME", "name-of-the-service"),
        ],
    );
    assert!(!log.contains("traces are not exported"), "{log}");
    let exports: Vec<Received> = exports.try_iter().collect();
    assert!(!exports.is_empty(), "the end exports what is left");
    let mut found = Vec::new();
    for export in &exports {
        assert!(
            export.head.starts_with("POST /v1/traces "),
            "{}",
            export.head
        );
        assert_eq!(export.header("x-collector-key"), Some("abc"));
        let text = String::from_utf8_lossy(&export.body);
        assert!(text.contains("name-of-the-service"));
        assert!(text.contains("gen_ai.usage.input_tokens"), "{text}");
        assert!(!text.contains("canary"), "{text}");
        found.extend(spans(&export.body));
    }
    let named =
        |name: &str| -> Vec<&Span> { found.iter().filter(|span| span.name == name).collect() };
    let (request, call, attempt) = (
        named("POST /v1/messages"),
        named("chat claude-sonnet-5-5"),
        named("attempt"),
    );
    assert_eq!(
        [request.len(), call.len(), attempt.len()],
        [1, 1, 2],
        "{found:#?}"
    );
    assert!(found.iter().all(|span| span.trace == TRACE), "{found:#?}");
    assert_eq!((&*request[0].parent, request[0].kind), (CLIENT_SPAN, 2));
    assert_eq!((&call[0].parent, call[0].kind), (&request[0].id, 3));
    let mut sent = Vec::new();
    for span in attempt {
        assert_eq!((&span.parent, span.kind), (&call[0].id, 3));
        sent.push(format!("00-{TRACE}-{}-01", span.id));
    }
    let attempts: Vec<Received> = attempts.try_iter().collect();
    let mut got: Vec<_> = attempts
        .iter()
        .map(|it| it.header("traceparent").unwrap_or_default())
        .collect();
    sent.sort();
    got.sort_unstable();
    assert_eq!(got, sent);
    assert_eq!(attempts[0].header("tracestate"), Some("vendor=1"));
}

#[test]
fn trace_of_the_client_passes_unchanged_without_an_endpoint() {
    let (upstream, attempts) = serve(&[(200, MESSAGE)]);
    run("pass", &upstream, &[]);
    let attempts: Vec<Received> = attempts.try_iter().collect();
    assert_eq!(attempts.len(), 1);
    let expected = format!("00-{TRACE}-{CLIENT_SPAN}-01");
    assert_eq!(attempts[0].header("traceparent"), Some(&*expected));
    assert_eq!(attempts[0].header("tracestate"), Some("vendor=1"));
}

#[test]
fn failing_collector_is_logged_once_and_disturbs_nothing() {
    let (upstream, _attempts) = serve(&[(200, MESSAGE)]);
    let (collector, exports) = serve(&[(400, "")]);
    let log = run(
        "failing",
        &upstream,
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector)],
    );
    assert!(exports.try_recv().is_ok(), "an export was tried");
    let lines = log
        .lines()
        .filter(|line| line.contains("traces are not exported"));
    assert_eq!(
        lines.filter(|line| line.contains("400")).count(),
        1,
        "{log}"
    );
}
