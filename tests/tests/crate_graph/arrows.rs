//! Who may import whom: one table, and the check of the workspace against it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

const WIRE: &str = "tower-claude-wire";
const CORE: &str = "tower-claude-core";
const LIMITER: &str = "tower-claude-limiter";
const REDIS: &str = "tower-claude-redis";
const FAKE: &str = "tower-claude-fake-claude";
const RETRY: &str = "tower-claude-retry";
const BREAKER: &str = "tower-claude-circuit-breaker";
const BUCKET: &str = "tower-claude-token-bucket";
const BUDGET: &str = "tower-claude-header-budget";
const FALLBACK: &str = "tower-claude-fallback-model";
const CACHE: &str = "tower-claude-cache";
const REQWEST: &str = "tower-claude-reqwest";
const DOOR: &str = "tower-claude";
const SIMULATOR: &str = "tower-claude-simulator";
const GATEWAY: &str = "tower-claude-gateway";

/// The layers: none of them may know another one.
const LAYERS: &[&str] = &[RETRY, BREAKER, BUCKET, BUDGET, FALLBACK, CACHE];

/// One workspace package and what it may do.
pub(crate) struct Room {
    package: &'static str,
    folder: &'static str,
    /// Workspace packages it may import (dev-dependencies aside).
    uses: &'static [&'static str],
    /// Crates its public signatures may show beyond [`crate::signatures::SHOWN_BY_ALL`].
    pub(crate) shows: &'static [&'static str],
    /// Published with a Rust API of its own.
    pub(crate) library: bool,
}

const fn library(
    package: &'static str,
    folder: &'static str,
    uses: &'static [&'static str],
    shows: &'static [&'static str],
) -> Room {
    Room {
        package,
        folder,
        uses,
        shows,
        library: true,
    }
}

const fn program(
    package: &'static str,
    folder: &'static str,
    uses: &'static [&'static str],
) -> Room {
    Room {
        package,
        folder,
        uses,
        shows: &[],
        library: false,
    }
}

#[rustfmt::skip]
const HOUSE: &[Room] = &[
    library(WIRE,     "crates/wire",            &[], &[]),
    library(CORE,     "crates/core",            &[WIRE], &[]),
    library(LIMITER,  "crates/limiter",         &[CORE, WIRE], &[]),
    library(REDIS,    "crates/redis",           &[LIMITER, CORE, WIRE], &[]),
    library(FAKE,     "crates/fake-claude",     &[WIRE], &[]),
    library(RETRY,    "crates/retry",           &[CORE, WIRE], &[]),
    library(BREAKER,  "crates/circuit-breaker", &[CORE, WIRE], &[]),
    library(BUCKET,   "crates/token-bucket",    &[CORE, LIMITER, WIRE], &[]),
    library(BUDGET,   "crates/header-budget",   &[CORE, LIMITER, WIRE], &[]),
    library(FALLBACK, "crates/fallback-model",  &[CORE, WIRE], &[]),
    library(SIMULATOR, "crates/simulator",      &[LIMITER, FAKE, CORE, WIRE], &[]),
    library(CACHE,    "crates/cache",           &[CORE, WIRE], &[]),
    library(REQWEST,  "crates/reqwest",         &[CORE, WIRE], &["reqwest", "reqwest_middleware"]),
    library(DOOR,     "crates/tower-claude",
        &[CACHE, FALLBACK, RETRY, BREAKER, BUCKET, BUDGET, LIMITER, REDIS, REQWEST, CORE, WIRE], &["tower"]),
    program(GATEWAY,  "crates/gateway",
        &[DOOR, CACHE, FALLBACK, RETRY, BREAKER, BUCKET, BUDGET, LIMITER, REDIS, REQWEST, CORE, WIRE]),
    // The contract suite must not know the layers that run it: its library stops at core.
    program("tower-claude-tests",    "tests",    &[CORE, WIRE]),
    program("tower-claude-examples", "examples", &[]),
    program("tower-claude-benches",  "benches",  &[BREAKER, BUCKET, BUDGET, CACHE, FALLBACK, RETRY, DOOR, LIMITER, CORE, WIRE]),
];

