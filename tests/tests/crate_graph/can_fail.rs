//! The checks on small inputs: each must fail on what it exists for, and stay quiet on what is allowed.

use crate::arrows::{self, Dependency, Kind, Package};
use crate::signatures;
use crate::source::Crate;

const EXTERNS: &[&str] = &[
    "bytes",
    "http",
    "hyper",
    "reqwest",
    "serde",
    "serde_json",
    "tokio",
    "tower_claude_core",
    "tower_service",
];

fn package(name: &str, dependencies: &[(&str, Kind, bool)]) -> Package {
    Package {
        name: name.to_owned(),
        dir: "crates/somewhere".into(),
        dependencies: dependencies
            .iter()
            .map(|(name, kind, versioned)| Dependency {
                name: (*name).to_owned(),
                rename: None,
                kind: *kind,
                versioned: *versioned,
            })
            .collect(),
    }
}

/// The one problem of a workspace in which `from` depends on `to`.
fn arrow(from: &str, to: &str, kind: Kind, versioned: bool) -> Option<String> {
    let packages = [package(from, &[(to, kind, versioned)]), package(to, &[])];
    let mut problems = arrows::check(&packages);
    assert!(problems.len() <= 1, "{problems:?}");
    problems.pop()
}

fn shown(text: &str) -> Vec<String> {
    signatures::check(&Crate::from_text(text, EXTERNS), &[])
}

/// Exactly one problem, and it names the foreign path.
#[track_caller]
fn caught(text: &str, path: &str) {
    let problems = shown(text);
    assert_eq!(problems.len(), 1, "{text}: {problems:?}");
    assert!(problems[0].contains(path), "{text}: {problems:?}");
}

#[track_caller]
fn quiet(text: &str) {
    assert_eq!(shown(text), Vec::<String>::new(), "{text}");
}

#[test]
fn an_upward_import_fails() {
    let problem = arrow("tower-claude-wire", "tower-claude-core", Kind::Normal, true);
    assert!(problem.is_some_and(|p| p.contains("imports go down only")));
    let problem = arrow(
        "tower-claude-core",
        "tower-claude-limiter",
        Kind::Normal,
        true,
    );
    assert!(problem.is_some());
    let problem = arrow(
        "tower-claude-fake-claude",
        "tower-claude-core",
        Kind::Normal,
        true,
    );
    assert!(problem.is_some());
}

#[test]
fn a_layer_to_layer_import_fails() {
    let problem = arrow(
        "tower-claude-retry",
        "tower-claude-token-bucket",
        Kind::Normal,
        true,
    );
    assert!(problem.is_some_and(|p| p.contains("layers never import each other")));
}

#[test]
fn the_contract_suite_must_not_know_a_layer() {
    let problem = arrow(
        "tower-claude-tests",
        "tower-claude-retry",
        Kind::Normal,
        true,
    );
    assert!(problem.is_some());
}

#[test]
fn a_downward_import_passes() {
    assert_eq!(
        arrow(
            "tower-claude-retry",
            "tower-claude-core",
            Kind::Normal,
            true
        ),
        None
    );
    // Crates from outside are no arrows.
    let outside = [package(
        "tower-claude-retry",
        &[("serde", Kind::Normal, true)],
    )];
    assert_eq!(arrows::check(&outside), Vec::<String>::new());
}

#[test]
fn an_unknown_crate_is_told_what_to_do() {
    let problems = arrows::check(&[package("tower-claude-novelty", &[])]);
    assert!(problems[0].contains("give it a row in"), "{problems:?}");
}

#[test]
fn a_misplaced_folder_fails() {
    let problems = arrows::check_folders(&[package("tower-claude-wire", &[])]);
    assert!(problems[0].contains("crates/wire"), "{problems:?}");
}

#[test]
fn dev_dependencies_are_free_as_long_as_crates_can_be_published() {
    let dev = |to, versioned| arrow("tower-claude-retry", to, Kind::Dev, versioned);
    assert_eq!(dev("tower-claude-fake-claude", true), None);
    assert_eq!(dev("tower-claude-tests", false), None);
    assert!(dev("tower-claude-tests", true).is_some_and(|p| p.contains("never published")));

    let circle = |versioned| {
        arrows::check(&[
            package(
                "tower-claude-core",
                &[("tower-claude-limiter", Kind::Dev, versioned)],
            ),
            package(
                "tower-claude-limiter",
                &[("tower-claude-core", Kind::Normal, true)],
            ),
        ])
    };
    assert_eq!(circle(false), Vec::<String>::new());
    assert!(circle(true)[0].contains("no order can publish"));
}

#[test]
fn a_library_cannot_depend_by_path_only() {
    let problem = arrow(
        "tower-claude-retry",
        "tower-claude-core",
        Kind::Normal,
        false,
    );
    assert!(problem.is_some_and(|p| p.contains("cannot be published")));
}

