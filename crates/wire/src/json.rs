//! Top-level scan of a JSON object.
