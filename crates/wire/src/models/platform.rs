//! The platforms that serve Claude models.

/// A platform that serves Claude models. Some models have other features or dates on some of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Platform {
    /// Anthropic's own API, and any host that is not known.
    #[default]
    ClaudeApi,
    /// Claude Platform on AWS.
    AwsPlatform,
    /// Amazon Bedrock.
    Bedrock,
    /// Google Cloud, managed by Google.
    Vertex,
    /// Google Cloud, managed by Anthropic.
    GoogleAnthropic,
    /// Microsoft Foundry.
    Foundry,
}

impl Platform {
    /// Returns the platform of a request by its host, with or without a port, and its path. The
    /// path decides where a gateway hides the host.
    ///
    /// ```
    /// use tower_claude_wire::Platform;
    /// let host = "bedrock-mantle.us-east-1.api.aws";
    /// assert_eq!(Platform::of(host, "/anthropic/v1/messages"), Platform::Bedrock);
    /// assert_eq!(Platform::of("localhost:8080", "/v1/messages"), Platform::ClaudeApi);
    /// assert_eq!(Platform::of("gateway", "/model/m/invoke"), Platform::Bedrock);
    /// ```
    #[must_use]
    pub fn of(host: &str, path: &str) -> Self {
        let host = host.split(':').next().unwrap_or_default();
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let is_below = |domain: &str| {
            let sub = host.strip_suffix(domain);
            sub.is_some_and(|sub| sub.is_empty() || sub.ends_with(['.', '-']))
        };
        let is_amazon = is_below("api.aws") || host.contains(".amazonaws.com");
        let is_invoke = path.contains("/model/") && path.contains("/invoke");
        let is_google = is_below("aiplatform.googleapis.com") || is_below("rep.googleapis.com");
        if is_below("claude.googleapis.com") || path.contains("/invoke/v1/") {
            Self::GoogleAnthropic
        } else if is_google || path.contains("/publishers/anthropic/models/") {
            Self::Vertex
        } else if is_below("azure.com") {
            Self::Foundry
        } else if host.starts_with("aws-external-anthropic.") {
            Self::AwsPlatform
        } else if is_amazon && host.starts_with("bedrock-") || is_invoke {
            Self::Bedrock
        } else {
            Self::ClaudeApi
        }
    }

    /// Parses the name in a catalog, e.g. `bedrock`.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "claude_api" => Self::ClaudeApi,
            "aws_platform" => Self::AwsPlatform,
            "bedrock" => Self::Bedrock,
            "vertex" => Self::Vertex,
            "google_anthropic" => Self::GoogleAnthropic,
            "foundry" => Self::Foundry,
            _ => return None,
        })
    }
}
