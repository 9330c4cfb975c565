//! Rules about crates and modules that the compiler does not check.
//!
//! `dependencies` holds the table of crates, `imports` finds circular imports between the modules
//! of a crate, and `signatures` finds foreign crates in public signatures. Each has a test on small
//! inputs that shows that it can fail.

mod dependencies;
mod doc_examples;
mod imports;
mod reading;
mod signatures;
mod source;
