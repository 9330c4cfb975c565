//! What a path in a signature means: a crate outside, an item of this crate, or a name that needs no import.

use crate::source::{Crate, ModulePath};

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A crate outside, with the whole path from its root.
    Foreign(Vec<String>),
    /// An item declared in this crate: its module and its name.
    Local(ModulePath, String),
    /// A generic parameter, a primitive, a prelude name.
    Plain,
}

/// Imports of imports of imports: deeper than any sane crate goes.
const DEEPEST: u8 = 16;

impl Crate {
    /// Follows a path as the module `at` would.
    pub(crate) fn meaning(&self, at: &[String], path: &[String]) -> Meaning {
        self.follow(at, path, 0)
    }

    fn follow(&self, at: &[String], path: &[String], depth: u8) -> Meaning {
        let Some((first, rest)) = path.split_first() else {
            return Meaning::Plain;
        };
        if depth > DEEPEST {
            return Meaning::Plain;
        }
        match first.as_str() {
            // `::name`: always a crate.
            "" => Meaning::Foreign(rest.to_vec()),
            "Self" => Meaning::Plain,
            "crate" => self.walk(&[], rest, depth),
            "self" => self.walk(at, rest, depth),
            "super" => self.walk(&at[..at.len().saturating_sub(1)], rest, depth),
            _ => match self.walk(at, path, depth) {
                Meaning::Plain if self.externs.contains(first) => Meaning::Foreign(path.to_vec()),
                meaning => meaning,
            },
        }
    }

    /// Looks a path up in the scope of one module only.
    fn walk(&self, at: &[String], path: &[String], depth: u8) -> Meaning {
        let (Some(module), Some((name, rest))) = (self.modules.get(at), path.split_first()) else {
            return Meaning::Plain;
        };
        if name == "super" {
            return self.walk(&at[..at.len().saturating_sub(1)], rest, depth);
        }
        if let Some(target) = module.uses.get(name) {
            // `use name;` names the crate itself.
            if target.len() == 1 && target[0] == *name {
                return Meaning::Foreign(path.to_vec());
            }
            let full = [target.as_slice(), rest].concat();
            return self.follow(at, &full, depth + 1);
        }
        let child = [at, std::slice::from_ref(name)].concat();
        if !rest.is_empty() && self.modules.contains_key(&child) {
            return self.walk(&child, rest, depth);
        }
        if module.declared.contains_key(name) {
            return Meaning::Local(at.to_vec(), name.clone());
        }
        // Globs of this crate's own modules; foreign ones are refused by the check itself.
        for (glob, _) in &module.globs {
            if depth < DEEPEST && glob.first().is_some_and(|root| self.is_own(at, root)) {
                let full = [glob.as_slice(), path].concat();
                let meaning = self.follow(at, &full, depth + 4);
                if meaning != Meaning::Plain {
                    return meaning;
                }
            }
        }
        Meaning::Plain
    }

    /// Whether the first word of a `use` path stays inside this crate.
    pub(crate) fn is_own(&self, at: &[String], root: &str) -> bool {
        let declared = |module: &crate::source::Module| module.declared.contains_key(root);
        matches!(root, "crate" | "self" | "super") || self.modules.get(at).is_some_and(declared)
    }

    /// Whether a local type or trait is `pub`; what is not found counts as public.
    pub(crate) fn is_public(&self, module: &[String], name: &str) -> bool {
        let module = self.modules.get(module);
        module
            .and_then(|m| m.declared.get(name))
            .is_none_or(|public| *public)
    }
}
