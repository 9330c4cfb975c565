//! Which crates the public signatures of a library show.
//!
//! Syntactic on purpose: it needs no nightly compiler and no rustdoc JSON. A bare `pub` counts as public, because the
//! `unreachable_pub` lint keeps every other item `pub(crate)`. Paths are followed through imports, re-exports, private
//! aliases and item macros whose input reads as items; the output of `macro_rules!` is not seen.

use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Attribute, Fields, ImplItem, Item, Meta, Signature, Token, TraitItem, Type, Visibility};

use crate::names::Meaning;
use crate::source::{Crate, is_test};

/// Crates that every public signature may show: each is past 1.0 or as settled as tower's two trait crates.
pub(crate) const SHOWN_BY_ALL: &[&str] = &[
    "std",
    "core",
    "alloc",
    "http",
    "http_body",
    "bytes",
    "tower_layer",
    "tower_service",
];

/// The one clock: a type of ours around it would only hide that tests can pause it.
const CLOCK: &[&str] = &["tokio", "time", "Instant"];

/// Every foreign path in a public signature of the crate; `extra` are the crates this room may show beside the common ones.
pub(crate) fn check(source: &Crate, extra: &[&str]) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, module) in &source.modules {
        let mut reader = Reader {
            source,
            extra,
            module: path,
            file: &module.file,
            item: String::new(),
            hops: 0,
            problems: &mut problems,
        };
        for (glob, public) in &module.globs {
            reader.glob(glob, *public);
        }
        for item in &module.items {
            reader.item(item);
        }
    }
    problems.sort();
    problems.dedup();
    problems
}

struct Reader<'a> {
    source: &'a Crate,
    extra: &'a [&'a str],
    module: &'a [String],
    file: &'a str,
    /// What is being read, for the message.
    item: String,
    /// Private aliases followed so far.
    hops: u8,
    problems: &'a mut Vec<String>,
}

fn is_pub(vis: &Visibility) -> bool {
    matches!(vis, Visibility::Public(_))
}

fn segments(path: &syn::Path) -> Vec<String> {
    let names = path.segments.iter().map(|s| s.ident.to_string());
    let root = path.leading_colon.map(|_| String::new());
    root.into_iter().chain(names).collect()
}

