//! The source files of a crate, parsed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use syn::{Attribute, File, Item, UseTree};

/// The modules of one crate by path, such as `["pool", "bucket"]`. The root has the empty path.
pub(crate) type Modules = BTreeMap<Vec<String>, File>;

/// Reads all modules of a crate below its `src` folder, without its tests.
pub(crate) fn load(src: &Path) -> Modules {
    let mut modules = Modules::new();
    let mut folders = vec![src.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for path in entries.map(|entry| entry.expect("a readable folder").path()) {
            let name = path.file_stem().unwrap_or_default();
            if name == "tests" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a readable file");
                let file =
                    syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                modules.insert(module_path(src, &path), file);
            }
        }
    }
    modules
}

fn module_path(src: &Path, file: &Path) -> Vec<String> {
    let relative: PathBuf = file
        .strip_prefix(src)
        .expect("below src")
        .with_extension("");
    let mut path: Vec<String> = relative
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if path.last().is_some_and(|last| last == "mod") || path == ["lib"] || path == ["main"] {
        path.pop();
    }
    path
}

/// Returns true for an item that only tests compile.
pub(crate) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}

/// Calls `found` with each path that a `use` tree imports, and with the name it gets.
pub(crate) fn flatten(tree: &UseTree, prefix: &[String], found: &mut impl FnMut(&[String], &str)) {
    let join = |name: &syn::Ident| {
        let mut path = prefix.to_vec();
        path.push(name.to_string());
        path
    };
    match tree {
        UseTree::Path(path) => flatten(&path.tree, &join(&path.ident), found),
        UseTree::Name(name) if name.ident == "self" => {
            found(prefix, prefix.last().map_or("", String::as_str));
        }
        UseTree::Name(name) => found(&join(&name.ident), &name.ident.to_string()),
        UseTree::Rename(rename) => found(&join(&rename.ident), &rename.rename.to_string()),
        UseTree::Glob(_) => found(prefix, "*"),
        UseTree::Group(group) => {
            group
                .items
                .iter()
                .for_each(|tree| flatten(tree, prefix, found));
        }
    }
}

/// Returns the `use` items of a file, without those of its tests.
pub(crate) fn imports(file: &File) -> impl Iterator<Item = &syn::ItemUse> {
    file.items.iter().filter_map(|item| match item {
        Item::Use(import) if !is_test(&import.attrs) => Some(import),
        _ => None,
    })
}
