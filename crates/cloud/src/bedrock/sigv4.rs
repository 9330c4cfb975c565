//! Authorization by signatures of AWS.

use std::{fmt, time::SystemTime};

use bytes::Bytes;
use http::request::Parts;
use tower_claude_core::BoxError;
use tower_claude_wire::cloud::Target;

use super::{
    credentials::Credentials,
    sign::{Scope, sign},
};
use crate::{
    authorize::{Authorization, Authorize, AuthorizeError},
    refresh::{Issued, Lookup, Refreshing},
};

/// A signer of requests for one service of AWS in one region.
///
/// The credentials come from a source. The crate `aws-config` finds those of profiles, SSO, web
/// identities and metadata servers:
///
/// ```
/// use aws_config::BehaviorVersion;
/// use aws_credential_types::provider::ProvideCredentials;
/// use tower_claude_cloud::bedrock::{Credentials, SigV4};
///
/// # mod aws_config {
/// #     // This crate does not depend on `aws-config`, which has 142 dependencies.
/// #     use aws_credential_types::provider::SharedCredentialsProvider;
/// #     pub(crate) struct BehaviorVersion;
/// #     impl BehaviorVersion {
/// #         pub(crate) fn latest() -> Self { Self }
/// #     }
/// #     pub(crate) struct SdkConfig;
/// #     impl SdkConfig {
/// #         pub(crate) fn credentials_provider(&self) -> Option<SharedCredentialsProvider> { None }
/// #     }
/// #     pub(crate) async fn load_defaults(_: BehaviorVersion) -> SdkConfig { SdkConfig }
/// # }
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
/// let provider = config.credentials_provider().ok_or("no AWS credentials")?;
/// let source = move || {
///     let provider = provider.clone();
///     async move {
///         let found = provider.provide_credentials().await?;
///         Ok(Credentials::new(found.access_key_id(), found.secret_access_key())
///             .with_session_token(found.session_token().map(str::to_owned))
///             .with_expiry(found.expiry()))
///     }
/// };
/// let signer = SigV4::new(source, "bedrock", "us-west-2");
/// # drop(signer);
/// # Ok(())
/// # }
/// ```
///
/// Keys that never change need no source:
///
/// ```
/// use tower_claude_cloud::{
///     CloudLayer,
///     bedrock::{Credentials, SigV4},
/// };
/// use tower_claude_wire::cloud::{Profile, Target};
///
/// let target = Target::bedrock("us-west-2")?.with_profile(Profile::Us)?;
/// let signer = SigV4::fixed(Credentials::new("AKIDEXAMPLE", "secret"), "bedrock", "us-west-2");
/// let layer = CloudLayer::new().with_default_target(target, signer);
/// # drop(layer);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct SigV4 {
    source: Source,
    scope: Scope,
}

#[derive(Clone)]
enum Source {
    Fixed(Credentials),
    Refreshing(Refreshing<Credentials>),
}

impl SigV4 {
    /// Creates a signer with credentials from a source.
    ///
    /// The source is called when the first request needs credentials, and again five minutes before
    /// they expire, or half of their life before if that is later. Requests are signed with the old
    /// credentials meanwhile. Of many requests without credentials, one calls the source and all
    /// wait, for at most 30 seconds. After a failure the source rests for one second.
    ///
    /// The source runs in a task of the Tokio runtime, so a caller that gives up does not end it.
    /// [`aws_service`] returns the name of the service at a host.
    pub fn new<S, F>(source: S, service: &str, region: &str) -> Self
    where
        S: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<Credentials, BoxError>> + Send + 'static,
    {
        let source = move || {
            let credentials = source();
            async move {
                let credentials = credentials.await?;
                Ok(match credentials.expires_at() {
                    Some(at) => Issued::until(credentials, at),
                    None => Issued::forever(credentials),
                })
            }
        };
        Self {
            source: Source::Refreshing(Refreshing::new(source)),
            scope: Scope::new(service, region),
        }
    }

    /// Creates a signer with credentials that never change.
    #[must_use]
    pub fn fixed(credentials: Credentials, service: &str, region: &str) -> Self {
        Self {
            source: Source::Fixed(credentials),
            scope: Scope::new(service, region),
        }
    }

    /// Sets the service and the region to those of a target on Bedrock. Other targets change
    /// nothing.
    #[must_use]
    pub fn for_target(mut self, target: &Target) -> Self {
        let service = aws_service(target.host()).or_else(|| target.aws_service());
        if let Some(service) = service {
            self.scope = Scope::new(service, target.location());
        }
        self
    }
}

impl Authorize for SigV4 {
    fn authorize(&self, head: &mut Parts, body: &Bytes, now: SystemTime) -> Authorization {
        let (credentials, number) = match &self.source {
            Source::Fixed(credentials) => (credentials.clone(), 0),
            Source::Refreshing(source) => match source.current() {
                Lookup::Found(credentials, number) => (Credentials::clone(&credentials), number),
                Lookup::Wait(wait) => return Authorization::Wait(wait),
                Lookup::Failed(error) => return Authorization::Failed(error),
            },
        };
        match sign(head, body, &credentials, &self.scope, now) {
            Ok(()) => Authorization::Done(number),
            Err(error) => Authorization::Failed(AuthorizeError::new(error)),
        }
    }

    fn reject(&self, number: u64) -> bool {
        match &self.source {
            Source::Fixed(_) => false,
            Source::Refreshing(source) => source.reject(number),
        }
    }
}

impl fmt::Debug for SigV4 {
    /// Leaves the credentials out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigV4")
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

/// Returns the name that a service of AWS has in signatures, by its host, which may be one of FIPS,
/// of China or of a VPC endpoint. `None` for any other host.
///
/// ```
/// use tower_claude_cloud::bedrock::aws_service;
///
/// let at = aws_service;
/// assert_eq!(at("bedrock-runtime.us-east-1.amazonaws.com"), Some("bedrock"));
/// assert_eq!(at("bedrock-mantle.eu-west-1.api.aws"), Some("bedrock-mantle"));
/// assert_eq!(at("aws-external-anthropic.us-east-1.api.aws"), Some("aws-external-anthropic"));
/// assert_eq!(at("bedrock-runtime.us-east-1.amazonaws.com.example.org"), None);
/// ```
#[must_use]
pub fn aws_service(host: &str) -> Option<&'static str> {
    const DOMAINS: [&str; 3] = [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"];
    let host = host.to_ascii_lowercase();
    let labels = DOMAINS
        .iter()
        .find_map(|domain| host.strip_suffix(domain))?;
    // A VPC endpoint has labels of its own around this one.
    labels.split('.').find_map(|label| {
        let name = label.strip_suffix("-fips").unwrap_or(label);
        Some(match name {
            "bedrock-runtime" => "bedrock",
            "bedrock-mantle" => "bedrock-mantle",
            "aws-external-anthropic" => "aws-external-anthropic",
            _ => return None,
        })
    })
}
