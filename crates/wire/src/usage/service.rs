//! Speed and service tier of a request.

/// The speed at which a request ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Speed {
    /// The usual one.
    Standard,
    /// Fast mode.
    Fast,
    /// A speed that this version does not know.
    Other,
}

impl Speed {
    pub(super) fn read(value: &[u8]) -> Option<Self> {
        match value {
            b"\"standard\"" => Some(Self::Standard),
            b"\"fast\"" => Some(Self::Fast),
            [b'"', ..] => Some(Self::Other),
            _ => None,
        }
    }
}

/// The service tier that served a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServiceTier {
    /// The usual one.
    Standard,
    /// Priority Tier, with a contract.
    Priority,
    /// A batch.
    Batch,
    /// A tier that this version does not know.
    Other,
}

impl ServiceTier {
    pub(super) fn read(value: &[u8]) -> Option<Self> {
        match value {
            b"\"standard\"" => Some(Self::Standard),
            b"\"priority\"" => Some(Self::Priority),
            b"\"batch\"" => Some(Self::Batch),
            [b'"', ..] => Some(Self::Other),
            _ => None,
        }
    }
}
