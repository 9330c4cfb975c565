//! Who stands in for whom, as configured.

use std::{collections::HashMap, sync::Arc};

use tower_claude_wire::{Model, ModelCatalog, Support};

use crate::policy::MOST_TARGETS;

/// A model that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// As it is sent.
    pub(crate) model: Arc<str>,
    /// Without date or cloud dress: what book is kept by.
    pub(crate) id: Arc<str>,
    /// The limits it draws on.
    pub(crate) group: Arc<str>,
    /// Whether it has a fast mode, with limits of its own.
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
        // An id is mostly sent as it is listed.
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

/// The number of a chain in [`Chains`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChainId(usize);

/// An ordered list of stand-ins for every model, and some for single ones.
#[derive(Clone, Debug)]
pub(crate) struct Chains {
    /// The first serves every model without one of its own.
    lists: Vec<Vec<Target>>,
    /// By canonical id.
    own: HashMap<Arc<str>, usize>,
    /// The models of `own`, as configured.
    names: Vec<String>,
}

impl Chains {
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

    /// Gives one model a chain of its own, in place of one it may have had.
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

    /// The same chains as another catalogue sees their models.
    pub(crate) fn resolve(&mut self, catalog: &ModelCatalog) {
        for targets in &mut self.lists {
            // Two names may be of one model now.
            *targets = list(targets.iter().map(|target| &*target.model), catalog);
        }
        let names = self.names.iter().enumerate();
        self.own = names
            .map(|(index, name)| (catalog.lookup(name).id, index + 1))
            .collect();
    }

    /// The chain that stands in for this model; none, when nobody but itself is in it.
    pub(crate) fn of(&self, model: &str, catalog: &ModelCatalog) -> Option<ChainId> {
        // The ordinary case needs no look-up: of two models one at least is another.
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
        let others = self.lists[index].iter().any(|target| target.id != *id);
        others.then_some(ChainId(index))
    }

    /// The targets of a chain, in order.
    pub(crate) fn list(&self, chain: ChainId) -> &[Target] {
        &self.lists[chain.0]
    }

    /// Every model that stands in for another, once.
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
    targets.truncate(MOST_TARGETS - 1);
    targets
}
