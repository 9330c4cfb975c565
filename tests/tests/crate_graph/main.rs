//! The house rules that the compiler does not know: which room may import which, and which crates a public signature may show.
//!
//! Both checks read the workspace as it is (`cargo metadata` and the sources), so a new crate or a new import is seen at once.
//! `can_fail.rs` proves on small inputs that each check fails when it should.

mod arrows;
mod can_fail;
mod names;
mod signatures;
mod source;

use std::path::Path;
use std::process::Command;

use arrows::{Dependency, Kind, Package};

/// Reads the workspace's packages through cargo, without network and without resolving dependencies.
fn workspace() -> Vec<Package> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace");
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root)
        .output()
        .expect("cargo starts");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    list(&metadata["packages"])
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            dir: Path::new(&text(&package["manifest_path"]))
                .parent()
                .expect("a manifest lies in a folder")
                .to_owned(),
            dependencies: list(&package["dependencies"])
                .iter()
                .map(|dependency| Dependency {
                    name: text(&dependency["name"]),
                    rename: dependency["rename"].as_str().map(str::to_owned),
                    kind: match dependency["kind"].as_str() {
                        Some("dev") => Kind::Dev,
                        // A build script's imports are as real as the library's.
                        _ => Kind::Normal,
                    },
                    versioned: dependency["req"] != "*",
                })
                .collect(),
        })
        .collect()
}

/// Fails with one line per broken rule.
fn report(what: &str, problems: &[String]) {
    assert!(
        problems.is_empty(),
        "{what}:\n  {}\n",
        problems.join("\n  ")
    );
}

#[test]
fn imports_go_down_only() {
    let packages = workspace();
    assert!(
        packages.len() >= 10,
        "cargo metadata lists only {} packages",
        packages.len()
    );
    report("broken arrows", &arrows::check(&packages));
}

#[test]
fn folders_carry_the_names_of_their_packages() {
    report("misnamed folders", &arrows::check_folders(&workspace()));
}

#[test]
fn public_signatures_show_allowed_crates_only() {
    let mut problems = Vec::new();
    let mut libraries = 0;
    for package in workspace() {
        let Some(room) = arrows::room(&package.name) else {
            continue; // reported by `imports_go_down_only`
        };
        let root = package.dir.join("src/lib.rs");
        if !room.library || !root.exists() {
            continue;
        }
        libraries += 1;
        match source::Crate::load(&root, package.externs()) {
            Ok(source) => {
                let found = signatures::check(&source, room.shows);
                problems.extend(found.iter().map(|p| format!("{}: {p}", package.name)));
            }
            Err(error) => problems.push(format!("{}: {error}", package.name)),
        }
    }
    assert!(libraries >= 7, "only {libraries} library crates were read");
    report("foreign crates in public signatures", &problems);
}
