//! Label values of metrics and alerts, whose number is bounded whatever callers and servers
//! send, and the values by label.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use tower_claude_wire::ModelCatalog;

use crate::{
    dimension::Dimension,
    endpoint::Endpoint,
    event::AttemptEnd,
    scope::{Scope, get_by_scope},
};

/// The label of a model or group that the catalog does not list, and of whatever is over a bound.
pub(crate) const OTHER: &str = "other";

/// The dimensions whose limits headers show for each minute.
pub(crate) const LIMITED: [Dimension; 3] = [
    Dimension::Requests,
    Dimension::InputTokens,
    Dimension::OutputTokens,
];

/// The dimensions that are estimated.
pub(crate) const ESTIMATED: [Dimension; 2] = [Dimension::InputTokens, Dimension::OutputTokens];

/// The upper bounds of waits in seconds, in histograms.
pub(crate) const WAIT_BOUNDS: [f64; 12] = [
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
];

/// The most label values of scopes.
const MAX_SCOPES: usize = 128;

/// The most scopes whose values are found without making their label.
const MAX_CACHED: usize = 256;

/// The settings of an observer, and the scopes seen.
#[derive(Debug)]
pub(crate) struct Labels {
    pub(crate) catalog: Cow<'static, ModelCatalog>,
    /// The name before the label of each scope.
    name: Option<Box<str>>,
    /// Names of credentials by their hash.
    pub(crate) credentials: HashMap<u64, Box<str>>,
    /// The rate groups of the catalog.
    groups: HashSet<Arc<str>>,
    scopes: Mutex<HashSet<Arc<str>>>,
}

impl Labels {
    pub(crate) fn new(catalog: Cow<'static, ModelCatalog>) -> Self {
        let groups = catalog.models();
        let groups = groups.map(|model| model.rate_group.clone()).collect();
        Self {
            catalog,
            name: None,
            credentials: HashMap::new(),
            groups,
            scopes: Mutex::default(),
        }
    }

    /// Returns the same labels with another catalog.
    pub(crate) fn with_catalog(&self, catalog: ModelCatalog) -> Self {
        let mut labels = Self::new(Cow::Owned(catalog));
        labels.credentials = self.credentials.clone();
        labels.name = self.name.clone();
        labels
    }

    /// Returns the same labels with a name for a credential.
    pub(crate) fn with_credential(&self, credential: u64, name: &str) -> Self {
        let mut labels = Self::new(self.catalog.clone());
        labels.credentials = self.credentials.clone();
        labels.name = self.name.clone();
        labels.credentials.insert(credential, name.into());
        labels
    }

    /// Returns the same labels with a name before each scope.
    pub(crate) fn with_name(&self, name: &str) -> Self {
        let mut labels = Self::new(self.catalog.clone());
        labels.credentials = self.credentials.clone();
        labels.name = Some(name.into());
        labels
    }

    /// Returns the catalog's name of a model, or [`OTHER`].
    pub(crate) fn model(&self, model: Option<&str>) -> Arc<str> {
        match model.and_then(|model| self.catalog.get(model)) {
            Some(model) => model.id.clone(),
            None => Arc::from(OTHER),
        }
    }

    /// Returns the label of a scope: the name of its credential if it has one, the endpoint, and
    /// the group of models if the catalog lists it.
    pub(crate) fn scope(&self, scope: &Scope) -> Arc<str> {
        let name = self.credentials.get(&scope.credential);
        let mut label = name.map_or_else(String::new, |name| format!("{name}/"));
        if scope.endpoint == Endpoint::Other {
            // Such scopes are named by the program.
            label.push_str(&format!("{scope:#}"));
        } else {
            label.push_str(scope.endpoint.as_str());
            if !scope.group.is_empty() {
                label.push('/');
                label.push_str(self.group(&scope.group));
            }
            if scope.fast {
                label.push_str("/fast");
            }
        }
        self.bounded(label)
    }

