//! The rows, the files and the failures of an event log.

use std::{
    fs,
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, SystemTime},
};

use http::StatusCode;
use serde_json::{Value, json};
use tower_claude_wire::{RateLimits, Usage};

use super::{EventLog, EventLogObserver, EventLogWriter, file};
use crate::{
    Class, Endpoint, Kind, RejectReason, Rejection, Workload,
    event::{AttemptEnd, CallEnd, Ending, Event, Observer, RequestDetails, ResponseDetails},
    sample_events::{MODEL, answered, scope},
};

/// A directory of a test. It is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-claude-event-log-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("the directory can be made");
        Self(path)
    }

    fn log(&self) -> PathBuf {
        self.0.join("events.jsonl")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const fn size(bytes: u64) -> NonZeroU64 {
    NonZeroU64::new(bytes).unwrap()
}

const fn count(files: u32) -> NonZeroU32 {
    NonZeroU32::new(files).unwrap()
}

/// 2026-11-28T09:12:03.25Z.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_857_123_250)
}

fn settings(path: &Path) -> EventLog {
    EventLog::new(path)
        .with_process("p")
        .with_workload("nightly")
}

fn rows(path: &Path) -> Vec<Value> {
    let mut all = Vec::new();
    for file in file::files(path) {
        let text = fs::read_to_string(file).expect("the file can be read");
        let lines = text.lines().filter(|line| !line.is_empty());
        all.extend(lines.map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON")));
    }
    all
}

/// Writes all that waits.
fn finish(log: &EventLogObserver, writer: EventLogWriter) {
    log.close();
    writer.run();
}

fn usage() -> Usage {
    let json = br#"{"input_tokens":100,"cache_creation_input_tokens":20,
        "cache_read_input_tokens":3000,"output_tokens":50}"#;
    Usage::from_usage_object(json).expect("it is an object")
}

fn unsent<'a>(usage: &'a Usage, rejection: Option<Rejection>) -> CallEnd<'a> {
    CallEnd {
        layer: "retry",
        call: 18,
        ending: Ending::Dropped,
        class: rejection.map_or(Class::SUCCESS, |rejection| rejection.class()),
        endpoint: Endpoint::Messages,
        asked: Some(MODEL),
        model: None,
        scope: None,
        credential: 7 << 32,
        tenant: None,
        workload: Workload::NONE,
        status: rejection.map(|rejection| rejection.status()),
        attempts: 0,
        wait: Duration::from_secs(2),
        backoff: Duration::ZERO,
        first_content: None,
        duration: Duration::from_secs(2),
        usage,
        bill: None,
        request_id: None,
        request: None,
        rejection,
        cause: None,
        fallback: None,
    }
}

