//! Rules that decide which responses are shared, and which are stored.

pub(crate) mod head;
pub(crate) mod rules;
