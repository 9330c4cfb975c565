//! Options of a run.

use std::path::PathBuf;

/// Selection of rows and seeds. [`Default`] is the whole table.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The first seed. Default 1.
    pub seed: u64,
    /// Number of seeds, at least one. Default 4.
    pub seeds: u64,
    /// Runs a sixth of the length with at most two seeds, with noisier figures. Default false.
    pub quick: bool,
    /// Id of the rows to run (`R2`). Default all.
    pub only: Option<String>,
    /// Leaves out the strategies without goals, except for the oracle. Default false.
    pub ours: bool,
    /// Trace to replay in its own row (CSV: `TIMESTAMP,ContextTokens,GeneratedTokens`).
    pub trace: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            seeds: 4,
            quick: false,
            only: None,
            ours: false,
            trace: None,
        }
    }
}

impl Options {
    pub(crate) fn seeds(&self) -> impl Iterator<Item = u64> {
        let most = if self.quick { 2 } else { u64::MAX };
        let first = self.seed;
        (0..self.seeds.clamp(1, most)).map(move |index| first.wrapping_add(index))
    }

    pub(crate) fn wants(&self, id: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| only.eq_ignore_ascii_case(id))
    }
}
