//! The Admin API and the event log, as the program uses them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use tower_claude_fake_claude::{AdminApi, FakeClaude, FakeServer};

const KEY: &str = "sk-ant-admin-canary";

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs the program with an Admin API at this URL.
fn run(arguments: &[&str], url: &str, key: Option<&str>) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_tower-claude"));
    program.args(arguments).env("TOWER_CLAUDE_ADMIN_URL", url);
    program.env_remove("ANTHROPIC_ADMIN_KEY");
    if let Some(key) = key {
        program.env("ANTHROPIC_ADMIN_KEY", key);
    }
    program.output().unwrap()
}

async fn start() -> (AdminApi, FakeServer) {
    let admin = AdminApi::new(KEY);
    let fake = FakeClaude::builder().admin(admin.clone()).build();
    let server = fake.serve().await.unwrap();
    (admin, server)
}

fn message(address: &str) {
    let body = r#"{"model":"claude-sonnet-5-5","max_tokens":4,"messages":[{"role":"user","content":"Hi"}]}"#;
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: {address}\r\nx-api-key: any\r\n\
         anthropic-version: 2023-06-01\r\ncontent-type: application/json\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = exchange(address, &head);
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

fn exchange(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A file of a test, with the files beside it that begin with its name.
struct File(PathBuf);

impl File {
    fn new(name: &str, content: &str) -> Self {
        let name = format!("tower-claude-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const ROWS: &str = "{\"t_start\":\"2026-11-28T09:12:03Z\",\"t_end\":\"2026-11-28T09:12:05Z\",\"model\":\"claude-sonnet-5-5\",\"input\":4808,\"output\":10,\"status\":200}\n\
    {\"t_start\":\"2026-11-28T09:13:03Z\",\"t_end\":\"2026-11-28T09:13:05Z\",\"model\":\"claude-sonnet-5-5\",\"input\":4808,\"output\":10,\"status\":200}\n";

#[tokio::test(flavor = "multi_thread")]
async fn plan_takes_the_limits_of_the_api_and_of_a_workspace() {
    let (admin, server) = start().await;
    admin.set_workspace_limit("wrkspc_1", "sonnet-5.5", "requests_per_minute", 30);
    let log = File::new("limits.jsonl", ROWS);
    let limit = |limits: &str| {
        let arguments = ["plan", log.path(), "--json", "--limits", limits];
        let output = run(&arguments, &server.url(), Some(KEY));
        assert!(output.status.success(), "{}", text(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let limits = &report["pools"][0]["limits"];
        (
            limits["limits"].clone(),
            limits["source"].as_str().unwrap().to_owned(),
        )
    };
    let (limits, source) = limit("api");
    assert_eq!(limits, serde_json::json!([1_000, 2_000_000, 400_000]));
    assert_eq!(source, "Admin API");
    let (limits, source) = limit("api:wrkspc_1");
    assert_eq!(limits, serde_json::json!([30, 2_000_000, 400_000]));
    assert_eq!(source, "Admin API, workspace wrkspc_1");
    let printed = || {
        let arguments = ["plan", log.path(), "--limits", "api"];
        text(&run(&arguments, &server.url(), Some(KEY)).stdout)
    };
    let above = "is above the spend limit of $0.01 a month";
    admin.set_cap_cents(100_000_000);
    assert!(!printed().contains("spend limit"), "{}", printed());
    admin.set_cap_cents(1);
    assert!(printed().contains(above), "{}", printed());
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_reads_the_usage_of_the_api() {
    let (_admin, server) = start().await;
    let address = server.url().replace("http://", "");
    for _ in 0..3 {
        message(&address);
    }
    let output = run(&["plan", "--api=2d", "--json"], &server.url(), Some(KEY));
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["pools"][0]["pool"], "sonnet-5.5");
    assert_eq!(report["coverage"]["files"][0]["name"], "Admin API");
    assert!(!errors.contains("canary"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_and_wrong_key_and_period_are_bad_input() {
    let (admin, server) = start().await;
    for (arguments, key, expected) in [
        (["plan", "--api"], None, "ANTHROPIC_ADMIN_KEY is not set"),
        (
            ["plan", "--api"],
            Some("sk-ant-other-canary"),
            "answered 401",
        ),
        (["plan", "--api=1y"], Some(KEY), "is no period"),
        (["plan", "--limits=api"], Some(KEY), "<INPUT>"),
    ] {
        let output = run(&arguments, &server.url(), key);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(expected), "{arguments:?}: {errors}");
        assert!(!errors.contains("canary"), "{errors}");
    }
    assert_eq!(admin.requests().len(), 1, "nothing is sent without a key");
}

/// Ends the process, also when a test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_with_a_log_shows_the_plan_of_its_own_traffic() {
    let (_admin, server) = start().await;
    let log = File::new("served.jsonl", "");
    let config = format!(
        "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nlog = '{}'\n\
         [[upstreams]]\nname = \"fake\"\nurl = \"{}\"\n",
        log.path(),
        server.url()
    );
    let config = File::new("served.toml", &config);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tower-claude"));
    command.args(["serve", "--config", config.path()]);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut served = Running(command.spawn().unwrap());
    let mut lines = BufReader::new(served.0.stdout.take().unwrap()).lines();
    let mut after = |start: &str, end: &str| {
        let found = lines.find_map(|line| {
            let line = line.unwrap();
            let rest = line.split_once(start)?.1;
            Some(rest.strip_suffix(end)?.to_owned())
        });
        found.expect("the address is printed")
    };
    let address = after("listening on http://", "");
    let admin = after("at http://", "/plan");
    let plan = || {
        let request = format!("GET /plan HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
        exchange(&admin, &request)
    };
    message(&address);
    // The writer is another thread.
    let is_written = || std::fs::metadata(log.path()).unwrap().len() > 0;
    for _ in 0..10_000 {
        if is_written() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert!(is_written(), "no row after ten seconds");
    let answer = plan();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("sonnet-5.5"), "{answer}");
}
