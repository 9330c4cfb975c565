//! Foreign crates in the public signatures of a library.
//!
//! The check is syntactic. A bare `pub` counts as public, because the lint `unreachable_pub` keeps
//! every other item `pub(crate)`. Names are followed through the imports of their own file only.

use std::collections::BTreeMap;

use syn::visit::{self, Visit};
use syn::{Block, Field, File, ImplItem, Item, TraitItem, Visibility};

use crate::dependencies::{LIBRARIES, root};
use crate::source::{flatten, imports, is_test, load};

/// Crates that every public signature may show: each is past 1.0, or as settled as tower's two
/// traits.
const COMMON: &[&str] = &[
    "std",
    "core",
    "alloc",
    "http",
    "http_body",
    "bytes",
    "tower_layer",
    "tower_service",
];

/// Crates that the workspace uses and no signature may show. `tokio::time::Instant` is the
/// exception.
const FOREIGN: &[&str] = &[
    "axum",
    "blake3",
    "fastrand",
    "foldhash",
    "futures",
    "futures_util",
    "h2",
    "http_body_util",
    "httpdate",
    "hyper",
    "hyper_rustls",
    "hyper_util",
    "jiff",
    "memchr",
    "quick_cache",
    "redis",
    "reqwest",
    "reqwest_middleware",
    "rustls",
    "serde",
    "serde_json",
    "tokio",
    "toml",
    "tower",
    "tracing",
];

struct Reader<'a> {
    allowed: &'a [&'a str],
    imported: BTreeMap<String, Vec<String>>,
    item: String,
    problems: Vec<String>,
}

fn is_pub(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mut names: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if let Some(full) = names.first().and_then(|first| self.imported.get(first)) {
            names.splice(..1, full.clone());
        }
        let first = names.first().map_or("", String::as_str);
        let is_clock = names == ["tokio", "time", "Instant"];
        if FOREIGN.contains(&first) && !self.allowed.contains(&first) && !is_clock {
            let shown = names.join("::");
            self.problems.push(format!("{} shows {shown}", self.item));
        }
        visit::visit_path(self, path);
    }

    fn visit_block(&mut self, _: &'ast Block) {}

    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}

    fn visit_field(&mut self, field: &'ast Field) {
        if is_pub(&field.vis) {
            visit::visit_field(self, field);
        }
    }
}

fn check(file: &File, allowed: &[&str]) -> Vec<String> {
    let mut imported = BTreeMap::new();
    for import in imports(file) {
        flatten(&import.tree, &[], &mut |path, name| {
            imported.insert(name.to_owned(), path.to_vec());
        });
    }
    let mut reader = Reader {
        allowed,
        imported,
        item: String::new(),
        problems: Vec::new(),
    };
    file.items.iter().for_each(|item| read(&mut reader, item));
    reader.problems
}

fn read(reader: &mut Reader<'_>, item: &Item) {
    match item {
        Item::Fn(it) if is_pub(&it.vis) && !is_test(&it.attrs) => {
            reader.item = format!("fn {}", it.sig.ident);
            reader.visit_signature(&it.sig);
        }
        Item::Struct(it) if is_pub(&it.vis) => {
            reader.item = format!("struct {}", it.ident);
            reader.visit_generics(&it.generics);
            it.fields.iter().for_each(|field| reader.visit_field(field));
        }
        Item::Enum(it) if is_pub(&it.vis) => {
            reader.item = format!("enum {}", it.ident);
            let fields = it.variants.iter().flat_map(|variant| &variant.fields);
            fields.for_each(|field| reader.visit_type(&field.ty));
        }
        Item::Type(it) if is_pub(&it.vis) => {
            reader.item = format!("type {}", it.ident);
            reader.visit_type(&it.ty);
        }
        Item::Const(it) if is_pub(&it.vis) => {
            reader.item = format!("const {}", it.ident);
            reader.visit_type(&it.ty);
        }
        Item::Trait(it) if is_pub(&it.vis) => {
            for part in &it.items {
                reader.item = format!("trait {}", it.ident);
                if let TraitItem::Fn(part) = part {
                    reader.visit_signature(&part.sig);
                }
            }
        }
        Item::Use(it) if is_pub(&it.vis) => flatten(&it.tree, &[], &mut |path, _| {
            let first = path.first().map_or("", String::as_str);
            if FOREIGN.contains(&first) && !reader.allowed.contains(&first) {
                reader.problems.push(format!("pub use {}", path.join("::")));
            }
        }),
        Item::Impl(it) if it.trait_.is_none() => {
            for part in &it.items {
                if let ImplItem::Fn(part) = part
                    && is_pub(&part.vis)
                {
                    reader.item = format!("fn {}", part.sig.ident);
                    reader.visit_signature(&part.sig);
                }
            }
        }
        Item::Mod(it) if !is_test(&it.attrs) => {
            let items = it.content.iter().flat_map(|(_, items)| items);
            items.for_each(|item| read(reader, item));
        }
        _ => {}
    }
}

#[test]
fn public_signatures_show_allowed_crates_only() {
    assert!(!COMMON.iter().any(|name| FOREIGN.contains(name)));
    let mut found = Vec::new();
    for (library, _, allowed) in LIBRARIES {
        for (path, file) in load(&root().join("crates").join(library).join("src")) {
            let problems = check(&file, allowed);
            let place = format!("{library}::{}", path.join("::"));
            found.extend(problems.iter().map(|problem| format!("{place}: {problem}")));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn each_way_to_show_a_foreign_crate_is_found() {
    let problems = |text: &str| check(&syn::parse_file(text).unwrap(), &[]).len();
    for text in [
        "pub fn f(x: serde_json::Value) {}",
        "use tokio::sync::Mutex; pub struct S { pub lock: Mutex<u8> }",
        "use tokio::sync::Mutex as M; impl S { pub fn f(&self) -> &M<u8> { todo!() } }",
        "pub enum E { A(hyper::Error) }",
        "pub trait T { fn f(&self) -> jiff::Timestamp; }",
        "pub use serde_json::Value;",
        "pub fn f(x: impl Fn(tower::BoxError)) {}",
    ] {
        assert_eq!(problems(text), 1, "{text}");
    }
    for text in [
        "pub fn f(at: tokio::time::Instant) {}",
        "use tokio::sync::Mutex; pub struct S { lock: Mutex<u8> }",
        "fn f(x: serde_json::Value) {}",
        "pub fn f() -> http::StatusCode { serde_json::json!({}) }",
    ] {
        assert_eq!(problems(text), 0, "{text}");
    }
}
