//! Label values, whose number is bounded whatever callers and servers send.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use ::metrics::SharedString;
use tower_claude_wire::ModelCatalog;

use crate::{endpoint::Endpoint, scope::Scope};

/// The label of a model or group that the catalog does not list, and of whatever is over a bound.
pub(super) const OTHER: &str = "other";

/// The most label values of scopes.
const MAX_SCOPES: usize = 128;

/// The settings of an observer, and the scopes seen.
#[derive(Debug)]
pub(super) struct Labels {
    pub(super) catalog: Cow<'static, ModelCatalog>,
    /// Names of credentials by their hash.
    pub(super) credentials: HashMap<u64, Box<str>>,
    /// The rate groups of the catalog.
    groups: HashSet<Arc<str>>,
    scopes: Mutex<HashSet<Arc<str>>>,
}

impl Labels {
    pub(super) fn new(catalog: Cow<'static, ModelCatalog>) -> Self {
        let groups = catalog.models();
        let groups = groups.map(|model| model.rate_group.clone()).collect();
        Self {
            catalog,
            credentials: HashMap::new(),
            groups,
            scopes: Mutex::default(),
        }
    }

    /// Returns the catalog's name of a model, or [`OTHER`].
    pub(super) fn model(&self, model: Option<&str>) -> SharedString {
        match model.and_then(|model| self.catalog.get(model)) {
            Some(model) => SharedString::from_shared(model.id.clone()),
            None => SharedString::const_str(OTHER),
        }
    }

    /// Returns the label of a scope: the name of its credential if it has one, the endpoint, and
    /// the group of models if the catalog lists it.
    pub(super) fn scope(&self, scope: &Scope) -> Arc<str> {
        let name = self.credentials.get(&scope.credential);
        let mut label = name.map_or_else(String::new, |name| format!("{name}/"));
        if scope.endpoint == Endpoint::Other {
            // Such scopes are named by the program.
            label.push_str(&format!("{scope:#}"));
        } else {
            label.push_str(scope.endpoint.as_str());
            if !scope.group.is_empty() {
                let is_listed = self.groups.contains(&scope.group);
                label.push('/');
                label.push_str(if is_listed { &scope.group } else { OTHER });
            }
            if scope.fast {
                label.push_str("/fast");
            }
        }
        self.bounded(label)
    }

    /// Returns the label of requests whose scope is not known.
    pub(super) fn unknown_scope(&self, endpoint: Endpoint, model: Option<&str>) -> Arc<str> {
        let mut label = endpoint.as_str().to_owned();
        if let Some(model) = model {
            let group = self.catalog.get(model).map(|model| &*model.rate_group);
            label.push('/');
            label.push_str(group.unwrap_or(OTHER));
        }
        self.bounded(label)
    }

    fn bounded(&self, label: String) -> Arc<str> {
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
