//! Circular imports between the modules of a crate.

use std::collections::{BTreeMap, BTreeSet};

use syn::Visibility;

use crate::dependencies::{LIBRARIES, root};
use crate::source::{Modules, flatten, imports, load};

type Graph = BTreeMap<Vec<String>, BTreeSet<Vec<String>>>;

/// Returns the modules that each module imports from. A re-export (`pub use`) is no import.
fn graph(modules: &Modules) -> Graph {
    let mut graph = Graph::new();
    for (path, file) in modules {
        let mut targets = BTreeSet::new();
        for import in imports(file) {
            if matches!(import.vis, Visibility::Public(_)) {
                continue;
            }
            flatten(&import.tree, &[], &mut |imported, _| {
                targets.extend(resolve(modules, path, imported).filter(|target| target != path));
            });
        }
        graph.insert(path.clone(), targets);
    }
    graph
}

/// Returns the module of this crate that an imported path leads to.
fn resolve(modules: &Modules, from: &[String], imported: &[String]) -> Option<Vec<String>> {
    let mut target = match imported.first()?.as_str() {
        "crate" => Vec::new(),
        "self" => from.to_vec(),
        "super" => from[..from.len().checked_sub(1)?].to_vec(),
        // A child module.
        _ => {
            let mut child = from.to_vec();
            child.push(imported[0].clone());
            return modules.contains_key(&child).then_some(child);
        }
    };
    for part in &imported[1..] {
        if part == "super" {
            target.pop();
            continue;
        }
        target.push(part.clone());
        if !modules.contains_key(&target) {
            target.pop();
            break;
        }
    }
    Some(target)
}

/// Returns the modules that can reach themselves, in groups that share a circle.
fn circles(graph: &Graph) -> BTreeSet<BTreeSet<String>> {
    let reach = |from: &Vec<String>| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&Vec<String>> = graph[from].iter().collect();
        while let Some(module) = next.pop() {
            if seen.insert(module.clone()) {
                next.extend(graph.get(module).into_iter().flatten());
            }
        }
        seen
    };
    let all: BTreeMap<_, _> = graph.keys().map(|module| (module, reach(module))).collect();
    let name = |path: &Vec<String>| match path.is_empty() {
        true => "lib".to_owned(),
        false => path.join("::"),
    };
    all.iter()
        .filter(|(module, reached)| reached.contains(**module))
        .map(|(module, reached)| {
            let both = reached.iter().filter(|other| all[other].contains(*module));
            both.map(name).collect()
        })
        .collect()
}

#[test]
fn no_crate_has_circular_imports() {
    let mut found = Vec::new();
    for (library, ..) in LIBRARIES {
        let modules = load(&root().join("crates").join(library).join("src"));
        for circle in circles(&graph(&modules)) {
            found.push(format!("{library}: {}", Vec::from_iter(circle).join(", ")));
        }
    }
    assert!(found.is_empty(), "circular imports:\n{}", found.join("\n"));
}

#[test]
fn a_circle_is_found() {
    let modules: Modules = [
        ("", "mod a; mod b; pub use a::A;"),
        ("a", "use crate::b::B; pub struct A;"),
        ("b", "use super::a::{A, self}; pub struct B;"),
    ]
    .into_iter()
    .map(|(path, text)| {
        let path = path.split_terminator("::").map(str::to_owned).collect();
        (path, syn::parse_file(text).unwrap())
    })
    .collect();
    let expected = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
    assert_eq!(circles(&graph(&modules)), BTreeSet::from([expected]));
}
