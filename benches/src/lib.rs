//! Per-call overhead of the layers beside floors and peers.