#[test]
fn answered_attempt_has_times_tokens_limits_and_names() {
    let folder = Folder::new();
    let (log, writer) = settings(&folder.log()).open().unwrap();
    let (scope, usage) = (scope(), usage());
    let mut headers = http::HeaderMap::new();
    for (name, value) in [
        ("anthropic-ratelimit-input-tokens-limit", "2000000"),
        ("anthropic-ratelimit-input-tokens-remaining", "1996000"),
        (
            "anthropic-ratelimit-input-tokens-reset",
            "2026-11-28T09:12:05Z",
        ),
        ("date", "Sat, 28 Nov 2026 09:12:04 GMT"),
        ("anthropic-workspace-id", "wrkspc_1"),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    let request = RequestDetails {
        max_tokens: Some(1_024),
        fast: false,
        estimated_input: Some(5_000),
    };
    let response = ResponseDetails::of(&headers);
    let end = AttemptEnd {
        call: 17,
        credential: 7 << 32,
        wait: Duration::from_millis(1_250),
        tenant: Some("a81c\n"),
        workload: Workload::named("nightly"),
        request: Some(&request),
        response: Some(&response),
        ..answered(MODEL, Some(&scope), &usage)
    };
    log.record(&Event::AttemptEnded(&end), now());
    finish(&log, writer);
    let expected = json!({
        "t_start": "2026-11-28T09:12:00.000000Z",
        "t_end": "2026-11-28T09:12:03.250000Z",
        "wait": 1.25,
        "call": "p-11",
        "attempt": 1,
        "pool": "sonnet-5.5",
        "model": "claude-sonnet-5-5",
        "input": 100,
        "cache_read": 3000,
        "cache_write": 20,
        "output": 50,
        "max_tokens": 1024,
        "status": 200,
        "class": "success",
        "ending": "answered",
        "limits": {"input_tokens": {
            "limit": 2_000_000, "remaining": 1_996_000, "reset": "2026-11-28T09:12:05.000000Z",
        }},
        "date": "2026-11-28T09:12:04.000000Z",
        "request_id": "req_1",
        "tag": "nightly",
        "tenant": "a81c\\n",
        "key": "00000007",
        "workspace": "wrkspc_1",
        "process": "p",
    });
    assert_eq!(rows(&folder.log()), [expected]);
}

#[test]
fn failed_attempt_has_the_names_of_its_error_and_an_estimate() {
    let folder = Folder::new();
    let (log, writer) = settings(&folder.log()).open().unwrap();
    let usage = Usage::default();
    let request = RequestDetails {
        max_tokens: None,
        fast: true,
        estimated_input: Some(5_100),
    };
    let mut response = ResponseDetails {
        limits: RateLimits::default(),
        retry_after: Some(Duration::from_secs(4)),
        ..ResponseDetails::default()
    };
    let error = br#"{"type":"error","error":{"type":"rate_limit_error","message":
        "Number of concurrent connections has exceeded your rate limit. Please contact sales."}}"#;
    response.add_error(error);
    let end = AttemptEnd {
        ending: Ending::Failed,
        class: Class::new(Kind::RateLimited),
        status: Some(StatusCode::TOO_MANY_REQUESTS),
        request: Some(&request),
        response: Some(&response),
        workload: Workload::named("unnamed"),
        ..answered(MODEL, None, &usage)
    };
    log.record(&Event::AttemptEnded(&end), now());
    finish(&log, writer);
    let rows = rows(&folder.log());
    let row = &rows[0];
    assert_eq!(row["class"], "rate_limited");
    assert_eq!(row["because"], "concurrency");
    assert_eq!(row["error_type"], "rate_limit_error");
    assert_eq!(row["retry_after"], 4.0);
    assert_eq!(
        (&row["input"], &row["estimated"]),
        (&json!(5_100), &json!(["input"]))
    );
    assert_eq!(row["fast"], true);
    assert_eq!(row["tag"].as_str().map(str::len), Some(16));
    assert_eq!(row.get("limits"), None);
    assert!(!row.to_string().contains("contact sales"), "{row}");
}

#[test]
fn call_that_was_not_sent_has_a_row_and_one_that_was_has_none() {
    let folder = Folder::new();
    let (log, writer) = settings(&folder.log()).open().unwrap();
    let usage = Usage::default();
    let reason = RejectReason::QueueFull {
        waiting: 9,
        limit: 9,
    };
    let rejected = CallEnd {
        ending: Ending::Failed,
        ..unsent(&usage, Some(Rejection::new("token-bucket", reason)))
    };
    log.record(&Event::CallEnded(&rejected), now());
    let later = CallEnd {
        attempts: 2,
        ..rejected
    };
    log.record(&Event::CallEnded(&later), now());
    log.record(&Event::CallEnded(&unsent(&usage, None)), now());
    // Its attempt has a row.
    let sent = CallEnd {
        attempts: 1,
        ..unsent(&usage, None)
    };
    log.record(&Event::CallEnded(&sent), now());
    finish(&log, writer);
    let rows = rows(&folder.log());
    let of = |row: &Value| {
        let fields = [
            "t_start",
            "attempt",
            "refused_by",
            "because",
            "class",
            "ending",
        ];
        fields.map(|field| row[field].to_string()).join(" ")
    };
    assert_eq!(
        rows.iter().map(of).collect::<Vec<_>>(),
        [
            r#""2026-11-28T09:12:01.250000Z" 1 "token-bucket" "queue_full" "rate_limited" "failed""#,
            r#""2026-11-28T09:12:03.250000Z" 3 "token-bucket" "queue_full" "rate_limited" "failed""#,
            r#""2026-11-28T09:12:01.250000Z" 1 null "never_sent" null "dropped""#,
        ]
    );
    assert_eq!(rows[0]["model"], MODEL);
    assert_eq!(rows[0]["status"], 429);
}

#[test]
fn clock_before_1970_and_endless_duration_give_a_row() {
    let folder = Folder::new();
    let (log, writer) = settings(&folder.log()).open().unwrap();
    let usage = Usage::default();
    let end = AttemptEnd {
        duration: Duration::MAX,
        ..answered(MODEL, None, &usage)
    };
    log.record(&Event::AttemptEnded(&end), now());
    let early = SystemTime::UNIX_EPOCH - Duration::from_secs(10);
    log.record(&Event::AttemptEnded(&answered(MODEL, None, &usage)), early);
    finish(&log, writer);
    let rows = rows(&folder.log());
    assert_eq!(rows[0]["t_start"], "1970-01-01T00:00:00.000000Z");
    assert_eq!(rows[1]["t_end"], "1969-12-31T23:59:50.000000Z");
}

