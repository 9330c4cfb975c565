//! A picture (to come).

/// A picture.
#[must_use]
pub fn picture(_seed: u64) -> String {
    String::new()
}
