//! A library crate's source as a tree of modules, read the way the compiler finds the files.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use syn::{Attribute, Item, UseTree, Visibility};

/// The path of a module from the crate's root; empty for the root itself.
pub(crate) type ModulePath = Vec<String>;

/// One module: its items (test code left out) and the names they bring into scope.
#[derive(Default)]
pub(crate) struct Module {
    pub(crate) file: String,
    pub(crate) items: Vec<Item>,
    /// Name in scope -> path as written in the `use`.
    pub(crate) uses: HashMap<String, Vec<String>>,
    /// Paths of `use path::*`, with whether they are re-exports.
    pub(crate) globs: Vec<(Vec<String>, bool)>,
    /// Types and traits declared here -> whether they are `pub`.
    pub(crate) declared: HashMap<String, bool>,
    /// Type aliases that are not `pub`: a public signature may hide a foreign type behind one.
    pub(crate) aliases: HashMap<String, syn::Type>,
}

/// All modules of one library crate.
pub(crate) struct Crate {
    pub(crate) modules: BTreeMap<ModulePath, Module>,
    /// Crates that its manifest brings into scope.
    pub(crate) externs: BTreeSet<String>,
}

impl Crate {
    /// Reads a crate from its root file; names the file that could not be read or parsed.
    pub(crate) fn load(root: &Path, externs: BTreeSet<String>) -> Result<Self, String> {
        let mut source = Self::empty(externs);
        let dir = root.parent().unwrap_or(Path::new("")).to_owned();
        let file = read(root)?;
        source.add(&[], file.items, &dir, "src/lib.rs")?;
        Ok(source)
    }

    /// A crate of one string, for the tests of the check itself.
    pub(crate) fn from_text(text: &str, externs: &[&str]) -> Self {
        let mut source = Self::empty(externs.iter().map(|&name| name.to_owned()).collect());
        let file = syn::parse_file(text).expect("the test's source parses");
        source
            .add(&[], file.items, Path::new("nowhere"), "text")
            .expect("the test's source has inline modules only");
        source
    }

    fn empty(mut externs: BTreeSet<String>) -> Self {
        externs.extend(["std", "core", "alloc"].map(str::to_owned));
        Self {
            modules: BTreeMap::new(),
            externs,
        }
    }

    /// Adds one module and, depth first, its children. `dir` is where its child files lie.
    fn add(
        &mut self,
        path: &[String],
        items: Vec<Item>,
        dir: &Path,
        file: &str,
    ) -> Result<(), String> {
        let mut module = Module {
            file: file.to_owned(),
            ..Module::default()
        };
        let mut queue: Vec<Item> = items.into_iter().rev().collect();
        while let Some(item) = queue.pop() {
            if is_test(attributes(&item)) {
                continue;
            }
            match &item {
                Item::Mod(child) => {
                    let name = child.ident.to_string();
                    let inner = [path, std::slice::from_ref(&name)].concat();
                    module.declare(&name, &child.vis);
                    if let Some((_, items)) = &child.content {
                        self.add(&inner, items.clone(), &dir.join(&name), file)?;
                    } else {
                        let found = child_file(dir, &name)?;
                        let shown = format!("src/{}.rs", inner.join("/"));
                        self.add(&inner, read(&found)?.items, &dir.join(&name), &shown)?;
                    }
                }
                // `pin_project! { pub struct .. }` and the like: look inside when it reads as items.
                Item::Macro(call) if call.ident.is_none() => {
                    if let Ok(inner) = syn::parse2::<syn::File>(call.mac.tokens.clone()) {
                        queue.extend(inner.items.into_iter().rev());
                    }
                }
                Item::Use(import) => {
                    let public = matches!(import.vis, Visibility::Public(_));
                    let mut start = Vec::new();
                    if import.leading_colon.is_some() {
                        start.push(String::new());
                    }
                    module.import(&import.tree, start, public);
                    module.items.push(item);
                }
                _ => module.record(item),
            }
        }
        self.modules.insert(path.to_vec(), module);
        Ok(())
    }
}

impl Module {
    fn declare(&mut self, name: &impl ToString, vis: &Visibility) {
        let public = matches!(vis, Visibility::Public(_));
        self.declared.insert(name.to_string(), public);
    }

    fn record(&mut self, item: Item) {
        match &item {
            Item::Struct(it) => self.declare(&it.ident, &it.vis),
            Item::Enum(it) => self.declare(&it.ident, &it.vis),
            Item::Union(it) => self.declare(&it.ident, &it.vis),
            Item::Trait(it) => self.declare(&it.ident, &it.vis),
            Item::Type(it) => {
                self.declare(&it.ident, &it.vis);
                if !matches!(it.vis, Visibility::Public(_)) {
                    self.aliases.insert(it.ident.to_string(), (*it.ty).clone());
                }
            }
            _ => {}
        }
        self.items.push(item);
    }

    /// Flattens one `use` tree into names in scope.
    fn import(&mut self, tree: &UseTree, mut prefix: Vec<String>, public: bool) {
        match tree {
            UseTree::Path(step) => {
                prefix.push(step.ident.to_string());
                self.import(&step.tree, prefix, public);
            }
            UseTree::Name(leaf) if leaf.ident == "self" => {
                if let Some(name) = prefix.last().cloned() {
                    self.uses.insert(name, prefix);
                }
            }
            UseTree::Name(leaf) => {
                let name = leaf.ident.to_string();
                prefix.push(name.clone());
                self.uses.insert(name, prefix);
            }
            UseTree::Rename(leaf) => {
                if leaf.ident != "self" {
                    prefix.push(leaf.ident.to_string());
                }
                self.uses.insert(leaf.rename.to_string(), prefix);
            }
            UseTree::Glob(_) => self.globs.push((prefix, public)),
            UseTree::Group(group) => {
                for branch in &group.items {
                    self.import(branch, prefix.clone(), public);
                }
            }
        }
    }
}

fn read(path: &Path) -> Result<syn::File, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    syn::parse_file(&text).map_err(|e| format!("{}: {e}", path.display()))
}

fn child_file(dir: &Path, name: &str) -> Result<PathBuf, String> {
    let candidates = [
        dir.join(format!("{name}.rs")),
        dir.join(name).join("mod.rs"),
    ];
    let found = candidates.into_iter().find(|file| file.exists());
    found.ok_or_else(|| format!("module {name} has no file in {}", dir.display()))
}

/// Whether an item exists in test builds only.
pub(crate) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| {
                let condition = list.tokens.to_string().replace(' ', "");
                condition == "test" || condition.starts_with("all(test")
            })
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(it) => &it.attrs,
        Item::Enum(it) => &it.attrs,
        Item::Fn(it) => &it.attrs,
        Item::Impl(it) => &it.attrs,
        Item::Macro(it) => &it.attrs,
        Item::Mod(it) => &it.attrs,
        Item::Static(it) => &it.attrs,
        Item::Struct(it) => &it.attrs,
        Item::Trait(it) => &it.attrs,
        Item::Type(it) => &it.attrs,
        Item::Union(it) => &it.attrs,
        Item::Use(it) => &it.attrs,
        _ => &[],
    }
}
