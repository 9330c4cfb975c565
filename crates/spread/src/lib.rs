//! A layer that spreads requests over several clouds, regions and accounts.
#![forbid(unsafe_code)]