impl Reader<'_> {
    fn allowed(&self, path: &[String]) -> bool {
        let root = path.first().map_or("", String::as_str);
        SHOWN_BY_ALL.contains(&root)
            || self.extra.contains(&root)
            || root == "tower_claude"
            || root.starts_with("tower_claude_")
            || path == CLOCK
    }

    fn look_up(&mut self, path: &[String]) {
        match self.source.meaning(self.module, path) {
            Meaning::Foreign(full) if !self.allowed(&full) => self.problems.push(format!(
                "{}: {} shows {}: name a type of ours or of {} instead",
                self.file,
                self.item,
                full.join("::"),
                SHOWN_BY_ALL.join(", ")
            )),
            Meaning::Local(module, name) if self.hops < 8 => {
                let source = self.source;
                let Some((path, there)) = source.modules.get_key_value(&module) else {
                    return;
                };
                if let Some(hidden) = there.aliases.get(&name) {
                    Reader {
                        module: path,
                        item: format!("{} (through the alias {name})", self.item),
                        hops: self.hops + 1,
                        problems: &mut *self.problems,
                        ..*self
                    }
                    .visit_type(hidden);
                }
            }
            _ => {}
        }
    }

    fn glob(&mut self, path: &[String], public: bool) {
        let own = path
            .first()
            .is_some_and(|root| self.source.is_own(self.module, root));
        let path = path.strip_prefix(&[String::new()]).unwrap_or(path);
        if !own && !self.allowed(path) {
            let how = if public { "pub use" } else { "use" };
            self.problems.push(format!(
                "{}: {how} {}::* hides where names come from: import them by name",
                self.file,
                path.join("::")
            ));
        }
    }

    /// Reads one item under a name; everything below goes through `visit_path`.
    fn item(&mut self, item: &Item) {
        match item {
            Item::Fn(it) if is_pub(&it.vis) => self.signature("fn", &it.sig),
            Item::Const(it) if is_pub(&it.vis) => {
                self.item = format!("const {}", it.ident);
                self.visit_type(&it.ty);
            }
            Item::Static(it) if is_pub(&it.vis) => {
                self.item = format!("static {}", it.ident);
                self.visit_type(&it.ty);
            }
            Item::Type(it) if is_pub(&it.vis) => {
                self.item = format!("type {}", it.ident);
                self.visit_item_type(it);
            }
            Item::Struct(it) if is_pub(&it.vis) => {
                self.item = format!("struct {}", it.ident);
                self.derives(&it.attrs);
                self.visit_generics(&it.generics);
                self.fields(&it.fields, false);
            }
            Item::Union(it) if is_pub(&it.vis) => {
                self.item = format!("union {}", it.ident);
                self.visit_generics(&it.generics);
                self.fields(&Fields::Named(it.fields.clone()), false);
            }
            Item::Enum(it) if is_pub(&it.vis) => {
                self.item = format!("enum {}", it.ident);
                self.derives(&it.attrs);
                self.visit_generics(&it.generics);
                for variant in &it.variants {
                    self.fields(&variant.fields, true);
                }
            }
            Item::Trait(it) if is_pub(&it.vis) => self.trait_items(it),
            Item::Use(it) if is_pub(&it.vis) => {
                self.item = "pub use".to_owned();
                let root = it.leading_colon.map(|_| String::new());
                self.re_export(&it.tree, root.into_iter().collect());
            }
            Item::ExternCrate(it) if is_pub(&it.vis) => {
                self.item = "pub extern crate".to_owned();
                self.look_up(&[String::new(), it.ident.to_string()]);
            }
            Item::Impl(it) => self.implementation(it),
            _ => {}
        }
    }

    fn signature(&mut self, what: &str, signature: &Signature) {
        self.item = format!("{what} {}", signature.ident);
        self.visit_signature(signature);
    }

    fn fields(&mut self, fields: &Fields, all: bool) {
        for field in fields.iter().filter(|field| all || is_pub(&field.vis)) {
            self.visit_type(&field.ty);
        }
    }

    /// A derived trait is an implementation that users can call.
    fn derives(&mut self, attributes: &[Attribute]) {
        let list = Punctuated::<Meta, Token![,]>::parse_terminated;
        let mut queue: Vec<Meta> = attributes.iter().map(|a| a.meta.clone()).collect();
        while let Some(meta) = queue.pop() {
            let Meta::List(meta) = meta else {
                continue;
            };
            let Ok(inner) = meta.parse_args_with(list) else {
                continue;
            };
            if meta.path.is_ident("cfg_attr") {
                queue.extend(inner.into_iter().skip(1));
            } else if meta.path.is_ident("derive") {
                for derived in &inner {
                    self.visit_path(derived.path());
                }
            }
        }
    }

    fn trait_items(&mut self, it: &syn::ItemTrait) {
        let name = format!("trait {}", it.ident);
        self.item.clone_from(&name);
        self.visit_generics(&it.generics);
        for bound in &it.supertraits {
            self.visit_type_param_bound(bound);
        }
        for item in &it.items {
            self.item.clone_from(&name);
            match item {
                TraitItem::Fn(method) => self.signature(&format!("{name}: fn"), &method.sig),
                TraitItem::Type(associated) => self.visit_trait_item_type(associated),
                TraitItem::Const(constant) => self.visit_type(&constant.ty),
                _ => {}
            }
        }
    }

    fn re_export(&mut self, tree: &syn::UseTree, mut path: Vec<String>) {
        use syn::UseTree::{Group, Name, Path, Rename};
        match tree {
            Path(step) => {
                path.push(step.ident.to_string());
                self.re_export(&step.tree, path);
            }
            Group(group) => {
                for branch in &group.items {
                    self.re_export(branch, path.clone());
                }
            }
            Name(syn::UseName { ident }) | Rename(syn::UseRename { ident, .. }) => {
                if ident != "self" {
                    path.push(ident.to_string());
                }
                self.look_up(&path);
            }
            _ => {} // a glob: see `glob`
        }
    }

    fn implementation(&mut self, it: &syn::ItemImpl) {
        let mut bare = &*it.self_ty;
        while let Type::Reference(reference) = bare {
            bare = &reference.elem;
        }
        let this = match bare {
            Type::Path(path) => segments(&path.path),
            _ => Vec::new(),
        };
        let hidden =
            |reader: &Self, path: &[String]| match reader.source.meaning(reader.module, path) {
                Meaning::Local(module, name) => !reader.source.is_public(&module, &name),
                _ => false,
            };
        let of = it.trait_.as_ref().map(|(path, _)| segments(path));
        if hidden(self, &this) || of.as_ref().is_some_and(|path| hidden(self, path)) {
            return;
        }
        let name = format!("impl {}", this.join("::"));
        self.item.clone_from(&name);
        self.visit_generics(&it.generics);
        self.visit_type(&it.self_ty);
        if let Some((path, _)) = &it.trait_ {
            self.visit_path(path);
        }
        for item in &it.items {
            self.item.clone_from(&name);
            match item {
                // A trait's method signatures are the trait's: what the impl adds are its types.
                ImplItem::Type(associated) => self.visit_type(&associated.ty),
                ImplItem::Fn(f) if of.is_none() && is_pub(&f.vis) && !is_test(&f.attrs) => {
                    self.signature(&format!("{name}: fn"), &f.sig);
                }
                ImplItem::Const(c) if of.is_none() && is_pub(&c.vis) => self.visit_type(&c.ty),
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.look_up(&segments(path));
        visit::visit_path(self, path);
    }

    // Not part of a signature: attributes, bodies, array lengths and the path inside `pub(in ..)`.
    fn visit_attribute(&mut self, _: &'ast Attribute) {}
    fn visit_block(&mut self, _: &'ast syn::Block) {}
    fn visit_expr(&mut self, _: &'ast syn::Expr) {}
    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}