    /// Returns a group of models, or the model of a circuit, if the catalog lists it.
    fn group<'a>(&'a self, group: &'a str) -> &'a str {
        if self.groups.contains(group) {
            return group;
        }
        self.catalog.get(group).map_or(OTHER, |model| &model.id)
    }

    /// Returns the label of requests whose scope is not known.
    fn unknown_scope(&self, endpoint: Endpoint, model: Option<&str>) -> Arc<str> {
        let mut label = endpoint.as_str().to_owned();
        if let Some(model) = model {
            let group = self.catalog.get(model).map(|model| &*model.rate_group);
            label.push('/');
            label.push_str(group.unwrap_or(OTHER));
        }
        self.bounded(label)
    }

    fn bounded(&self, label: String) -> Arc<str> {
        let label = match &self.name {
            Some(name) => format!("{name}/{label}"),
            None => label,
        };
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = scopes.get(label.as_str()) {
            return known.clone();
        }
        if scopes.len() >= MAX_SCOPES {
            return Arc::from(OTHER);
        }
        let label: Arc<str> = Arc::from(label);
        scopes.insert(label.clone());
        label
    }
}

/// A table that is read far more often than written.
pub(crate) struct Table<K, V>(RwLock<HashMap<K, Arc<V>>>);

impl<K: Eq + Hash, V> Table<K, V> {
    pub(crate) fn new() -> Self {
        Self(RwLock::default())
    }

    fn get(&self, key: &K) -> Option<Arc<V>> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table.get(key).cloned()
    }

    pub(crate) fn get_or_insert(&self, key: K, create: impl FnOnce() -> V) -> Arc<V> {
        if let Some(found) = self.get(&key) {
            return found;
        }
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        table
            .entry(key)
            .or_insert_with(|| Arc::new(create()))
            .clone()
    }

    /// Returns all entries.
    pub(crate) fn all(&self) -> Vec<(K, Arc<V>)>
    where
        K: Clone,
    {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let all = table.iter();
        all.map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

/// A table with one value for each label of a scope.
pub(crate) struct ScopeTable<V> {
    by_label: Table<Arc<str>, V>,
    /// The same values by the scope, of the first [`MAX_CACHED`] scopes.
    cached: RwLock<HashMap<Scope, Arc<V>>>,
}

impl<V> ScopeTable<V> {
    pub(crate) fn new() -> Self {
        Self {
            by_label: Table::new(),
            cached: RwLock::default(),
        }
    }

    fn of_label(&self, label: Arc<str>, create: impl FnOnce(Arc<str>) -> V) -> Arc<V> {
        self.by_label.get_or_insert(label.clone(), || create(label))
    }

    pub(crate) fn of_scope(
        &self,
        labels: &Labels,
        scope: &Scope,
        create: impl FnOnce(Arc<str>) -> V,
    ) -> Arc<V> {
        let found = self.cached.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = get_by_scope(&found, scope) {
            return found.clone();
        }
        let is_full = found.len() >= MAX_CACHED;
        drop(found);
        let value = self.of_label(labels.scope(scope), create);
        if !is_full {
            let mut cached = self.cached.write().unwrap_or_else(PoisonError::into_inner);
            cached.insert(scope.clone(), value.clone());
        }
        value
    }

    /// Returns the value of the scope of an attempt, or else of its endpoint and model.
    pub(crate) fn of_attempt(
        &self,
        labels: &Labels,
        end: &AttemptEnd<'_>,
        create: impl FnOnce(Arc<str>) -> V,
    ) -> Arc<V> {
        match end.scope {
            Some(scope) => self.of_scope(labels, scope, create),
            None => self.of_label(labels.unknown_scope(end.endpoint, end.model), create),
        }
    }

    /// Returns all values by their label.
    pub(crate) fn all(&self) -> Vec<(Arc<str>, Arc<V>)> {
        self.by_label.all()
    }
}
