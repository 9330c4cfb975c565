//! A Claude API that enforces its limits and fails on script, in process or on a port, to test against.
