//! The event log of a gateway, and the plan that is made of it.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
        mpsc,
    },
};

use crate::common::*;
use http::Request;
use serde_json::Value;
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits};
use tower_claude_gateway::{Config, Gateway, PlanInput, PlanPage, RenderPlan, StartError, new_key};
use tower_claude_planner::{read::read, record::Record};

/// A directory that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-claude-gateway-log-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Returns the path of the log, as a string of TOML.
    fn toml(&self) -> String {
        format!("'{}'", self.0.join("events.jsonl").display())
    }

    fn text(&self) -> String {
        fs::read_to_string(self.0.join("events.jsonl")).unwrap()
    }

    fn rows(&self) -> Vec<Value> {
        let rows = self.text();
        let rows = rows.lines().map(|row| serde_json::from_str(row).unwrap());
        rows.collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn each_attempt_has_a_row_with_the_names_of_its_key_and_no_prompt() {
    let folder = Folder::new();
    let count = AtomicUsize::new(0);
    let upstream = Upstream::new(move |_| {
        let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            let error =
                r#"{"type":"error","error":{"type":"overloaded_error","message":"canary"}}"#;
            let mut response = match is_first {
                true => json(503, error),
                false => json(200, MESSAGE.replace("Hi", "canary")),
            };
            for (name, value) in [
                ("request-id", "req_1"),
                ("anthropic-ratelimit-requests-limit", "50"),
                ("anthropic-ratelimit-requests-remaining", "49"),
                ("retry-after", "0"),
            ] {
                let headers = response.headers_mut();
                headers.insert(name, value.parse().unwrap());
            }
            response
        }
    })
    .await;
    let (key, hash) = new_key().unwrap();
    let mut gateway = TestGateway::new(config(&format!(
        "log = {}\n[[upstreams]]\nname = \"main\"\nurl = \"{}\"\nkey = \"canary\"\n\
         [[keys]]\nname = \"team-a\"\nhash = \"{hash}\"\nworkload = \"nightly\"\n",
        folder.toml(),
        upstream.url()
    )))
    .await;
    let request = gateway.request("POST", "/v1/messages");
    let request = request.header("authorization", format!("Bearer {key}"));
    let body = REQUEST.replace("H\\u0069", "canary");
    assert_eq!(send(request, body).await.status, 200);
    gateway.stop();
    gateway.ended().await;
    let rows = folder.rows();
    let of = |field: &str| {
        rows.iter()
            .map(|row| row[field].to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("status"), ["503", "200"]);
    assert_eq!(of("class"), ["\"overloaded\"", "\"success\""]);
    assert_eq!(of("error_type"), ["\"overloaded_error\"", "null"]);
    assert_eq!(of("attempt"), ["1", "2"]);
    assert_eq!(of("call")[0], of("call")[1]);
    assert_eq!(of("input")[1], "3");
    assert_eq!(of("max_tokens"), ["64", "64"]);
    for row in &rows {
        assert_eq!(row["tenant"], "team-a");
        assert_eq!(row["tag"], "nightly");
        assert_eq!(row["pool"], "sonnet-5.5");
        assert_eq!(row["request_id"], "req_1");
        assert_eq!(row["limits"]["requests"]["limit"], 50);
        assert!(
            row["key"].as_str().is_some_and(|key| key.len() == 8),
            "{row}"
        );
    }
    let text = folder.text();
    assert!(!text.contains("canary") && !text.contains(&key), "{text}");
}

#[tokio::test]
async fn planner_reads_all_rows_without_a_loss() {
    let folder = Folder::new();
    let limits = GroupLimits::new().with_requests_per_minute(4);
    let fake = FakeClaude::builder().limits(limits).build();
    let server = fake.serve().await.unwrap();
    let mut gateway = TestGateway::new(config(&format!(
        "log = {}\n[[upstreams]]\nname = \"main\"\nurl = \"{}\"\nmax_wait = \"0ms\"\n",
        folder.toml(),
        server.url()
    )))
    .await;
    fake.inject(Fault::Overloaded);
    let request = REQUEST.replace("\"zzz_unknown\":1.50,", "");
    let mut statuses = Vec::new();
    for body in [
        &request[..],
        STREAM_REQUEST,
        "{}",
        &request,
        &request,
        &request,
        &request,
    ] {
        statuses.push(send(gateway.message(), body.to_owned()).await.status);
    }
    // A success, a wrong request, and a call that a layer has rejected.
    for status in [200, 400, 429] {
        assert!(statuses.contains(&status), "{statuses:?}");
    }
    gateway.stop();
    gateway.ended().await;
    for row in folder.rows() {
        let record: Record = serde_json::from_value(row.clone()).unwrap();
        assert_eq!(serde_json::to_value(record).unwrap(), row);
    }
    let text = folder.text();
    let mut refused = 0;
    let report = read("log", text.as_bytes(), None, &mut |_, record| {
        refused += u32::from(record.refused_by.is_some());
    });
    let report = report.unwrap();
    assert_eq!(report.skipped, 0, "{report:?}");
    assert_eq!(report.records, text.lines().count() as u64);
    assert!(refused > 0, "{text}");
}

#[tokio::test]
async fn stream_that_the_end_of_the_gateway_cuts_has_a_row() {
    let folder = Folder::new();
    let (upstream, mut senders) = stream_upstream().await;
    let before = format!("log = {}\nserver.drain_timeout = \"100ms\"", folder.toml());
    let mut gateway = TestGateway::new(config_for(&upstream, &before, "")).await;
    let answering = tokio::spawn(Live::new(gateway.message(), STREAM_REQUEST));
    let sender = within(senders.recv()).await.unwrap();
    sender.send(START).unwrap();
    let mut live = within(answering).await.unwrap();
    live.read_to(START).await;
    gateway.stop();
    assert!(live.read_all().await);
    gateway.ended().await;
    let rows = folder.rows();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["ending"], "dropped");
    assert_eq!(rows[0]["status"], 200);
    assert_eq!(rows[0]["input"], 3);
}

