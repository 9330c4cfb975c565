//! The configured stand-ins of each model.

use std::{collections::HashMap, sync::Arc};

use tower_claude_wire::{Model, ModelCatalog, Support};

use crate::selection::MAX_TARGETS;

/// A model that a request can be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The name that is sent.
    pub(crate) model: Arc<str>,
    /// The canonical id, without date or cloud prefix.
    pub(crate) id: Arc<str>,
    /// The rate group.
    pub(crate) group: Arc<str>,
    /// True if the model has a fast mode, which has limits of its own.
    pub(crate) has_fast: bool,
}

impl Target {
    pub(crate) fn new(model: &str, catalog: &ModelCatalog) -> Self {
        let Model {
            id,
            rate_group,
            capabilities,
            ..
        } = catalog.lookup(model);
        // Most names are the canonical id.
        let sent = if *model == *id {
            id.clone()
        } else {
            model.into()
        };
        Self {
            model: sent,
            id,
            group: rate_group,
            has_fast: capabilities.fast == Support::Yes,
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
}

impl ChainTable {
    pub(crate) fn new<M: AsRef<str>>(
        chain: impl IntoIterator<Item = M>,
        catalog: &ModelCatalog,
    ) -> Self {
        Self {
            lists: vec![list(chain, catalog)],
            own: HashMap::new(),
            names: Vec::new(),
        }
    }

    /// Sets the chain of one model.
    pub(crate) fn insert<M: AsRef<str>>(
        &mut self,
        model: &str,
        chain: impl IntoIterator<Item = M>,
        catalog: &ModelCatalog,
    ) {
        let index = self.lists.len();
        self.lists.push(list(chain, catalog));
        self.names.push(model.to_owned());
        self.own.insert(catalog.lookup(model).id, index);
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
    pub(crate) fn of(&self, model: &str, catalog: &ModelCatalog) -> Option<ChainId> {
        // The ordinary case needs no look-up: one of two models is another.
        if self.own.is_empty() && self.lists[0].len() > 1 {
            return Some(ChainId(0));
        }
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

fn list<M: AsRef<str>>(chain: impl IntoIterator<Item = M>, catalog: &ModelCatalog) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    for model in chain {
        let target = Target::new(model.as_ref(), catalog);
        if targets.iter().all(|listed| listed.id != target.id) {
            targets.push(target);
        }
    }
    targets.truncate(MAX_TARGETS - 1);
    targets
}
