//! The examples in docs and READMEs, which users paste into programs of their own.

use std::{fs, path::Path};

use crate::dependencies::{LIBRARIES, root};

/// Returns the lines of each example: of a Rust file in its doc comments, else in its Markdown.
fn examples(path: &Path, text: &str) -> Vec<Vec<String>> {
    let is_rust = path.extension().is_some_and(|extension| extension == "rs");
    let mut examples = Vec::new();
    let mut open: Option<(bool, Vec<String>)> = None;
    for line in text.lines() {
        let comment = line.trim_start();
        let comment = comment
            .strip_prefix("//!")
            .or_else(|| comment.strip_prefix("///"));
        let line = match comment {
            Some(doc) if is_rust => doc.strip_prefix(' ').unwrap_or(doc),
            _ if is_rust => continue,
            _ => line,
        };
        let Some(language) = line.trim_start().strip_prefix("```") else {
            if let Some((_, lines)) = &mut open {
                lines.push(line.to_owned());
            }
            continue;
        };
        open = match open.take() {
            Some((true, lines)) => {
                examples.push(lines);
                None
            }
            Some(_) => None,
            None => {
                // An example in a doc comment is Rust by default.
                let kinds = ["rust", "no_run", "ignore", "should_panic", "compile_fail"];
                let first = language.split(',').next().unwrap_or_default();
                let is_rust = first.is_empty() || kinds.contains(&first);
                assert!(
                    !is_rust || !language.contains("ignore"),
                    "{path:?}: {language}"
                );
                Some((is_rust, Vec::new()))
            }
        };
    }
    examples
}

/// Returns the mistakes of an example: a hidden import of a name that is used visibly, and a crate
/// that users do not have.
fn mistakes(example: &[String]) -> Vec<String> {
    let is_hidden = |line: &&String| line.starts_with("# ") || *line == "#";
    let visible: Vec<_> = example.iter().filter(|line| !is_hidden(line)).collect();
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.map(str::to_owned).collect()
    };
    let used: Vec<_> = visible.iter().flat_map(|line| words(line)).collect();
    let mut mistakes = Vec::new();
    for line in example {
        if line.contains("tower_claude_tests") {
            mistakes.push(format!("unpublished crate: {line}"));
        }
        if let Some((_, import)) = line
            .strip_prefix("# ")
            .and_then(|line| line.split_once("use "))
            && words(import)
                .iter()
                .any(|name| name.starts_with(char::is_uppercase) && used.contains(name))
        {
            mistakes.push(format!("hidden import: {line}"));
        }
    }
    mistakes
}

/// Returns the files of a folder and below it.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).expect("a readable folder");
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[test]
fn pasted_examples_need_no_hidden_imports() {
    let mut paths = vec![root().join("README.md"), root().join("docs/observing.md")];
    for (name, ..) in LIBRARIES {
        let folder = root().join("crates").join(name);
        paths.push(folder.join("README.md"));
        paths.extend(files(&folder.join("src")));
    }
    let (mut found, mut count) = (Vec::new(), 0);
    for path in paths {
        let is_text = |extension| extension == "rs" || extension == "md";
        if !path.extension().is_some_and(is_text) {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a readable file");
        for example in examples(&path, &text) {
            count += 1;
            let problems = mistakes(&example).into_iter();
            found.extend(problems.map(|problem| format!("{}: {problem}", path.display())));
            // Only rustdoc hides such lines.
            if path.ends_with("README.md") && example.iter().any(|line| line.starts_with("# ")) {
                found.push(format!("{}: hidden line", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
    assert!(count > 60, "{count} examples");
}

#[test]
fn mistakes_of_an_example_are_found() {
    let check = |text: &str| mistakes(&text.lines().map(str::to_owned).collect::<Vec<_>>()).len();
    assert_eq!(
        check("use http::Request;\n# use std::io;\nlet r: Request<()>;"),
        0
    );
    assert_eq!(check("# use http::Request;\nlet r: Request<()>;"), 1);
    assert_eq!(
        check("# use bytes::Bytes; use http_body_util::Full;\nFull::new(b);"),
        1
    );
    assert_eq!(
        check("# use http::{Response, Request};\nlet r: Request<()>;"),
        1
    );
    assert_eq!(check("tower_claude_tests::read(body).await;"), 1);
}
