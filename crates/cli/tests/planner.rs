//! The commands about recorded traffic as a user runs them.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

const COMMANDS: [&str; 4] = ["plan", "diagnose", "evidence", "convert"];

/// A folder with the logs of the examples. It is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("tower-claude-planner-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        let folder = Self(path);
        folder.write("events.jsonl", &events());
        folder.write("usage.json", USAGE);
        folder.write("access.log", ACCESS);
        let sdk = include_str!("../../planner/tests/data/sdk-python.log");
        folder.write("sdk-debug.log", sdk);
        folder.write(
            "debug.log",
            include_str!("../../planner/tests/data/sdk-typescript.log"),
        );
        let trace = include_str!("../../../examples/data/azure-llm-code-2023.csv");
        // The beginning is enough, and fast without optimization.
        let start: Vec<&str> = trace.lines().take(400).collect();
        folder.write("azure-llm-code-2023.csv", &start.join("\n"));
        folder.write("limits.json", r#"{"sonnet-5.5":{"input_tokens":2000000}}"#);
        folder.write(
            "limits.toml",
            "[\"sonnet-5.5\"]\nrequests = 4000\ninput_tokens = 2_000_000\n",
        );
        folder
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut program = Command::new(env!("CARGO_BIN_EXE_tower-claude"));
        program
            .args(arguments)
            .current_dir(&self.0)
            .stdin(Stdio::null());
        program.output().unwrap()
    }

    /// Runs a line of an example.
    #[track_caller]
    fn example(&self, line: &str) -> Output {
        let words = words(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(words[0], "tower-claude", "{line}");
        // The examples write to a file by the shell.
        let end = words
            .iter()
            .position(|word| *word == ">")
            .unwrap_or(words.len());
        let output = self.run(&words[1..end]);
        assert!(output.status.success(), "{line}\n{}", text(&output.stderr));
        assert!(!output.stdout.is_empty(), "{line}");
        output
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const USAGE: &str = r#"{"data":[{"starting_at":"2026-11-28T09:12:00Z","ending_at":"2026-11-28T09:13:00Z","group":{"model":"claude-sonnet-5-5"},"usage":{"requests":10,"uncached_input_tokens":5000,"output_tokens":100}}],"has_more":false}"#;

const ACCESS: &str = r#"{"time_iso8601":"2026-11-28T09:12:05+00:00","request":"POST /v1/messages HTTP/1.1","status":200,"request_time":1.6,"request_length":400,"body_bytes_sent":80}"#;

/// Returns events of two models and two kinds of work, with some rejections.
fn events() -> String {
    let mut log = String::new();
    for number in 0..400_u32 {
        let (minute, second) = (number / 20, number % 20 * 3);
        let model = if number % 5 == 0 {
            "claude-opus-5-5"
        } else {
            "claude-sonnet-5-5"
        };
        let tag = if number % 3 == 0 { "nightly" } else { "T" };
        let (status, error) = match number % 40 {
            7 => (429, r#","error_code":"ramp_limit_exceeded""#),
            _ => (200, ""),
        };
        let input = 1_000 + number * 37 % 9_000;
        let _ = writeln!(
            log,
            r#"{{"t_start":"2026-11-28T09:{minute:02}:{second:02}Z","call":"{number}","attempt":1,"model":"{model}","tag":"{tag}","input":{input},"cache_read":500,"output":90,"status":{status},"request_id":"req_{number}"{error}}}"#
        );
    }
    log
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Splits a line like a shell.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for letter in line.trim().chars() {
        match letter {
            '"' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            _ => words.last_mut().unwrap().push(letter),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn help_of_each_command_has_examples_that_run() {
    let folder = Folder::new("help");
    for command in COMMANDS {
        let help = folder.run(&[command, "--help"]);
        assert!(help.status.success());
        let help = text(&help.stdout);
        let examples: Vec<&str> = help
            .lines()
            .filter(|line| line.starts_with("  tower-claude "))
            .collect();
        assert!(examples.len() >= 2, "{help}");
        for example in examples {
            folder.example(example);
        }
    }
}

#[test]
fn examples_of_the_documentation_run() {
    let folder = Folder::new("docs");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut count = 0;
    for page in [
        "docs/planning.md",
        "README.md",
        "crates/planner/README.md",
        "crates/cli/README.md",
    ] {
        let page = fs::read_to_string(root.join(page)).unwrap();
        for line in page.lines() {
            let line = line.split(" #").next().unwrap();
            let is_ours = COMMANDS
                .iter()
                .any(|name| line.starts_with(&format!("tower-claude {name} ")));
            if is_ours {
                folder.example(line);
                count += 1;
            }
        }
    }
    assert!(count >= 8, "{count}");
}

#[test]
fn first_line_is_the_verdict_and_json_has_the_same() {
    let folder = Folder::new("verdict");
    for arguments in [
        &["plan", "events.jsonl", "--limits", "tier:start"][..],
        &["diagnose", "events.jsonl"],
        &[
            "evidence",
            "events.jsonl",
            "--pool",
            "sonnet-5.5",
            "--ask",
            "4M",
        ],
    ] {
        let printed = text(&folder.run(arguments).stdout);
        assert!(printed.lines().count() <= 40, "{printed}");
        let json = folder.run(&[arguments, &["--json"]].concat());
        let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(json["verdict"].as_str(), printed.lines().next());
    }
    let plan = text(&folder.run(&["plan", "events.jsonl"]).stdout);
    assert!(plan.contains("\ncost     ~$"), "{plan}");
    let diagnosis = text(&folder.run(&["diagnose", "events.jsonl"]).stdout);
    assert!(diagnosis.starts_with("ramp caused 100 %"), "{diagnosis}");
}

#[test]
fn out_writes_reports_and_pages_into_a_folder() {
    let folder = Folder::new("out");
    let output = folder.run(&["plan", "events.jsonl", "--out", "plan"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let written = fs::read_to_string(folder.0.join("plan/plan.txt")).unwrap();
    assert_eq!(written, text(&output.stdout));
    let json = fs::read_to_string(folder.0.join("plan/plan.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&json).unwrap();
    let page = fs::read_to_string(folder.0.join("plan/plan.html")).unwrap();
    assert!(page.starts_with("<!doctype html>"), "{page}");
    for (name, arguments) in [
        ("diagnosis", &["diagnose"][..]),
        ("evidence", &["evidence", "--pool", "sonnet-5.5"]),
    ] {
        let rest = ["events.jsonl", "--out", "plan"];
        let output = folder.run(&[arguments, &rest].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let written = fs::read_to_string(folder.0.join(format!("plan/{name}.txt"))).unwrap();
        assert_eq!(written, text(&output.stdout));
        let page = fs::read_to_string(folder.0.join(format!("plan/{name}.html"))).unwrap();
        assert!(page.ends_with("</html>\n"), "{page}");
    }
    // A file in the place of the folder.
    let failed = folder.run(&["plan", "events.jsonl", "--out", "events.jsonl"]);
    assert_eq!(failed.status.code(), Some(1));
}

#[test]
fn converted_log_gives_the_same_plan() {
    let folder = Folder::new("convert");
    let converted = folder.run(&["convert", "--from", "csv", "azure-llm-code-2023.csv"]);
    assert_eq!(text(&converted.stdout).lines().count(), 399);
    assert!(text(&converted.stderr).contains("399 records from 400 lines, 0 skipped"));
    folder.write("converted.jsonl", &text(&converted.stdout));
    let plan = |name| {
        let mut json: serde_json::Value =
            serde_json::from_slice(&folder.run(&["plan", name, "--json"]).stdout).unwrap();
        json["pools"].take()
    };
    assert_eq!(plan("converted.jsonl"), plan("azure-llm-code-2023.csv"));
}

#[test]
fn bad_input_is_named_with_status_2() {
    let folder = Folder::new("bad");
    folder.write("empty.jsonl", "");
    fs::write(folder.0.join("cut.gz"), b"\x1f\x8b\x08\0").unwrap();
    folder.write("cut.toml", "[sonnet");
    folder.write("letter.txt", "Dear reader,\n");
    folder.write("cut.jsonl", "{\"t_start\":\"2026-11-28T09:00:00Z\",\"inp");
    folder.write(
        "sampled.jsonl",
        "{\"t_start\":\"2026-11-28T09:00:00Z\",\"input\":1,\"sample_rate\":0.1}",
    );
    for (arguments, message) in [
        (&["plan", "missing.jsonl"][..], "missing.jsonl: "),
        (&["plan", "empty.jsonl"], "empty.jsonl: the file is empty"),
        (
            &["diagnose", "letter.txt"],
            "letter.txt:1: no log of a known kind",
        ),
        (
            &["plan", "cut.jsonl"],
            "cut.jsonl:1: no record in this event log: the line is cut off",
        ),
        (
            &["plan", "events.jsonl", "events.jsonl"],
            "events.jsonl: the file is given twice",
        ),
        (&["plan", "cut.gz"], "cut.gz: the file is compressed"),
        (
            &["plan", "events.jsonl", "--limits", "cut.toml"],
            "cut.toml: no limits of pools: TOML parse error",
        ),
        (
            &["evidence", "events.jsonl", "--pool", "T", "--growth", "0"],
            "the growth 0 is no factor",
        ),
        (&["plan", "sampled.jsonl"], "peaks cannot be known"),
        (&["plan", "events.jsonl", "letter.txt"], "letter.txt:1:"),
        (
            &["plan", "events.jsonl", "--pool", "haiku-5.5"],
            "no pool \"haiku-5.5\"",
        ),
        (
            &["plan", "events.jsonl", "--limits", "tier:custom"],
            "no published limits",
        ),
        (
            &["plan", "events.jsonl", "--limits", "access.log"],
            "access.log: no limits of pools",
        ),
        (
            &["plan", "events.jsonl", "--what-if", "batch=tag:none"],
            "concerns no request",
        ),
        (
            &["plan", "events.jsonl", "--what-if", "cash=1"],
            "no what-if",
        ),
        (&["plan", "events.jsonl", "--target", "p95"], "no target"),
        (
            &["plan", "events.jsonl", "--event", "tomorrow 4x 2h"],
            "no time",
        ),
        (
            &["diagnose", "events.jsonl", "--at", "2026-12-01T00:00"],
            "nothing is recorded within five minutes of 2026-12-01 00:00",
        ),
        (
            &["convert", "--from", "otlp", "access.log"],
            "no record in this OTLP spans",
        ),
        (&["plan"], "<INPUT>"),
    ] {
        let output = folder.run(arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(message), "{arguments:?}: {error}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}
