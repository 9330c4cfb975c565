//! The counted dimensions of a pool, and amounts by dimension.

use tower_claude_core::Dimension;

/// The counted dimensions, in the order of their indices.
pub(crate) const DIMENSIONS: [Dimension; 4] = [
    Dimension::Requests,
    Dimension::InputTokens,
    Dimension::OutputTokens,
    Dimension::TotalTokens,
];

pub(crate) const REQUESTS: usize = 0;
pub(crate) const INPUT: usize = 1;
pub(crate) const OUTPUT: usize = 2;
pub(crate) const TOTAL: usize = 3;

/// Amounts by dimension.
pub(crate) type Charge = [u64; DIMENSIONS.len()];

/// The charge of nothing.
pub(crate) const NO_CHARGE: Charge = [0; DIMENSIONS.len()];

/// Units held back by dimension, because the server's level is not known exactly.
pub(crate) type Margins = [i128; DIMENSIONS.len()];
