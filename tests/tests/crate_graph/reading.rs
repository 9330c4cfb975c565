//! The lists of `docs/reading.md`: files that exist, their lines, and at most ten minutes each.

use std::fs;

use crate::dependencies::root;

/// The most lines of one list: those of ten minutes.
const MOST_LINES: usize = 1_200;

/// One entry of a list: the heading above it, the file, and its lines as the page has them.
fn entries(page: &str) -> Vec<(&str, &str, usize)> {
    let mut heading = "";
    let mut entries = Vec::new();
    for line in page.lines() {
        heading = line.strip_prefix("## ").unwrap_or(heading);
        let Some((_, entry)) = line.split_once(". `crates/") else {
            continue;
        };
        let (file, rest) = entry.split_once("` (").expect("a file with its lines");
        let (count, _) = rest.split_once("): ").expect("lines and a description");
        entries.push((heading, file, count.parse().expect("a number of lines")));
    }
    entries
}

/// Returns the number of lines before the tests at the end of a file.
fn lines_without_tests(text: &str) -> usize {
    let lines: Vec<_> = text.lines().collect();
    let is_start = |pair: &[&str]| {
        pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    };
    let tests = lines.windows(2).position(is_start);
    tests.unwrap_or(lines.len())
}

/// Returns what is wrong with a page, for files with these lines.
fn mistakes(page: &str, lines_of: impl Fn(&str) -> Option<usize>) -> Vec<String> {
    let mut mistakes = Vec::new();
    let mut total = ("", 0);
    for (heading, file, stated) in entries(page) {
        let Some(lines) = lines_of(file) else {
            mistakes.push(format!("{heading}: there is no crates/{file}"));
            continue;
        };
        if stated.abs_diff(lines) > lines / 6 + 10 {
            mistakes.push(format!("{heading}: crates/{file} has {lines} lines"));
        }
        let before = if total.0 == heading { total.1 } else { 0 };
        total = (heading, before + lines);
        if before <= MOST_LINES && total.1 > MOST_LINES {
            mistakes.push(format!("{heading}: more than {MOST_LINES} lines"));
        }
    }
    mistakes
}

#[test]
fn lists_of_the_reading_page_name_files_of_ten_minutes() {
    let page = fs::read_to_string(root().join("docs/reading.md")).expect("the page");
    let lists: Vec<_> = entries(&page).iter().map(|entry| entry.0).collect();
    let layers = page.lines().filter(|line| line.starts_with("## "));
    for layer in layers.map(|line| &line[3..]) {
        assert!(lists.contains(&layer), "{layer} has no list");
    }
    assert!(lists.contains(&"Retry") && lists.contains(&"Header budget"));
    let lines_of = |file: &str| {
        let text = fs::read_to_string(root().join("crates").join(file));
        text.ok().map(|text| lines_without_tests(&text))
    };
    assert_eq!(mistakes(&page, lines_of), [""; 0]);
}

#[test]
fn mistakes_of_a_reading_page_are_found() {
    let page = "## A\n\n1. `crates/a.rs` (700): one\n2. `crates/b.rs` (600): two\n\n## B\n\n\
                1. `crates/a.rs` (500): one\n2. `crates/gone.rs` (10): none\n";
    let lines_of = |file: &str| match file {
        "a.rs" => Some(700),
        "b.rs" => Some(600),
        _ => None,
    };
    let expected = [
        "A: more than 1200 lines",
        "B: crates/a.rs has 700 lines",
        "B: there is no crates/gone.rs",
    ];
    assert_eq!(mistakes(page, lines_of), expected);
    let text = "fn a() {}\n\n#[cfg(test)]\nmod tests {\n}\n";
    assert_eq!(lines_without_tests(text), 2);
    assert_eq!(lines_without_tests("#[cfg(test)]\nmod tests;\n"), 2);
}
