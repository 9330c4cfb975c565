//! The table of crates, and the check of the manifests against it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const LAYERS: &[&str] = &[
    "batch",
    "cache",
    "circuit-breaker",
    "cloud",
    "fallback-model",
    "header-budget",
    "prompt-cache",
    "retry",
    "spread",
    "token-bucket",
];

/// A crate under `crates/`, the crates it may depend on, and the foreign crates that its public
/// signatures may show beside the common ones.
type Row = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

#[rustfmt::skip]
pub(crate) const LIBRARIES: &[Row] = &[
    ("wire", &[], &[]),
    ("core", &["wire"], &[]),
    ("limiter", &["core", "wire"], &[]),
    ("fake-claude", &["wire"], &[]),
    ("batch", &["core", "wire"], &[]),
    ("cache", &["core", "wire"], &[]),
    ("circuit-breaker", &["core", "wire"], &[]),
    ("fallback-model", &["core", "wire"], &[]),
    ("retry", &["core", "wire"], &[]),
    ("header-budget", &["limiter", "core", "wire"], &[]),
    ("token-bucket", &["limiter", "core", "wire"], &[]),
    ("redis", &["cache", "limiter", "core", "wire"], &[]),
    ("reqwest", &["core", "wire"], &["reqwest", "reqwest_middleware"]),
    ("prompt-cache", &["core", "wire"], &[]),
    ("cloud", &["core", "wire"], &[]),
    ("spread", &["core", "wire"], &[]),
    ("simulator", &["batch", "limiter", "prompt-cache", "spread", "fake-claude", "core", "wire"], &[]),
    ("tower-claude", &["batch", "cache", "circuit-breaker", "cloud", "fallback-model", "header-budget", "prompt-cache", "retry", "spread", "token-bucket", "limiter", "core", "wire"], &["tower"]),
    ("gateway", &["tower-claude"], &["axum"]),
    ("planner", &["limiter", "core", "wire"], &["serde", "serde_json"]),
    ("cli", &["gateway", "planner", "fake-claude", "wire"], &[]),
];

/// A workspace package as cargo reports it.
struct Package {
    name: String,
    dir: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Clone)]
struct Dependency {
    name: String,
    is_dev: bool,
    /// False for a bare `path` without `version`, which cargo drops from a published manifest.
    is_versioned: bool,
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
}

fn workspace() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "cargo metadata failed");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let dependency = |value: &Value| Dependency {
        name: text(&value["name"]),
        is_dev: value["kind"] == "dev",
        is_versioned: value["req"] != "*",
    };
    list(&metadata["packages"])
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            dir: PathBuf::from(text(&package["manifest_path"]))
                .parent()
                .unwrap()
                .to_owned(),
            dependencies: list(&package["dependencies"])
                .iter()
                .map(dependency)
                .collect(),
        })
        .collect()
}

/// Returns the folder under `crates/` that a package name stands for.
fn short(package: &str) -> &str {
    package.strip_prefix("tower-claude-").unwrap_or(package)
}

fn row(package: &str) -> Option<&'static Row> {
    LIBRARIES.iter().find(|row| row.0 == short(package))
}

fn problems(packages: &[Package]) -> Vec<String> {
    let members: BTreeSet<&str> = packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let mut problems = Vec::new();
    for package in packages {
        let name = package.name.as_str();
        let Some((folder, allowed, _)) = row(name) else {
            if package
                .dir
                .parent()
                .is_some_and(|dir| dir.ends_with("crates"))
            {
                problems.push(format!(
                    "{name} has no row in LIBRARIES and in CONTRIBUTING.md"
                ));
            }
            continue;
        };
        if !package.dir.ends_with(Path::new("crates").join(folder)) {
            problems.push(format!("{name} belongs into crates/{folder}"));
        }
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            if !members.contains(to) {
                continue;
            }
            if dependency.is_dev {
                if dependency.is_versioned && row(to).is_none() {
                    problems.push(format!(
                        "{name}: the dev-dependency {to} must be by path only"
                    ));
                }
            } else if LAYERS.contains(folder) && LAYERS.contains(&short(to)) {
                problems.push(format!(
                    "{name} depends on {to}: layers never depend on each other"
                ));
            } else if !allowed.contains(&short(to)) {
                problems.push(format!(
                    "{name} depends on {to}, which its row does not allow"
                ));
            } else if !dependency.is_versioned {
                problems.push(format!("{name}: the dependency {to} needs a version"));
            }
        }
    }
    problems.extend(unpublishable(packages));
    problems
}

/// Finds libraries that no order can publish, because versioned dev-dependencies form a cycle.
fn unpublishable(packages: &[Package]) -> Option<String> {
    let mut waiting: BTreeMap<&str, BTreeSet<&str>> = packages
        .iter()
        .filter(|package| row(&package.name).is_some())
        .map(|package| {
            let needs = package
                .dependencies
                .iter()
                .filter(|needed| needed.is_versioned);
            (
                package.name.as_str(),
                needs.map(|needed| needed.name.as_str()).collect(),
            )
        })
        .collect();
    while let Some(free) = waiting
        .iter()
        .find(|(_, needs)| !needs.iter().any(|need| waiting.contains_key(need)))
        .map(|(name, _)| *name)
    {
        waiting.remove(free);
    }
    let stuck: Vec<&str> = waiting.into_keys().collect();
    (!stuck.is_empty()).then(|| format!("no order can publish {}", stuck.join(", ")))
}

#[test]
fn manifests_follow_the_table() {
    let packages = workspace();
    assert!(packages.len() >= LIBRARIES.len());
    let problems = problems(&packages);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn each_broken_rule_is_named() {
    let package = |name: &str, needs: &[(&str, bool, bool)]| Package {
        name: name.to_owned(),
        dir: root().join("crates").join(short(name)),
        dependencies: needs
            .iter()
            .map(|&(name, is_dev, is_versioned)| Dependency {
                name: name.to_owned(),
                is_dev,
                is_versioned,
            })
            .collect(),
    };
    let names = [
        "tower-claude-retry",
        "tower-claude-cache",
        "tower-claude-core",
    ];
    let found = |from: &str, to: &str, is_dev, is_versioned| {
        let mut packages = vec![package(from, &[(to, is_dev, is_versioned)])];
        let others = names.iter().filter(|name| **name != from);
        packages.extend(others.map(|name| package(name, &[])));
        packages.push(package("tower-claude-tests", &[]));
        packages.retain(|package| package.name != "tower-claude-tests" || to == package.name);
        problems(&packages).join("; ")
    };
    let [retry, cache, core] = names;
    assert!(found(retry, cache, false, true).contains("never depend on each other"));
    assert!(found(core, retry, false, true).contains("does not allow"));
    assert!(found(retry, core, false, false).contains("needs a version"));
    assert!(found(retry, "tower-claude-tests", true, true).contains("by path only"));
    assert!(problems(&[package("tower-claude-new", &[])])[0].contains("no row"));
    let circle = [
        package(retry, &[(core, false, true)]),
        package(core, &[(retry, true, true)]),
    ];
    assert!(
        problems(&circle)
            .join("; ")
            .contains("no order can publish")
    );
    assert_eq!(found(retry, core, false, true), "");
}
