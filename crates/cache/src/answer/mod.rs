//! Which answers are shared, and which of them are stored.

pub(crate) mod head;
pub(crate) mod rules;