#[test]
fn log_is_a_path_or_a_table_and_errors_name_the_field() {
    let read = |toml: &str| Config::from_toml(toml);
    let path = read("log = \"events.jsonl\"").unwrap();
    let table = read("[log]\npath = \"events.jsonl\"\n").unwrap();
    assert_eq!(path.log, table.log);
    assert!(
        path.to_toml()
            .contains("[log]\npath = \"events.jsonl\"\nmax_size = \"64MiB\"\nmax_files = 8\n")
    );
    let again = read(&path.to_toml()).unwrap();
    assert_eq!(again.log, path.log);
    assert_eq!(read("").unwrap().log.path, None);
    for (toml, expected) in [
        ("log = \"\"", "log.path: must not be empty"),
        ("log = 5", "line 1: log: "),
        (
            "[log]\npath = \"a\"\nmax_size = \"1KiB\"",
            "line 3: log.max_size: 1024 bytes",
        ),
        (
            "[log]\npath = \"a\"\nmax_files = 0",
            "line 3: log.max_files: ",
        ),
        ("[log]\nfile = \"a\"", "line 2: log.file: "),
    ] {
        let errors = read(toml).expect_err(toml).to_string();
        assert!(errors.contains(expected), "{toml}: {errors}");
    }
}

#[tokio::test]
async fn log_in_a_directory_that_is_not_there_stops_the_start() {
    let folder = Folder::new();
    let path = folder.0.join("none").join("events.jsonl");
    let config = config(&format!("log = '{}'", path.display()));
    match Gateway::bind(config).await {
        Err(StartError::Log { path: named, .. }) => assert_eq!(named, path),
        other => panic!("{other:?}"),
    }
}

fn get(gateway: &TestGateway, path: &str) -> http::request::Builder {
    Request::get(format!("http://{}{path}", gateway.admin))
}

/// Returns the first state of the dashboard.
async fn state(gateway: &TestGateway) -> Value {
    let mut live = Live::new(get(gateway, "/dashboard/events"), "").await;
    live.read_to("\n\n").await;
    serde_json::from_str(live.text.trim().strip_prefix("data: ").unwrap()).unwrap()
}

#[tokio::test]
async fn gateway_without_a_log_has_no_plan() {
    let upstream = Upstream::with_message().await;
    let render: RenderPlan = Arc::new(|_| Ok(PlanPage::new("text/plain", String::new())));
    let gateway = Gateway::bind(config_for(&upstream, "", "")).await.unwrap();
    let gateway = TestGateway::run(gateway.with_plan(render));
    assert_eq!(send(get(&gateway, "/plan"), "").await.status, 404);
    assert_eq!(state(&gateway).await["has_plan"], false);
}

#[tokio::test]
async fn plan_of_the_log_is_made_once_for_all_that_ask_and_blocks_nothing() {
    let folder = Folder::new();
    let upstream = Upstream::with_message().await;
    let (release, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let render: RenderPlan = Arc::new(move |input: &PlanInput| {
        started.send(input.clone()).unwrap();
        wait.lock().unwrap().recv().unwrap();
        Ok(PlanPage::new(
            "text/html; charset=utf-8",
            "<p>the plan".into(),
        ))
    });
    let before = format!("log = {}", folder.toml());
    let gateway = Gateway::bind(config_for(&upstream, &before, ""))
        .await
        .unwrap();
    let gateway = TestGateway::run(gateway.with_plan(render));
    let first = tokio::spawn(send(get(&gateway, "/plan"), ""));
    let input = within(starts.recv()).await.unwrap();
    assert_eq!(input.files, [folder.0.join("events.jsonl")]);
    let period = input.until.duration_since(input.since).unwrap();
    assert_eq!(period.as_secs(), 86_400);
    let second = tokio::spawn(send(get(&gateway, "/plan"), ""));
    // The runtime of this test has one thread, which the plan does not hold.
    assert_eq!(send(gateway.message(), REQUEST).await.status, 200);
    assert_eq!(state(&gateway).await["has_plan"], true);
    release.send(()).unwrap();
    for got in [first, second] {
        let got = within(got).await.unwrap();
        assert_eq!((got.status, got.text()), (200, "<p>the plan"));
        assert_eq!(got.header("content-type"), "text/html; charset=utf-8");
        assert!(
            got.header("content-security-policy")
                .contains("default-src 'none'")
        );
    }
    assert!(starts.try_recv().is_err(), "the plan is made once");
}

#[tokio::test]
async fn plan_that_fails_or_panics_is_reported_as_text() {
    let folder = Folder::new();
    let upstream = Upstream::with_message().await;
    let before = format!("log = {}", folder.toml());
    let no_plan: RenderPlan = Arc::new(|_| Err("the log has no rows".to_owned()));
    let panics: RenderPlan = Arc::new(|_| panic!("canary"));
    for (render, expected) in [
        (no_plan, "the log has no rows"),
        (panics, "an error in the program"),
    ] {
        let gateway = Gateway::bind(config_for(&upstream, &before, ""))
            .await
            .unwrap();
        let gateway = TestGateway::run(gateway.with_plan(render));
        let got = send(get(&gateway, "/plan"), "").await;
        assert_eq!(got.status, 422);
        assert!(got.text().contains(expected), "{}", got.text());
        assert!(!got.text().contains("canary"));
    }
}
