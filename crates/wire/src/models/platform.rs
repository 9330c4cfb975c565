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
    /// Returns the platform of a host name, with or without a port.
    ///
    /// ```
    /// # use tower_claude_wire::Platform;
    /// let host = "bedrock-mantle.us-east-1.api.aws";
    /// assert_eq!(Platform::of_host(host), Platform::Bedrock);
    /// assert_eq!(Platform::of_host("localhost:8080"), Platform::ClaudeApi);
    /// ```
    #[must_use]
    pub fn of_host(host: &str) -> Self {
        let host = host.split(':').next().unwrap_or_default();
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let is_below = |domain: &str| {
            let sub = host.strip_suffix(domain);
            sub.is_some_and(|sub| sub.is_empty() || sub.ends_with(['.', '-']))
        };
        if is_below("claude.googleapis.com") {
            Self::GoogleAnthropic
        } else if is_below("aiplatform.googleapis.com") || is_below("rep.googleapis.com") {
            Self::Vertex
        } else if is_below("azure.com") {
            Self::Foundry
        } else if host.starts_with("aws-external-anthropic.") {
            Self::AwsPlatform
        } else if host.starts_with("bedrock-")
            && (is_below("api.aws") || host.contains(".amazonaws.com"))
        {
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
