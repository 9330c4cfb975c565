//! The built `storm` program: what it says to bad input, and with which exit code.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

/// Cargo builds the examples of a package before its tests, next to them.
fn storm() -> Command {
    let mut path = std::env::current_exe().expect("the path of this test");
    path.pop();
    path.pop();
    path.push("examples");
    path.push(format!("storm{}", std::env::consts::EXE_SUFFIX));
    assert!(path.exists(), "build it first: cargo build --example storm");
    let mut command = Command::new(path);
    command.env_remove("ANTHROPIC_API_KEY");
    command
}

fn fails_with(output: &Output, code: i32, message: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(message), "{stderr}");
}

#[test]
fn a_missing_trace_is_named() {
    let output = storm().args(["--trace", "missing.csv"]).output().unwrap();
    fails_with(&output, 2, "missing.csv: ");
}

#[test]
fn a_malformed_line_is_named() {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("malformed.csv");
    let text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-01-01 00:00:00,1,1\n2024-01-01 00:00:01,many,1\n";
    std::fs::write(&file, text).unwrap();
    let output = storm().arg("--trace").arg(&file).output().unwrap();
    fails_with(&output, 2, "malformed.csv, line 3: ContextTokens");
}

#[test]
fn live_needs_a_key() {
    let output = storm().arg("--live").output().unwrap();
    fails_with(&output, 2, "ANTHROPIC_API_KEY");
}

#[test]
fn odd_arguments_are_refused() {
    for arguments in [["--seconds", "0"], ["--seconds", "1000"], ["--seed", "x"]] {
        let output = storm().args(arguments).output().unwrap();
        fails_with(&output, 2, arguments[0]);
    }
}

/// Ten requests go through both clients. A script reads the last line of the output.
#[test]
fn a_small_trace_runs_to_its_end() {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("small.csv");
    let mut text = "TIMESTAMP,ContextTokens,GeneratedTokens\n".to_owned();
    for second in 0..10 {
        text += &format!("2024-01-01 00:00:{second:02}.5,200,5\n");
    }
    std::fs::write(&file, text).unwrap();
    let output = storm()
        .args(["--seconds", "1", "--json", "--trace"])
        .arg(&file)
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}");
    let last = stdout.lines().last().unwrap();
    let rows: serde_json::Value = serde_json::from_str(last).unwrap();
    for client in ["plain", "layers"] {
        assert_eq!(rows[client]["requests"], 10, "{last}");
        assert!(rows[client]["attempts"].as_u64() >= Some(10), "{last}");
    }
    assert_eq!(rows["layers"]["http_529_seen"], 0, "{last}");
}

#[test]
fn models_prints_the_age_and_what_a_file_changes() {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("models.json");
    let text = r#"{"data":[{"id":"claude-opus-5","lifecycle":"deprecated","retires_at":"2020-01-01T00:00:00Z"},{"id":"claude-quill-6","max_tokens":7}]}"#;
    std::fs::write(&file, text).unwrap();
    let program = storm().get_program().to_owned();
    let program =
        PathBuf::from(program).with_file_name(format!("models{}", std::env::consts::EXE_SUFFIX));
    let output = Command::new(&program)
        .arg("--models")
        .arg(&file)
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.starts_with("The facts are of 20"), "{stdout}");
    let line = |id: &str| {
        stdout
            .lines()
            .find(|line| line.contains(id))
            .unwrap()
            .to_owned()
    };
    assert!(
        line("claude-opus-5 ").starts_with('*') && line("claude-opus-5 ").ends_with(" retired")
    );
    assert!(line("claude-quill-6").contains("7 output"));
    assert!(line("claude-fable-5-2").starts_with(' '));
    let output = Command::new(program)
        .args(["--models", "missing.json"])
        .output()
        .unwrap();
    fails_with(&output, 1, "No such file");
}
