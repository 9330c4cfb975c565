//! Selection and keys of requests.

pub(crate) mod canonical;
pub(crate) mod key;
pub(crate) mod policy;
