//! Traces without the feature `otlp`: none.

use tower_claude_gateway::{Config, Gateway, StartError};
use tracing_subscriber::layer::Identity;

use crate::CommandError;

/// No traces.
pub(crate) struct Traces;

impl Traces {
    /// Starts nothing.
    #[expect(clippy::unnecessary_wraps, reason = "as with the feature")]
    pub(crate) fn start() -> Result<Self, CommandError> {
        Ok(Self)
    }

    /// Returns a layer that does nothing.
    #[expect(clippy::unused_self, reason = "as with the feature")]
    pub(crate) fn layer(&self) -> Identity {
        Identity::new()
    }

    /// Opens the addresses of a gateway.
    pub(crate) async fn bind(&self, config: Config) -> Result<Gateway, StartError> {
        Gateway::bind(config).await
    }

    /// Ends nothing.
    pub(crate) async fn end(self) {}
}
