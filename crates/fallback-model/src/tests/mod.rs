//! The pure parts, one file each.
