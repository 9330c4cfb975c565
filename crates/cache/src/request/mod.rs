//! Which requests are cached, and which of them are the same.

pub(crate) mod canonical;
pub(crate) mod key;
pub(crate) mod policy;
