//! The built `fleet` program against a real Redis.
#![cfg(unix)]

use std::process::Command;

use tower_claude_tests::redis::RedisServer;

#[test]
fn fleet_with_redis_keeps_to_the_limit() {
    // The program needs a server of its own.
    if RedisServer::start().is_none() {
        return;
    }
    // Cargo builds the examples of a package before its tests, next to them.
    let mut path = std::env::current_exe().expect("the path of this test");
    path.pop();
    path.pop();
    path.push("examples/fleet");
    assert!(path.exists(), "build it first: cargo build --example fleet");
    let output = Command::new(path).args(["--seconds", "6"]).output();
    let output = output.expect("it starts");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stdout}\n{stderr}");
    for title in [
        "without a store",
        "with Redis",
        "with Redis killed and back",
    ] {
        assert!(stdout.contains(title), "{stdout}");
    }
    assert_eq!(stdout.matches("process-3").count(), 3, "{stdout}");
}