#[test]
fn full_files_are_rotated_and_the_oldest_is_removed() {
    let folder = Folder::new();
    let path = folder.log();
    let settings = settings(&path)
        .with_max_size(size(1_000))
        .with_max_files(count(3));
    let usage = usage();
    // Reopened for each row, as by a program that restarts.
    for number in 1..=12 {
        let (log, writer) = settings.clone().open().unwrap();
        let end = AttemptEnd {
            attempt: number,
            ..answered(MODEL, None, &usage)
        };
        log.record(&Event::AttemptEnded(&end), now());
        finish(&log, writer);
    }
    let files = settings.files();
    let names = files
        .iter()
        .map(|file| file.file_name().unwrap().to_str().unwrap());
    let expected = ["events.jsonl.2", "events.jsonl.1", "events.jsonl"];
    assert_eq!(names.collect::<Vec<_>>(), expected);
    for file in &files {
        assert!(fs::metadata(file).unwrap().len() <= 1_000);
    }
    let numbers: Vec<u64> = rows(&path)
        .iter()
        .map(|row| row["attempt"].as_u64().unwrap())
        .collect();
    let first = numbers[0];
    assert!(first > 1, "the oldest is removed: {numbers:?}");
    assert_eq!(numbers, (first..=12).collect::<Vec<_>>());
}

#[test]
fn one_batch_of_many_rows_fills_several_files() {
    let folder = Folder::new();
    let path = folder.log();
    let settings = settings(&path)
        .with_max_size(size(900))
        .with_max_files(count(100));
    let (log, writer) = settings.open().unwrap();
    let usage = usage();
    for number in 1..=50 {
        let end = AttemptEnd {
            attempt: number,
            ..answered(MODEL, None, &usage)
        };
        log.record(&Event::AttemptEnded(&end), now());
    }
    finish(&log, writer);
    assert_eq!(log.snapshot().written, 50);
    assert!(file::files(&path).len() > 10);
    let numbers = rows(&path)
        .into_iter()
        .map(|row| row["attempt"].as_u64().unwrap());
    assert!(numbers.eq(1..=50));
}

#[test]
fn single_file_and_row_over_the_size_are_kept_within_the_count() {
    let folder = Folder::new();
    let path = folder.log();
    let settings = settings(&path)
        .with_max_size(size(1))
        .with_max_files(count(1));
    let (log, writer) = settings.open().unwrap();
    let usage = usage();
    for _ in 0..3 {
        log.record(&Event::AttemptEnded(&answered(MODEL, None, &usage)), now());
    }
    finish(&log, writer);
    assert_eq!(log.snapshot().written, 3);
    assert_eq!((file::files(&path).len(), rows(&path).len()), (1, 1));
}

#[test]
fn fewer_files_than_before_remove_the_others() {
    let folder = Folder::new();
    let path = folder.log();
    for number in 1..=5 {
        fs::write(folder.0.join(format!("events.jsonl.{number}")), "{}\n").unwrap();
    }
    fs::write(&path, "{}\n").unwrap();
    let settings = settings(&path)
        .with_max_size(size(10))
        .with_max_files(count(3));
    let (log, writer) = settings.clone().open().unwrap();
    let usage = usage();
    log.record(&Event::AttemptEnded(&answered(MODEL, None, &usage)), now());
    finish(&log, writer);
    assert_eq!(settings.files().len(), 3);
}

#[test]
fn line_that_a_crash_has_cut_damages_no_other() {
    let folder = Folder::new();
    let path = folder.log();
    fs::write(&path, "{\"t_start\":1}\n{\"t_sta").unwrap();
    let (log, writer) = settings(&path).open().unwrap();
    let usage = usage();
    log.record(&Event::AttemptEnded(&answered(MODEL, None, &usage)), now());
    finish(&log, writer);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["{\"t_start\":1}", "{\"t_sta"]);
    assert!(serde_json::from_str::<Value>(lines[2]).is_ok());
    assert_eq!(lines.len(), 3);
}

#[test]
fn rows_over_the_buffer_are_lost_and_counted_in_a_row() {
    let folder = Folder::new();
    let path = folder.log();
    let buffer = NonZeroUsize::new(1_000).unwrap();
    let (log, writer) = settings(&path).with_buffer(buffer).open().unwrap();
    let usage = usage();
    for second in 0..10 {
        let at = now() + Duration::from_secs(second);
        log.record(&Event::AttemptEnded(&answered(MODEL, None, &usage)), at);
    }
    finish(&log, writer);
    let rows = rows(&path);
    let (last, kept) = rows.split_last().unwrap();
    let lost = log.snapshot().lost;
    assert!(!kept.is_empty() && lost > 0);
    assert_eq!(kept.len() as u64 + lost, 10);
    assert_eq!(last["because"], "not_logged");
    assert_eq!(last["requests"], lost);
    assert_eq!(last["t_end"], "2026-11-28T09:12:12.250000Z");
}

