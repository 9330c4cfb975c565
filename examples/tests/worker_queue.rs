//! The built `worker_queue` program against a real Redis.
#![cfg(unix)]

use std::process::{Command, Output};

use tower_claude_tests::redis::RedisServer;

/// Cargo builds the examples of a package before its tests, next to them.
fn worker_queue(arguments: &[&str]) -> Output {
    let mut path = std::env::current_exe().expect("the path of this test");
    path.pop();
    path.pop();
    path.push("examples");
    path.push("worker_queue");
    assert!(
        path.exists(),
        "build it first: cargo build --example worker_queue"
    );
    Command::new(path)
        .args(arguments)
        .output()
        .expect("it starts")
}

#[test]
fn jobs_of_a_killed_worker_are_answered_once() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let output = worker_queue(&["--jobs", "200", "--workers", "3", "--redis", &server.url()]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stdout}\n{stderr}");
    assert!(stdout.contains("killed half-way"), "{stdout}");
    let last = stdout.lines().last().unwrap_or_default();
    let well = "0 lost, 0 answered twice, 0 failed, 0 responses with 429";
    assert!(
        last.starts_with("200 jobs in ") && last.contains(well),
        "{stdout}"
    );
    for stream in ["interactive", "normal", "batch"] {
        let left = server.command(&["XLEN", &format!("{{jobs}}:{stream}")]);
        assert_eq!(left.trim(), "0", "{stream}");
    }

    let output = worker_queue(&["--redis", &server.url()]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("has a queue already"), "{stderr}");
}

#[test]
fn missing_server_and_odd_arguments_are_named() {
    let output = worker_queue(&["--redis", "redis://127.0.0.1:1"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("this Redis cannot be used"), "{stderr}");
    for arguments in [["--jobs", "0"], ["--workers", "0"], ["--workers", "many"]] {
        let output = worker_queue(&arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(arguments[0]), "{stderr}");
    }
}