#[test]
fn a_foreign_type_in_a_pub_fn_fails() {
    caught("pub fn f(client: reqwest::Client) {}", "reqwest::Client");
    caught(
        "use reqwest::Client as C; pub fn f() -> Option<C> { None }",
        "reqwest::Client",
    );
    caught(
        "use serde_json as json; pub fn f(v: &json::Value) {}",
        "serde_json::Value",
    );
    caught("pub fn f<T: serde::Serialize>(v: T) {}", "serde::Serialize");
    caught("pub fn f(v: impl Fn(&[hyper::Uri])) {}", "hyper::Uri");
    caught(
        "pub fn f<T>() where T: Iterator<Item = hyper::Uri> {}",
        "hyper::Uri",
    );
    caught(
        "pub struct S; impl S { pub fn f(&self) -> hyper::Uri { todo!() } }",
        "hyper::Uri",
    );
    caught(
        "mod inner { use hyper::Uri; pub fn f(u: Uri) {} }",
        "hyper::Uri",
    );
    caught("pub fn f(x: ::hyper::Uri) {}", "hyper::Uri");
}

#[test]
fn a_foreign_type_in_a_field_fails() {
    caught("pub struct S { pub uri: hyper::Uri }", "hyper::Uri");
    caught("pub struct S(pub hyper::Uri);", "hyper::Uri");
    caught("pub enum E { A { uri: hyper::Uri } }", "hyper::Uri");
    caught(
        "pin_project! { pub struct S { #[pin] pub uri: hyper::Uri, } }",
        "hyper::Uri",
    );
    quiet("pub struct S { uri: hyper::Uri, pub(crate) other: hyper::Uri }");
    quiet("struct S { pub uri: hyper::Uri }");
}

#[test]
fn a_foreign_re_export_fails() {
    caught("pub use hyper::Uri;", "hyper::Uri");
    caught("pub use hyper::{Uri as Address};", "hyper::Uri");
    caught("pub use hyper;", "hyper");
    caught("pub use hyper::*;", "hyper::*");
    caught(
        "mod a { pub(crate) use hyper::Uri; } pub use a::Uri;",
        "hyper::Uri",
    );
    caught(
        "mod a { pub(crate) use hyper::Uri; } use a::*; pub fn f(u: Uri) {}",
        "hyper::Uri",
    );
}

#[test]
fn a_foreign_type_behind_an_alias_fails() {
    caught("pub type U = hyper::Uri;", "hyper::Uri");
    caught("type U = hyper::Uri; pub fn f(u: U) {}", "hyper::Uri");
}

#[test]
fn a_foreign_trait_on_a_public_type_fails() {
    caught("pub trait T: serde::Serialize {}", "serde::Serialize");
    caught(
        "pub trait T { fn f(&self, uri: hyper::Uri); }",
        "hyper::Uri",
    );
    caught(
        "use serde::Serialize; #[derive(Clone, Serialize)] pub struct S;",
        "serde::Serialize",
    );
    caught(
        "#[cfg_attr(feature = \"x\", derive(serde::Serialize))] pub struct S;",
        "serde::Serialize",
    );
    caught(
        "pub struct S; impl From<hyper::Error> for S {}",
        "hyper::Error",
    );
    caught(
        "pub struct S; impl Iterator for S { type Item = hyper::Uri; }",
        "hyper::Uri",
    );
    caught("pub trait T {} impl T for hyper::Uri {}", "hyper::Uri");
    quiet("struct S; impl From<hyper::Error> for S {}");
    quiet("trait T {} impl T for hyper::Uri {}");
    quiet("#[derive(serde::Serialize)] struct S;");
}

#[test]
fn only_the_clock_of_tokio_is_allowed() {
    quiet("use tokio::time::Instant; pub fn f(now: Instant) {}");
    quiet("use tokio::time; pub fn f(now: time::Instant) {}");
    caught(
        "pub fn f(sleep: tokio::time::Sleep) {}",
        "tokio::time::Sleep",
    );
}

#[test]
fn allowed_crates_bodies_and_tests_are_quiet() {
    quiet(
        "use http::Request; use bytes::Bytes; use std::fmt; use tower_service::Service;
         pub struct S<T> { pub inner: T }
         impl<T> S<T> { pub fn f(&self) -> usize { let v: hyper::Uri = todo!(); 0 } }
         impl<T: Service<Request<Bytes>>> Service<Request<Bytes>> for S<T> {
             type Response = T::Response; type Future = tower_claude_core::Future<T::Future>;
         }
         impl<T> fmt::Display for S<T> {}
         fn private(u: hyper::Uri) {}
         pub(crate) fn inside(u: hyper::Uri) {}
         #[cfg(test)] mod tests { pub fn f(u: hyper::Uri) {} }",
    );
    // A local module shadows the crate of the same name.
    quiet("mod hyper { pub struct Uri; } pub fn f(u: hyper::Uri) {}");
}

#[test]
fn a_room_may_show_its_own_extra_crates() {
    let source = Crate::from_text("pub fn f(c: reqwest::Client, u: hyper::Uri) {}", EXTERNS);
    let problems = signatures::check(&source, &["reqwest"]);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("hyper::Uri"));
}
