//! An error type that no layer knows.

use std::fmt;

/// The error of the scripted services and bodies: a type that no layer knows, with a name to tell
/// one from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Broken {}
