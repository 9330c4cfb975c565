//! The contract suite that every layer runs, and tests of the whole stack.
