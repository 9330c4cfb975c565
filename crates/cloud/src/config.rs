//! The targets of a layer, with their credentials.

use std::sync::Arc;

use http::Extensions;
use tower_claude_core::event::EventSink;
use tower_claude_wire::{
    Platform,
    cloud::{Target, Unportable},
};

use crate::{authorize::Authorize, translate::Translator};

/// The settings of a layer, which all of its services share.
#[derive(Clone, Default)]
pub(crate) struct Config {
    pub(crate) translator: Translator,
    pub(crate) targets: Vec<ConfiguredTarget>,
    /// The target of requests that name none.
    pub(crate) default: Option<ConfiguredTarget>,
    pub(crate) observers: EventSink,
}

/// A target and the source of its credentials.
#[derive(Clone)]
pub(crate) struct ConfiguredTarget {
    pub(crate) target: Target,
    pub(crate) authorize: Option<Arc<dyn Authorize>>,
}

const NOT_SET_UP: Unportable = Unportable::new("target", "not set up in this layer");
const OTHER_HOST: Unportable = Unportable::new(
    "target",
    "it has another host than the target of this name in this layer",
);

impl Config {
    /// Adds a target, in place of one with the same name.
    pub(crate) fn add(&mut self, configured: ConfiguredTarget) {
        self.targets
            .retain(|known| known.target != configured.target);
        self.targets.push(configured);
    }

    /// Returns the target of a request, or `None` if it has none and passes through.
    ///
    /// A credential belongs to the host of its target. Another host never gets it.
    pub(crate) fn target_of(
        &self,
        extensions: &Extensions,
    ) -> Result<Option<ConfiguredTarget>, Unportable> {
        let Some(target) = extensions.get::<Target>() else {
            return Ok(self.default.clone());
        };
        self.configured(target).map(Some)
    }

    /// Checks that a target is set up.
    pub(crate) fn check(&self, target: &Target) -> Result<(), Unportable> {
        self.configured(target).map(|_| ())
    }

    fn configured(&self, target: &Target) -> Result<ConfiguredTarget, Unportable> {
        let known = self.targets.iter().find(|known| known.target == *target);
        let authorize = match known {
            Some(known)
                if known.target.authority() != target.authority()
                    || known.target.scheme() != target.scheme() =>
            {
                return Err(OTHER_HOST);
            }
            Some(known) => known.authorize.clone(),
            // The caller's own credential is one for it.
            None if target.platform() == Platform::ClaudeApi => None,
            None => return Err(NOT_SET_UP),
        };
        let target = target.clone();
        Ok(ConfiguredTarget { target, authorize })
    }
}
