//! The Prometheus rules hold by promtool's tests, and name only metrics that exist. The page of
//! metrics equals the catalogue.

use std::{collections::BTreeSet, path::Path, process::Command};

use tower_claude::metrics::{CATALOGUE, MetricKind};

/// The folder of the workspace.
fn root() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the crate is in the workspace")
}

/// Runs promtool in the folder of the rules. It may be missing on a developer's machine, but not in
/// a test run with `CI` set.
fn promtool(arguments: &[&str]) {
    let mut command = Command::new("promtool");
    command
        .args(arguments)
        .current_dir(root().join("ops/prometheus"));
    match command.output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "promtool {arguments:?}: {text}");
        }
        Err(error) if std::env::var_os("CI").is_none() => {
            println!("skipped: promtool (Debian package prometheus) does not start: {error}");
        }
        Err(error) => panic!("promtool (Debian package prometheus) does not start: {error}"),
    }
}

#[test]
fn rules_are_valid_and_alerts_fire_as_tested() {
    promtool(&["check", "rules", "rules.yml"]);
    promtool(&["test", "rules", "rules_test.yml"]);
}

/// Returns all words of the text that begin with this.
fn words<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(|c| !is_part(c))
        .filter(|word| word.starts_with(prefix))
        .collect()
}

/// Returns the names of the series that an exporter for Prometheus writes.
fn exported() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for metric in CATALOGUE {
        let name = metric.name.replace('.', "_");
        if metric.kind == MetricKind::Histogram {
            names.extend(["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")));
        }
        names.insert(name);
    }
    names
}

#[test]
fn rules_name_only_metrics_of_the_catalogue() {
    let exported = exported();
    for file in ["rules.yml", "rules_test.yml"] {
        let path = root().join("ops/prometheus").join(file);
        let text = std::fs::read_to_string(path).expect("the file is there");
        let names = words(&text, "tower_claude_");
        assert!(names.len() > 5, "{file} has {names:?}");
        let unknown: Vec<_> = names
            .into_iter()
            .filter(|name| !exported.contains(*name))
            .collect();
        assert_eq!(unknown, Vec::<&str>::new(), "{file}");
    }
}

/// Returns the table of all metrics in Markdown.
fn table() -> String {
    let mut table = "| Metric | Kind | Labels | Content |\n|---|---|---|---|\n".to_owned();
    for metric in CATALOGUE {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        let labels: Vec<String> = metric
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        let (name, labels, text) = (metric.name, labels.join(", "), metric.description);
        table.push_str(&format!("| `{name}` | {kind} | {labels} | {text}. |\n"));
    }
    table
}

#[test]
fn page_of_metrics_equals_the_catalogue() {
    let path = root().join("docs/metrics.md");
    let page = std::fs::read_to_string(path).expect("the page is there");
    let begin = page.find("| Metric |").expect("the page has the table");
    let end = page[begin..]
        .find("\n\n")
        .map_or(page.len(), |end| begin + end + 1);
    let expected = table();
    assert!(
        page[begin..end] == expected,
        "expected in docs/metrics.md:\n{expected}"
    );
}