/// Waits for another thread, for a minute at most.
#[expect(clippy::disallowed_methods, reason = "a test waits for another thread")]
fn wait_until(is_so: impl Fn() -> bool) {
    for _ in 0..60_000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("nothing happens");
}

#[test]
fn lost_directory_is_survived_and_the_rows_are_written_when_it_is_back() {
    let folder = Folder::new();
    let inner = folder.0.join("logs");
    fs::create_dir(&inner).unwrap();
    let path = inner.join("events.jsonl");
    let (log, mut writer) = settings(&path).open().unwrap();
    writer.retry_pause = Duration::from_millis(1);
    let thread = thread::spawn(move || writer.run());
    let usage = usage();
    let event = answered(MODEL, None, &usage);
    log.on_event(&Event::AttemptEnded(&event));
    wait_until(|| log.snapshot().written == 1);
    fs::remove_dir_all(&inner).unwrap();
    log.on_event(&Event::AttemptEnded(&event));
    wait_until(|| log.snapshot().is_failing);
    log.on_event(&Event::AttemptEnded(&event));
    fs::create_dir(&inner).unwrap();
    wait_until(|| log.snapshot().written == 3);
    assert!(!log.snapshot().is_failing);
    drop(log);
    thread.join().unwrap();
    assert_eq!(rows(&path).len(), 2);
}

#[test]
fn directory_that_stays_lost_ends_the_writer_with_the_rows_counted() {
    let folder = Folder::new();
    let inner = folder.0.join("logs");
    fs::create_dir(&inner).unwrap();
    let (log, mut writer) = settings(&inner.join("events.jsonl")).open().unwrap();
    // The end wakes it.
    writer.retry_pause = Duration::from_secs(3_600);
    fs::remove_dir_all(&inner).unwrap();
    let thread = thread::spawn(move || writer.run());
    let usage = usage();
    log.on_event(&Event::AttemptEnded(&answered(MODEL, None, &usage)));
    wait_until(|| log.snapshot().is_failing);
    log.close();
    thread.join().unwrap();
    let snapshot = log.snapshot();
    assert_eq!((snapshot.written, snapshot.lost), (0, 1));
}

#[test]
fn file_that_another_program_moves_is_replaced() {
    let folder = Folder::new();
    let path = folder.log();
    let (log, writer) = settings(&path).open().unwrap();
    let thread = thread::spawn(move || writer.run());
    let usage = usage();
    let event = answered(MODEL, None, &usage);
    log.on_event(&Event::AttemptEnded(&event));
    wait_until(|| log.snapshot().written == 1);
    fs::rename(&path, folder.0.join("moved")).unwrap();
    log.on_event(&Event::AttemptEnded(&event));
    log.close();
    thread.join().unwrap();
    assert_eq!(rows(&path).len(), 1);
}

#[test]
fn two_processes_share_the_files_without_losing_a_row() {
    let folder = Folder::new();
    let path = folder.log();
    let usage = usage();
    let threads = [1, 2].map(|process| {
        let settings = settings(&path).with_process(&process.to_string());
        let settings = settings
            .with_max_size(size(20_000))
            .with_max_files(count(1_000));
        let (log, writer) = settings.open().unwrap();
        let thread = thread::spawn(move || writer.run());
        for number in 1..=200 {
            let end = AttemptEnd {
                attempt: number,
                ..answered(MODEL, None, &usage)
            };
            log.on_event(&Event::AttemptEnded(&end));
        }
        (log, thread)
    });
    for (log, thread) in threads {
        log.close();
        thread.join().unwrap();
        assert_eq!(log.snapshot().written, 200);
    }
    let rows = rows(&path);
    for process in ["1", "2"] {
        let numbers = rows.iter().filter(|row| row["process"] == process);
        let numbers = numbers.map(|row| row["attempt"].as_u64().unwrap());
        assert!(numbers.eq(1..=200), "process {process}");
    }
}

#[cfg(unix)]
#[test]
fn log_is_private_and_what_is_no_file_is_refused() {
    use std::os::unix::fs::PermissionsExt;

    let folder = Folder::new();
    let path = folder.log();
    let (_log, _writer) = settings(&path).open().unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(EventLog::new(&folder.0).open().is_err());
    assert!(EventLog::new("/dev/null").open().is_err());
    assert!(
        EventLog::new(folder.0.join("none/events.jsonl"))
            .open()
            .is_err()
    );
}
