//! Signals to the program while it answers requests.
#![cfg(unix)]

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::task::{JoinSet, spawn_blocking};
use tower_claude_fake_claude::{FakeClaude, GroupLimits};

/// The number of callers, each with one request at a time.
const CALLERS: usize = 40;

/// A configuration file and the program that serves it.
struct Program {
    child: Child,
    path: PathBuf,
    url: String,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Program {
    fn start(name: &str, toml: &str) -> Self {
        let name = format!("tower-claude-{name}-{}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, toml).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_tower-claude"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(["--admin-listen", "127.0.0.1:0", "--config"])
            .arg(&path)
            .env("TOWER_CLAUDE_LOG", "info")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines.find_map(|line| {
            let line = line.unwrap();
            line.strip_prefix("listening on ").map(str::to_owned)
        });
        Self {
            child,
            path,
            url: url.expect("the address is printed"),
        }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args([name, &id]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end of the program. Returns its code and its log.
    async fn ended(mut self) -> (Option<i32>, Vec<String>) {
        let log = self.child.stderr.take().unwrap();
        let waiting = spawn_blocking(move || {
            let lines: Vec<String> = BufReader::new(log).lines().map(Result::unwrap).collect();
            (self.child.wait().unwrap().code(), lines)
        });
        let ended = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        ended.expect("must end soon").unwrap()
    }
}

/// Responses take about half a second.
fn fake() -> FakeClaude {
    FakeClaude::builder()
        .limits(GroupLimits::requests_only(1_000_000))
        .time_to_first_token(Duration::from_millis(200))
        .tokens_per_second(100.0)
        .output_tokens(30)
        .keep_requests(0)
        .build()
}

/// The end of a request, as its caller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Complete,
    /// There was no response.
    Refused,
    /// A status of an error, or a body that broke off.
    Cut,
}

type HttpClient = Client<HttpConnector, Full<Bytes>>;

async fn call(client: &HttpClient, url: &str, is_stream: bool) -> End {
    let body = format!(
        "{{\"model\":\"claude-sonnet-5-5\",\"max_tokens\":64,\"stream\":{is_stream},\
         \"messages\":[{{\"role\":\"user\",\"content\":\"Hi\"}}]}}"
    );
    let request = Request::post(format!("{url}/v1/messages"))
        .header("x-api-key", "key-of-caller")
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .body(Full::from(body));
    let Ok(response) = client.request(request.unwrap()).await else {
        return End::Refused;
    };
    let is_success = response.status().is_success();
    let Ok(body) = response.into_body().collect().await else {
        return End::Cut;
    };
    let last: &[u8] = match is_stream {
        true => b"message_stop\"}\n\n",
        false => b"}",
    };
    if is_success && body.to_bytes().ends_with(last) {
        End::Complete
    } else {
        End::Cut
    }
}

/// Starts callers that send one request after the other until `is_over`, or until one is refused.
fn start_load(url: &str, is_over: &Arc<AtomicBool>) -> JoinSet<Vec<End>> {
    let client: HttpClient = Client::builder(TokioExecutor::new()).build_http();
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let (client, url, is_over) = (client.clone(), url.to_owned(), is_over.clone());
        callers.spawn(async move {
            let mut ends = Vec::new();
            while !is_over.load(Ordering::Relaxed) && ends.last() != Some(&End::Refused) {
                ends.push(call(&client, &url, number.is_multiple_of(2)).await);
            }
            ends
        });
    }
    callers
}

fn count(ends: &[End], end: End) -> usize {
    ends.iter().filter(|other| **other == end).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_cuts_no_response() {
    let fake = fake();
    let server = fake.serve().await.unwrap();
    let toml = format!(
        "[[upstreams]]\nname = \"main\"\nurl = \"{}\"\n",
        server.url()
    );
    let program = Program::start("sigterm", &toml);
    let callers = start_load(&program.url, &Arc::default());
    // All callers have a request in flight, and some are in their second.
    fake.wait_for(|log| log.len() > CALLERS + CALLERS / 2).await;
    program.signal("-TERM");
    // Each caller ends when the address is closed.
    let ends: Vec<End> = callers.join_all().await.into_iter().flatten().collect();
    let (code, log) = program.ended().await;
    assert_eq!(code, Some(0));
    assert_eq!(count(&ends, End::Cut), 0, "{ends:?}");
    assert_eq!(count(&ends, End::Refused), CALLERS);
    // What reached the upstream reached the caller.
    fake.wait_for(|log| log.iter().all(|attempt| attempt.finished_at.is_some()))
        .await;
    let complete = fake.with_log(|log| log.iter().filter(|attempt| attempt.completed).count());
    assert_eq!(complete, fake.log_len(), "{:?}", fake.log());
    assert_eq!(count(&ends, End::Complete), complete);
    assert!(
        log.iter().any(|line| line.contains("drain ended")),
        "{log:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_under_load_drops_nothing() {
    const RELOADS: usize = 10;
    let fake = fake();
    let server = fake.serve().await.unwrap();
    // Each reload has other limits, so that the layers are made anew.
    let toml = |number: usize| {
        format!(
            "[[upstreams]]\nname = \"main\"\nurl = \"{}\"\n\
             limits.requests_per_minute = {}\n",
            server.url(),
            1_000_000 + number
        )
    };
    let program = Program::start("sighup", &toml(0));
    let is_over = Arc::<AtomicBool>::default();
    let callers = start_load(&program.url, &is_over);
    for number in 1..=RELOADS {
        let sent = fake.log_len();
        fake.wait_for(|log| log.len() >= sent + CALLERS / 2).await;
        std::fs::write(&program.path, toml(number)).unwrap();
        program.signal("-HUP");
    }
    // Two rounds of requests after the last.
    let sent = fake.log_len();
    fake.wait_for(|log| log.len() >= sent + 2 * CALLERS).await;
    is_over.store(true, Ordering::Relaxed);
    let ends: Vec<End> = callers.join_all().await.into_iter().flatten().collect();
    assert_eq!(count(&ends, End::Complete), ends.len());
    assert_eq!(ends.len(), fake.log_len());
    program.signal("-TERM");
    let (code, log) = program.ended().await;
    assert_eq!(code, Some(0));
    let reloads = log
        .iter()
        .filter(|line| line.ends_with("keys and limits reloaded"));
    let reloads = reloads.count();
    // Signals that come while one is handled count as one.
    assert!(reloads > 0 && reloads <= RELOADS, "{log:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_what_is_open_after_the_deadline() {
    let fake = FakeClaude::builder()
        .limits(GroupLimits::requests_only(1_000_000))
        .tokens_per_second(1.0)
        .output_tokens(64)
        .build();
    let server = fake.serve().await.unwrap();
    let toml = format!(
        "server.drain_timeout = \"500ms\"\n[[upstreams]]\nname = \"main\"\nurl = \"{}\"\n",
        server.url()
    );
    let program = Program::start("deadline", &toml);
    let callers = start_load(&program.url, &Arc::default());
    fake.wait_for(|log| {
        let streams = log.iter().filter(|attempt| attempt.content_sent);
        streams.count() >= CALLERS / 2
    })
    .await;
    program.signal("-TERM");
    let (code, _) = program.ended().await;
    assert_eq!(code, Some(0));
    let ends: Vec<End> = callers.join_all().await.into_iter().flatten().collect();
    assert_eq!(count(&ends, End::Complete), 0);
}
