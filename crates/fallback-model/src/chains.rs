//! The configured stand-ins of each model.

use std::{collections::HashMap, sync::Arc};

use tower_claude_wire::{Lifecycle, Model, ModelCatalog};

use crate::selection::MAX_TARGETS;

/// A model that a request can be sent to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    /// The name that is sent.
    pub(crate) model: Arc<str>,
    /// The canonical id, without date or cloud prefix.
    pub(crate) id: Arc<str>,
    /// The rate group.
    pub(crate) group: Arc<str>,
    /// The facts of the model.
    pub(crate) facts: Model,
}

impl Target {
    pub(crate) fn new(model: &str, catalog: &ModelCatalog) -> Self {
        let facts = catalog.lookup(model);
        let id = facts.id.clone();
        // Most names are the canonical id.
        let sent = if *model == *id {
            id.clone()
        } else {
            model.into()
        };
        Self {
            model: sent,
            id,
            group: facts.rate_group.clone(),
            facts,
        }
    }
}

/// A model at one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct HostModel {
    pub(crate) host: Arc<str>,
    /// The canonical id.
    pub(crate) id: Arc<str>,
}

/// The rate group of one credential at one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct RateGroup {
    /// The hash of the credential.
    pub(crate) credential: u64,
    pub(crate) host: Arc<str>,
    pub(crate) group: Arc<str>,
    /// True for the limits of the fast mode.
    pub(crate) fast: bool,
}

/// The number of a chain in a [`ChainTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChainId(usize);

/// The chains of stand-ins: a common one, and the chains of single models.
#[derive(Clone, Debug)]
pub(crate) struct ChainTable {
    /// The first list serves every model without a chain of its own.
    lists: Vec<Vec<Target>>,
    /// The lists of single models, by canonical id.
    own: HashMap<Arc<str>, usize>,
    /// The models of `own`, as configured.
    names: Vec<String>,
    /// True if an empty name was skipped.
    has_empty_name: bool,
}

impl ChainTable {
    pub(crate) fn new<M: AsRef<str>>(
        chain: impl IntoIterator<Item = M>,
        catalog: &ModelCatalog,
    ) -> Self {
        let mut table = Self {
            lists: Vec::new(),
            own: HashMap::new(),
            names: Vec::new(),
            has_empty_name: false,
        };
        table.push(chain, catalog);
        table
    }

    /// Sets the chain of one model.
    pub(crate) fn insert<M: AsRef<str>>(
        &mut self,
        model: &str,
        chain: impl IntoIterator<Item = M>,
        catalog: &ModelCatalog,
    ) {
        let model = model.trim();
        if model.is_empty() {
            self.has_empty_name = true;
            return;
        }
        let index = self.lists.len();
        self.push(chain, catalog);
        self.names.push(model.to_owned());
        self.own.insert(catalog.lookup(model).id, index);
    }

    fn push<M: AsRef<str>>(&mut self, chain: impl IntoIterator<Item = M>, catalog: &ModelCatalog) {
        let has_empty_name = &mut self.has_empty_name;
        let named = chain.into_iter().filter(|name| {
            let is_empty = name.as_ref().trim().is_empty();
            *has_empty_name |= is_empty;
            !is_empty
        });
        self.lists.push(list(named, catalog));
    }

    /// Returns the names that may be a mistake, each with the reason in one word.
    pub(crate) fn doubtful(&self, catalog: &ModelCatalog) -> Vec<(&str, &'static str)> {
        let stand_ins = self.lists.iter().flatten();
        let stand_ins = stand_ins.map(|target| (&*target.model, reason_to_doubt(&target.facts)));
        let own = self.names.iter();
        // Chains of retired models are what they are for.
        let own = own.map(|name| (&**name, reason_to_doubt(&catalog.lookup(name))));
        let own = own.filter(|(_, reason)| *reason != Some("retired"));
        let mut names: Vec<_> = stand_ins
            .chain(own)
            .filter_map(|(name, reason)| Some((name, reason?)))
            .chain(self.has_empty_name.then_some(("", "empty")))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Resolves all names again, with another catalogue.
    pub(crate) fn resolve(&mut self, catalog: &ModelCatalog) {
        for targets in &mut self.lists {
            // Two names may now be of one model.
            *targets = list(targets.iter().map(|target| &*target.model), catalog);
        }
        let names = self.names.iter().enumerate();
        self.own = names
            .map(|(index, name)| (catalog.lookup(name).id, index + 1))
            .collect();
    }

    /// Returns the chain of this model, or `None` if it contains no other model.
    #[inline]
    pub(crate) fn of(&self, model: &str, catalog: &ModelCatalog) -> Option<ChainId> {
        // The ordinary case needs no look-up: one of two models is another.
        if self.own.is_empty() && self.lists[0].len() > 1 {
            return Some(ChainId(0));
        }
        self.look_up(model, catalog)
    }

    fn look_up(&self, model: &str, catalog: &ModelCatalog) -> Option<ChainId> {
        let unlisted;
        let id = match catalog.get(model) {
            Some(listed) => &listed.id,
            None => {
                unlisted = catalog.lookup(model).id;
                &unlisted
            }
        };
        let index = self.own.get(id).copied().unwrap_or_default();
        let has_others = self.lists[index].iter().any(|target| target.id != *id);
        has_others.then_some(ChainId(index))
    }

    /// Returns the targets of a chain, in order.
    pub(crate) fn list(&self, chain: ChainId) -> &[Target] {
        &self.lists[chain.0]
    }

    /// Returns the canonical ids of all stand-ins.
    pub(crate) fn stand_ins(&self) -> Vec<Arc<str>> {
        let mut ids: Vec<_> = self.lists.iter().flatten().map(|t| t.id.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// Returns the reason why a configured model may be a mistake.
fn reason_to_doubt(facts: &Model) -> Option<&'static str> {
    match (facts.lifecycle, facts.known) {
        (Lifecycle::Retired, _) => Some("retired"),
        (_, false) => Some("unknown"),
        _ => None,
    }
}

fn list<M: AsRef<str>>(chain: impl IntoIterator<Item = M>, catalog: &ModelCatalog) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    for model in chain {
        let target = Target::new(model.as_ref().trim(), catalog);
        if targets.iter().all(|listed| listed.id != target.id) {
            targets.push(target);
        }
    }
    targets.truncate(MAX_TARGETS - 1);
    targets
}
