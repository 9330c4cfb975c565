//! The services of AWS that serve Claude models.

use std::fmt;

/// A service of AWS that serves Claude models. Its name is a part of each signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AwsService {
    /// Bedrock at `bedrock-runtime.{region}.amazonaws.com`.
    Bedrock,
    /// Bedrock at `bedrock-mantle.{region}.api.aws`.
    BedrockMantle,
    /// The Claude Platform on AWS at `aws-external-anthropic.{region}.api.aws`.
    ExternalAnthropic,
}

impl AwsService {
    const ALL: [Self; 3] = [Self::Bedrock, Self::BedrockMantle, Self::ExternalAnthropic];

    /// Returns the name in the scope of a signature.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bedrock => "bedrock",
            Self::BedrockMantle => "bedrock-mantle",
            Self::ExternalAnthropic => "aws-external-anthropic",
        }
    }

    /// Returns the service at a host of AWS, which may be one of FIPS, of China or of a VPC
    /// endpoint. `None` for any other host.
    ///
    /// ```
    /// use tower_claude_cloud::bedrock::AwsService;
    ///
    /// let at = AwsService::of_host;
    /// assert_eq!(at("bedrock-runtime.us-east-1.amazonaws.com"), Some(AwsService::Bedrock));
    /// assert_eq!(at("bedrock-mantle.eu-west-1.api.aws"), Some(AwsService::BedrockMantle));
    /// assert_eq!(at("bedrock-runtime.us-east-1.amazonaws.com.example.org"), None);
    /// ```
    #[must_use]
    pub fn of_host(host: &str) -> Option<Self> {
        const DOMAINS: [&str; 3] = ["amazonaws.com", "amazonaws.com.cn", "api.aws"];
        let host = host.to_ascii_lowercase();
        let host = host.trim_end_matches('.');
        let labels = DOMAINS
            .iter()
            .find_map(|domain| host.strip_suffix(domain)?.strip_suffix('.'))?;
        Self::ALL.into_iter().find(|service| {
            let name = match service {
                Self::Bedrock => "bedrock-runtime",
                other => other.as_str(),
            };
            // A VPC endpoint has labels of its own before and after this one.
            labels.split('.').any(|label| {
                let rest = label.strip_prefix(name);
                matches!(rest, Some("" | "-fips"))
            })
        })
    }
}

impl fmt::Display for AwsService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
