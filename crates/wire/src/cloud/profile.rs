//! Inference profiles of Amazon Bedrock.

use std::fmt;

/// An inference profile of Amazon Bedrock: the group of regions that may process a request.
///
/// Newer models are served under a profile only, and reject their bare id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Profile {
    /// The United States.
    Us,
    /// The European Union.
    Eu,
    /// Japan.
    Jp,
    /// Australia.
    Au,
    /// Asia and the Pacific.
    Apac,
    /// The regions of AWS for the government of the United States.
    UsGov,
    /// All commercial regions.
    Global,
}

impl Profile {
    /// All profiles.
    pub const ALL: [Self; 7] = [
        Self::Us,
        Self::Eu,
        Self::Jp,
        Self::Au,
        Self::Apac,
        Self::UsGov,
        Self::Global,
    ];

    /// Returns the name before the first dot of a model id, e.g. `us`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Us => "us",
            Self::Eu => "eu",
            Self::Jp => "jp",
            Self::Au => "au",
            Self::Apac => "apac",
            Self::UsGov => "us-gov",
            Self::Global => "global",
        }
    }

    /// Parses the name of a profile.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.as_str() == word)
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
