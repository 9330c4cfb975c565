//! The names by the GenAI conventions.

/// The names of the metrics by the GenAI conventions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GenAiNames {
    /// Those of version 0.1.0, such as `gen_ai.client.inference.duration`. The default.
    #[default]
    New,
    /// `gen_ai.client.operation.duration` and `gen_ai.client.token.usage`, which most dashboards
    /// of today read.
    Old,
    /// Both.
    Both,
}
