//! The priority of a request.

/// The priority of a request. Insert it into the request's extensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Priority {
    /// Background work that no person waits for.
    Batch,
    /// Any other work. The default.
    #[default]
    Normal,
    /// Work that a person waits for.
    Interactive,
}

impl Priority {
    /// Returns the name in one word, for labels of metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Normal => "normal",
            Self::Interactive => "interactive",
        }
    }
}
