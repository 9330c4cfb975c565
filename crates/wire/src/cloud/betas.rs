//! Betas by platform.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::data::{DATA, Taker};
use super::target::{Dialect, Target};
use crate::models::Platform;

/// The fate of a beta on a target.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BetaSupport<'a> {
    /// The target accepts it.
    Accepted,
    /// The target accepts the same feature under this name.
    Renamed(Cow<'a, str>),
    /// The target rejects the name, but has the feature without it.
    Unneeded,
    /// The target rejects the name, or it is not known.
    Rejected,
}

/// The `anthropic-beta` values that each cloud accepts.
///
/// A cloud rejects a request with a beta that it does not know, so only known ones are sent. The
/// Claude API gets all of them.
///
/// ```
/// use tower_claude_wire::cloud::{BetaSupport, Betas, Target};
///
/// let target = Target::bedrock("us-east-1")?;
/// let beta = "interleaved-thinking-2025-05-14";
/// assert_eq!(Betas::builtin().support(beta, &target), BetaSupport::Rejected);
/// let betas = Betas::builtin().clone().with_accepted(beta, &target);
/// assert_eq!(betas.support(beta, &target), BetaSupport::Accepted);
/// # Ok::<(), tower_claude_wire::cloud::InvalidTarget>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Betas {
    /// Betas that are accepted beside the built-in ones.
    added: BTreeSet<(Box<str>, Kind)>,
    /// Built-in betas that are not accepted.
    removed: BTreeSet<(Box<str>, Kind)>,
}

/// A platform and its dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    ClaudeApi,
    BedrockMessages,
    InvokeModel,
    Vertex,
}

impl Kind {
    fn of(target: &Target) -> Self {
        match (target.dialect(), target.platform()) {
            (Dialect::InvokeModel, _) => Self::InvokeModel,
            (Dialect::RawPredict, _) => Self::Vertex,
            (Dialect::Messages, Platform::Bedrock) => Self::BedrockMessages,
            (Dialect::Messages, _) => Self::ClaudeApi,
        }
    }

    fn taker(self) -> Option<Taker> {
        match self {
            Self::ClaudeApi => None,
            Self::BedrockMessages => Some(Taker::BedrockMessages),
            Self::InvokeModel => Some(Taker::InvokeModel),
            Self::Vertex => Some(Taker::Vertex),
        }
    }
}

impl Betas {
    /// Returns the built-in table.
    #[must_use]
    pub fn builtin() -> &'static Self {
        static BUILTIN: Betas = Betas {
            added: BTreeSet::new(),
            removed: BTreeSet::new(),
        };
        &BUILTIN
    }

    /// Returns the date of the built-in table, e.g. `2026-11-29`.
    #[must_use]
    pub fn as_of() -> &'static str {
        &DATA.as_of
    }

    /// Accepts a beta on all targets of the same platform and dialect.
    #[must_use]
    pub fn with_accepted(mut self, beta: &str, like: &Target) -> Self {
        let key = (Box::from(beta), Kind::of(like));
        self.removed.remove(&key);
        self.added.insert(key);
        self
    }

    /// Rejects a beta on all targets of the same platform and dialect.
    #[must_use]
    pub fn with_rejected(mut self, beta: &str, like: &Target) -> Self {
        let key = (Box::from(beta), Kind::of(like));
        self.added.remove(&key);
        self.removed.insert(key);
        self
    }

    /// Returns the fate of a beta on a target.
    #[must_use]
    pub fn support(&self, beta: &str, target: &Target) -> BetaSupport<'static> {
        let kind = Kind::of(target);
        if self.accepts(beta, kind) {
            return BetaSupport::Accepted;
        }
        if let Some(name) = DATA.renamed_betas.get(beta)
            && self.accepts(name, kind)
        {
            return BetaSupport::Renamed(Cow::Borrowed(name));
        }
        if DATA.unneeded_betas.iter().any(|name| **name == *beta) {
            return BetaSupport::Unneeded;
        }
        BetaSupport::Rejected
    }

    fn accepts(&self, beta: &str, kind: Kind) -> bool {
        let key = (Box::from(beta), kind);
        if self.removed.contains(&key) {
            return false;
        }
        let Some(taker) = kind.taker() else {
            return true;
        };
        let listed = DATA.betas.get(beta);
        listed.is_some_and(|takers| takers.contains(&taker)) || self.added.contains(&key)
    }
}