/// How a package asks for a dependency.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// In the library or its build script.
    Normal,
    /// In tests, examples and benches only.
    Dev,
}

/// One line of a manifest.
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) rename: Option<String>,
    pub(crate) kind: Kind,
    /// False for a bare `path` without `version`: cargo drops such a dev-dependency when it publishes.
    pub(crate) versioned: bool,
}

/// One workspace package as cargo sees it.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
}

impl Package {
    /// The crate names its library can write, as identifiers.
    pub(crate) fn externs(&self) -> BTreeSet<String> {
        let normal = self
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind == Kind::Normal);
        normal
            .map(|dependency| {
                let name = dependency.rename.as_ref().unwrap_or(&dependency.name);
                name.replace('-', "_")
            })
            .collect()
    }
}

/// The table's row of a package.
pub(crate) fn room(package: &str) -> Option<&'static Room> {
    HOUSE.iter().find(|room| room.package == package)
}

/// Every folder is where its row says.
pub(crate) fn check_folders(packages: &[Package]) -> Vec<String> {
    let rows = packages
        .iter()
        .filter_map(|package| room(&package.name).map(|room| (package, room)));
    rows.filter(|(package, room)| !package.dir.ends_with(room.folder))
        .map(|(package, room)| format!("{} belongs into {}", package.name, room.folder))
        .collect()
}

/// Every broken arrow, in words that say what to do.
pub(crate) fn check(packages: &[Package]) -> Vec<String> {
    let members: BTreeSet<&str> = packages.iter().map(|p| p.name.as_str()).collect();
    let mut problems = Vec::new();
    for package in packages {
        let name = package.name.as_str();
        let Some(room) = room(name) else {
            problems.push(format!(
                "{name} is not in the table: give it a row in tests/tests/crate_graph/arrows.rs \
                 and in CONTRIBUTING.md, and a reason that a module could not serve"
            ));
            continue;
        };
        let inside = package.dependencies.iter();
        for dependency in inside.filter(|d| members.contains(d.name.as_str())) {
            let to = dependency.name.as_str();
            let problem = match dependency.kind {
                Kind::Normal if !room.uses.contains(&to) => {
                    Some(if LAYERS.contains(&name) && LAYERS.contains(&to) {
                        format!(
                            "{name} imports {to}: layers never import each other; what both need belongs into core"
                        )
                    } else {
                        format!(
                            "{name} imports {to}: imports go down only, and this arrow is not in the table"
                        )
                    })
                }
                Kind::Normal if room.library && !dependency.versioned => Some(format!(
                    "{name} imports {to} by path only: without a version it cannot be published"
                )),
                Kind::Dev if dependency.versioned && !self::room(to).is_some_and(|r| r.library) => {
                    Some(format!(
                        "{name} has a versioned dev-dependency on {to}, which is never published: use the path alone"
                    ))
                }
                _ => None,
            };
            problems.extend(problem);
        }
    }
    problems.extend(publish_cycle(packages));
    problems
}

/// `cargo publish` resolves versioned dev-dependencies too: with a cycle among those, no crate could go first.
fn publish_cycle(packages: &[Package]) -> Option<String> {
    let mut waiting: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        if room(&package.name).is_some_and(|room| room.library) {
            let needs = package.dependencies.iter().filter(|d| d.versioned);
            waiting.insert(&package.name, needs.map(|d| d.name.as_str()).collect());
        }
    }
    // Publish what waits for nobody, again and again; whoever is left waits for itself.
    while let Some(free) = waiting
        .iter()
        .find(|(_, needs)| !needs.iter().any(|need| waiting.contains_key(need)))
        .map(|(name, _)| *name)
    {
        waiting.remove(free);
    }
    let stuck: Vec<&str> = waiting.into_keys().collect();
    (!stuck.is_empty()).then(|| {
        format!(
            "no order can publish {}: make a dev-dependency between them path-only",
            stuck.join(", ")
        )
    })
}
