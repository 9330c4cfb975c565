//! Cloud platforms: the configuration of one, and the parts of their dialects.

pub(crate) mod answer;
mod betas;
pub(crate) mod credential;
mod features;
pub(crate) mod frame;
pub(crate) mod ids;
pub(crate) mod request;
pub(crate) mod route;
pub(crate) mod router;
mod sigv4;

use crate::cloud::credential::FakeCredential;
use crate::model::GroupLimits;

/// A region or location of a cloud platform that serves Claude models, for
/// [`FakeClaudeBuilder::cloud`](crate::FakeClaudeBuilder::cloud).
///
/// A server with it has the platform's endpoints, credentials, errors and limits in place of those
/// of the Claude API, and a prompt cache of its own. One server stands for one account in one
/// region, so that a test makes one region fail and another throttle by two servers, each with its
/// own faults and log. [`FakeHosts`](crate::FakeHosts) puts them behind their host names.
///
/// ```
/// use std::time::Duration;
/// use tower_claude_fake_claude::{FakeClaude, FakeCloud, FakeCredential, Fault};
///
/// let east = FakeClaude::builder()
///     .cloud(FakeCloud::bedrock("us-east-1").access_key("AKID", "secret"))
///     .build();
/// let west = FakeClaude::builder()
///     .cloud(FakeCloud::bedrock("us-west-2").credential(
///         FakeCredential::bearer("token-1").valid_for(Duration::from_secs(3_600)),
///     ))
///     .build();
/// let vertex = FakeClaude::builder()
///     .cloud(FakeCloud::vertex("my-project", "global").bearer("ya29.token"))
///     .build();
/// east.inject_times(Fault::Unavailable, 3);
/// # let _ = (west, vertex);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct FakeCloud {
    pub(crate) kind: CloudKind,
    /// The region of AWS, or the location of Google.
    pub(crate) location: String,
    pub(crate) account: String,
    pub(crate) credentials: Vec<FakeCredential>,
    /// ARNs, and the models of the Claude API that they stand for.
    pub(crate) arns: Vec<(String, String)>,
    /// Prefixes of betas that are accepted beside those of the platform.
    pub(crate) betas: Vec<String>,
    /// The prompt caches of the location.
    pub(crate) stores: u64,
}

/// A platform, and on AWS one of its two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloudKind {
    /// The host of Amazon Bedrock with the endpoints of the Claude API only.
    Mantle,
    /// The runtime host of Amazon Bedrock, with InvokeModel too.
    Bedrock,
    /// Claude on Google Cloud, managed by Google.
    Vertex,
}

/// The account of AWS without another setting.
const AWS_ACCOUNT: &str = "111122223333";
/// Stores of a location of Google. Their number is not known.
const VERTEX_STORES: u64 = 4;
/// The tokens of output that one token costs in a combined limit of Bedrock.
const BURNDOWN: u64 = 5;

impl FakeCloud {
    fn new(kind: CloudKind, location: String, account: String, stores: u64) -> Self {
        Self {
            kind,
            location,
            account,
            credentials: Vec::new(),
            arns: Vec::new(),
            betas: Vec::new(),
            stores,
        }
    }

    /// Creates a region of Amazon Bedrock on its host `bedrock-mantle`, which has the endpoints of
    /// the Claude API below `/anthropic`. The models are `anthropic.claude-…`.
    pub fn bedrock_messages(region: impl Into<String>) -> Self {
        Self::new(CloudKind::Mantle, region.into(), AWS_ACCOUNT.to_owned(), 1)
    }

    /// Creates a region of Amazon Bedrock on its host `bedrock-runtime`, which has InvokeModel
    /// (`/model/{id}/invoke`) with event streams, and the endpoints of the Claude API below
    /// `/anthropic`. Both take from the same limits and share the prompt cache.
    pub fn bedrock(region: impl Into<String>) -> Self {
        Self::new(CloudKind::Bedrock, region.into(), AWS_ACCOUNT.to_owned(), 1)
    }

    /// Creates a location of Claude on Google Cloud, managed by Google: `global`, `us`, `eu` or a
    /// region. The account is the project.
    pub fn vertex(project: impl Into<String>, location: impl Into<String>) -> Self {
        let stores = VERTEX_STORES;
        Self::new(CloudKind::Vertex, location.into(), project.into(), stores)
    }

    /// Sets the account that prompt caches and thinking belong to. Default: `111122223333` on AWS.
    /// On Google it is the project, and a request for another project is rejected.
    pub fn account(mut self, account: impl Into<String>) -> Self {
        self.account = account.into();
        self
    }

    /// Adds an accepted credential. Without any, every well-formed credential is accepted, and
    /// signatures are not verified.
    pub fn credential(mut self, credential: FakeCredential) -> Self {
        self.credentials.push(credential);
        self
    }

    /// Adds an accepted access key of AWS. Signatures made with it are verified.
    pub fn access_key(self, id: impl Into<String>, secret: impl Into<String>) -> Self {
        self.credential(FakeCredential::access_key(id, secret))
    }

    /// Adds an accepted bearer token.
    pub fn bearer(self, token: impl Into<String>) -> Self {
        self.credential(FakeCredential::bearer(token))
    }

    /// Adds the ARN of a model, which stands for this model of the Claude API. Without it only
    /// ARNs that contain a model id are known.
    pub fn arn(mut self, arn: impl Into<String>, model: impl Into<String>) -> Self {
        self.arns.push((arn.into(), model.into()));
        self
    }

    /// Accepts all betas that start with `prefix`, beside those that the platform is known to
    /// accept.
    pub fn allow_beta(mut self, prefix: impl Into<String>) -> Self {
        self.betas.push(prefix.into());
        self
    }

    /// Sets the number of prompt caches in the location, at least 1. The first KiB of the body
    /// decides which of them a request uses. Default: 4 on Google, 1 on AWS.
    pub fn cache_stores(mut self, stores: u64) -> Self {
        self.stores = stores.max(1);
        self
    }

    /// Returns the host of the platform's endpoints in this location.
    #[must_use]
    pub fn host(&self) -> String {
        let location = &self.location;
        match self.kind {
            CloudKind::Mantle => format!("bedrock-mantle.{location}.api.aws"),
            CloudKind::Bedrock => format!("bedrock-runtime.{location}.amazonaws.com"),
            CloudKind::Vertex => match location.as_str() {
                "global" => "aiplatform.googleapis.com".to_owned(),
                "us" | "eu" => format!("aiplatform.{location}.rep.googleapis.com"),
                _ => format!("{location}-aiplatform.googleapis.com"),
            },
        }
    }

    /// Returns the limits of a new account.
    pub(crate) fn default_limits(&self) -> GroupLimits {
        let unlimited = GroupLimits::unlimited();
        match self.kind {
            CloudKind::Mantle => unlimited
                .with_input_tokens_per_minute(10_000_000)
                .with_output_tokens_per_minute(2_000_000),
            CloudKind::Bedrock => unlimited
                .with_combined_tokens_per_minute(15_000_000)
                .with_output_weight(BURNDOWN)
                .with_held_max_tokens(true),
            CloudKind::Vertex => GroupLimits::new(),
        }
    }

    pub(crate) fn is_aws(&self) -> bool {
        self.kind != CloudKind::Vertex
    }
}
