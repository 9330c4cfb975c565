//! The program: exit codes, and JSON that comes last.

use std::process::{Command, Output};

use serde_json::Value;

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tower-claude-simulator"))
        .args(arguments)
        .output()
        .expect("it starts")
}

#[test]
fn the_exit_code_says_whether_the_goals_are_met() {
    let output = run(&[
        "table", "--quick", "--seeds", "1", "--only", "R28", "--json",
    ]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("The model:"), "{text}");
    let json: Value =
        serde_json::from_str(text.lines().last().expect("a last line")).expect("JSON");
    let rows = json.as_array().expect("an array");
    assert!(rows.iter().all(|row| row["id"] == "R28"), "{json}");
    let held = rows.iter().filter(|row| !row["pass"].is_null());
    assert!(held.clone().count() >= 2, "{json}");
    let short = held.clone().any(|row| row["pass"] == false);
    assert_eq!(output.status.code(), Some(i32::from(short)));
}

#[test]
fn an_unknown_row_or_a_missing_trace_is_an_error() {
    assert_eq!(run(&["table", "--only", "R99"]).status.code(), Some(2));
    assert_eq!(
        run(&["table", "--trace", "nowhere.csv"]).status.code(),
        Some(2)
    );
}

#[test]
fn cache_table_ends_with_its_figures_as_json() {
    let directory = std::env::temp_dir();
    let picture = directory.join(format!("cache-{}.svg", std::process::id()));
    let path = picture.to_str().expect("a path");
    let output = run(&[
        "cache", "--quick", "--seeds", "1", "--seed", "3", "--only", "C3", "--read", "0.05",
        "--json", "--svg", path,
    ]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("one-shot documents"), "{text}");
    let json: Value =
        serde_json::from_str(text.lines().last().expect("a last line")).expect("JSON");
    let rows = json.as_array().expect("an array");
    assert!(rows.iter().all(|row| row["id"] == "C3"), "{json}");
    assert_eq!(output.status.code(), Some(0), "{text}");
    let svg = std::fs::read_to_string(&picture).expect("a picture");
    std::fs::remove_file(&picture).expect("it is removed");
    assert!(svg.starts_with("<svg") && svg.contains("0.05"), "{svg}");
    assert_eq!(run(&["cache", "--only", "C9"]).status.code(), Some(2));
    assert_eq!(run(&["cache", "--read", "2"]).status.code(), Some(2));
}

#[test]
fn batch_rows_meet_their_goals_and_are_drawn() {
    let svg = std::env::temp_dir().join(format!("batches-{}.svg", std::process::id()));
    let path = svg.to_str().expect("text");
    let output = run(&[
        "batch", "--quick", "--seed", "7", "--seeds", "1", "--only", "B1", "--json", "--svg", path,
    ]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0), "{text}");
    let json: Value =
        serde_json::from_str(text.lines().last().expect("a last line")).expect("JSON");
    let held = json.as_array().expect("an array").iter();
    assert_eq!(held.filter(|row| row["pass"] == true).count(), 2, "{json}");
    let drawn = std::fs::read_to_string(&svg).expect("the picture");
    std::fs::remove_file(svg).expect("removed");
    assert!(drawn.starts_with("<svg") && drawn.contains("ours"));
    assert_eq!(run(&["batch", "--only", "B99"]).status.code(), Some(2));
}

#[test]
fn spread_rows_meet_their_goals() {
    let output = run(&["spread", "--quick", "--seed", "5", "--seeds", "2", "--json"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0), "{text}");
    let json: Value =
        serde_json::from_str(text.lines().last().expect("a last line")).expect("JSON");
    let held = json.as_array().expect("an array").iter();
    let held = held.filter(|row| row["pass"] == true);
    // Cost, 429s and broken conversations in two rows.
    assert_eq!(held.count(), 6, "{json}");
    assert_eq!(run(&["spread", "--only", "S99"]).status.code(), Some(2));
}
