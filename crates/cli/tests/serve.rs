//! The program as a user runs it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tower-claude"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A file that is removed at the end.
struct File(PathBuf);

impl File {
    fn new(name: &str, content: &str) -> Self {
        let name = format!("tower-claude-{name}-{}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).unwrap();
        Self(path)
    }

    fn check(&self) -> Output {
        let mut program = program();
        program.args(["serve", "--check", "--config"]).arg(&self.0);
        program.env("CANARY_KEY", "canary").output().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn check_of_a_valid_file_prints_all_fields_without_secrets() {
    let file = File::new("valid", "[[upstreams]]\nkey = { env = \"CANARY_KEY\" }\n");
    let output = file.check();
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(shown.contains("drain_timeout = \"10m\"") && shown.contains("*** (env CANARY_KEY)"));
    assert!(!shown.contains("canary"), "{shown}");
}

#[test]
fn check_of_an_invalid_file_prints_every_error_and_fails() {
    let file = File::new(
        "invalid",
        "listen = 1\n[server]\nbody_bytes = \"1\"\nunknown = 1\n",
    );
    let output = file.check();
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    for part in [
        "line 1: listen: ",
        "line 3: server.body_bytes: ",
        "line 4: server.unknown: ",
    ] {
        assert!(errors.contains(part), "{errors}");
    }
}

#[test]
fn key_prints_another_key_each_time() {
    let keys = [(); 2].map(|()| text(&program().arg("key").output().unwrap().stdout));
    assert!(
        keys[0].starts_with("key:  tcg-") && keys[0] != keys[1],
        "{keys:?}"
    );
}

/// Ends the process, also when a test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(unix)]
#[test]
fn demo_answers_notifies_its_manager_and_ends_at_sigterm() {
    let ports = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let socket = std::env::temp_dir().join(format!("tower-claude-{}", std::process::id()));
    let manager = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    let notified = || {
        let mut buffer = [0; 64];
        let read = manager.recv(&mut buffer).unwrap();
        text(&buffer[..read])
    };
    let mut command = program();
    command
        .args(["serve", "--demo"])
        .args(ports)
        .env("NOTIFY_SOCKET", &socket)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut demo = Running(command.spawn().unwrap());
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines();
    let address = lines.find_map(|line| {
        let line = line.unwrap();
        line.strip_prefix("listening on http://").map(str::to_owned)
    });
    let address = address.expect("the address is printed");
    // Nobody reads what else is printed, as with `| head`.
    drop(lines);
    assert_eq!(notified(), "READY=1\n");
    let body = r#"{"model":"claude-haiku-5-5","max_tokens":4,"messages":[{"role":"user","content":"Hi"}]}"#;
    let mut stream = TcpStream::connect(&address).unwrap();
    let request = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: {address}\r\nx-api-key: any\r\nanthropic-version: 2023-06-01\r\n\
         content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
    assert!(response.contains("claude-haiku-5-5"), "{response}");
    let id = demo.0.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(notified(), "STOPPING=1\n");
    assert_eq!(demo.0.wait().unwrap().code(), Some(0));
    let _ = std::fs::remove_file(socket);
}
