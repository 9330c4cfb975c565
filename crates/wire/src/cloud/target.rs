//! Targets: addresses of Claude models on several clouds.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::uri::{Authority, Scheme};

use super::ids;
use super::loss::Unportable;
use super::profile::Profile;
use crate::models::{ModelCatalog, Platform};

/// The form in which a target takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// The Messages API, as on the Claude API.
    Messages,
    /// `InvokeModel` of Amazon Bedrock: the model is in the path, streams are AWS event streams.
    InvokeModel,
    /// `rawPredict` of Google Vertex AI: the model is in the path.
    RawPredict,
}

/// The reason why a name cannot be part of a [`Target`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct InvalidTarget {
    /// The part, e.g. `location`.
    pub part: &'static str,
    /// The rule that the value breaks.
    pub why: &'static str,
}

impl fmt::Display for InvalidTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of a target: {}", self.part, self.why)
    }
}

impl std::error::Error for InvalidTarget {}

/// A place that serves Claude models. A clone shares all text.
///
/// ```
/// use tower_claude_wire::{ModelCatalog, cloud::{Profile, Target}};
///
/// let target = Target::bedrock("us-west-2")?.with_profile(Profile::Us)?;
/// assert_eq!(target.name(), "bedrock/us-west-2/us");
/// assert_eq!(target.host(), "bedrock-runtime.us-west-2.amazonaws.com");
/// let id = target.model_id("claude-opus-5-5", ModelCatalog::builtin()).unwrap();
/// assert_eq!(id, "us.anthropic.claude-opus-5-5");
/// assert_eq!(target.claude_id(&id), "claude-opus-5-5");
/// # Ok::<(), tower_claude_wire::cloud::InvalidTarget>(())
/// ```
#[derive(Clone)]
pub struct Target(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    platform: Platform,
    dialect: Dialect,
    location: Box<str>,
    project: Option<Box<str>>,
    profile: Option<Profile>,
    scheme: Scheme,
    authority: Authority,
    name: Box<str>,
    account: Box<str>,
    has_own_name: bool,
    /// Pairs of a Claude id and the target's id.
    models: Vec<(Box<str>, Box<str>)>,
}

impl Target {
    /// The Claude API itself.
    #[must_use]
    pub fn claude_api() -> Self {
        Self::new(Inner {
            platform: Platform::ClaudeApi,
            dialect: Dialect::Messages,
            location: "global".into(),
            project: None,
            profile: None,
            scheme: Scheme::HTTPS,
            authority: Authority::from_static("api.anthropic.com"),
            name: Box::default(),
            account: "anthropic".into(),
            has_own_name: false,
            models: Vec::new(),
        })
    }

    /// Creates a target for the Messages API of Amazon Bedrock in a region, e.g. `us-east-1`.
    ///
    /// Its host is `bedrock-mantle.{region}.api.aws`. The host
    /// `bedrock-runtime.{region}.amazonaws.com` serves the same API, see
    /// [`with_host`](Self::with_host).
    ///
    /// # Errors
    /// If the region cannot be part of a host name.
    pub fn bedrock_messages(region: &str) -> Result<Self, InvalidTarget> {
        check_label("location", region)?;
        let host = format!("bedrock-mantle.{region}.api.aws");
        Self::aws(Dialect::Messages, region, &host)
    }

    /// Creates a target for `InvokeModel` of Amazon Bedrock in a region, e.g. `us-east-1`.
    ///
    /// Most models need a [profile](Self::with_profile) as well.
    ///
    /// # Errors
    /// If the region cannot be part of a host name.
    pub fn bedrock(region: &str) -> Result<Self, InvalidTarget> {
        check_label("location", region)?;
        let host = format!("bedrock-runtime.{region}.amazonaws.com");
        Self::aws(Dialect::InvokeModel, region, &host)
    }

    fn aws(dialect: Dialect, region: &str, host: &str) -> Result<Self, InvalidTarget> {
        Ok(Self::new(Inner {
            platform: Platform::Bedrock,
            dialect,
            location: region.into(),
            project: None,
            profile: None,
            scheme: Scheme::HTTPS,
            authority: authority(host)?,
            name: Box::default(),
            account: "aws".into(),
            has_own_name: false,
            models: Vec::new(),
        }))
    }

    /// Creates a target for Claude on Google Vertex AI.
    ///
    /// The location is a region (`us-east5`), a multi-region (`us`, `eu`) or `global`.
    ///
    /// # Errors
    /// If the location cannot be part of a host name, or the project of a path.
    pub fn vertex(project: &str, location: &str) -> Result<Self, InvalidTarget> {
        check_label("location", location)?;
        check_segment("project", project)?;
        let host = match location {
            "global" => "aiplatform.googleapis.com".to_owned(),
            "us" | "eu" => format!("aiplatform.{location}.rep.googleapis.com"),
            region => format!("{region}-aiplatform.googleapis.com"),
        };
        Ok(Self::new(Inner {
            platform: Platform::Vertex,
            dialect: Dialect::RawPredict,
            location: location.into(),
            project: Some(project.into()),
            profile: None,
            scheme: Scheme::HTTPS,
            authority: authority(&host)?,
            name: Box::default(),
            account: format!("google/{project}").into(),
            has_own_name: false,
            models: Vec::new(),
        }))
    }

    fn new(mut inner: Inner) -> Self {
        if !inner.has_own_name {
            let place = match (inner.dialect, inner.platform) {
                (Dialect::InvokeModel, _) => "bedrock",
                (Dialect::RawPredict, _) => "vertex",
                (Dialect::Messages, Platform::Bedrock) => "bedrock-messages",
                (Dialect::Messages, _) => "claude-api",
            };
            inner.name = match (&*inner.location, inner.profile) {
                (_, _) if inner.platform == Platform::ClaudeApi => place.into(),
                (location, None) => format!("{place}/{location}").into(),
                (location, Some(profile)) => format!("{place}/{location}/{profile}").into(),
            };
        }
        Self(Arc::new(inner))
    }

    fn edit(&self, edit: impl FnOnce(&mut Inner)) -> Self {
        let mut inner = Inner::clone(&self.0);
        edit(&mut inner);
        Self::new(inner)
    }

    /// Sets the inference profile of an `InvokeModel` target.
    ///
    /// # Errors
    /// If the target is none of `InvokeModel`. The Messages API of Bedrock does not know ids with
    /// a profile.
    pub fn with_profile(self, profile: Profile) -> Result<Self, InvalidTarget> {
        if self.0.dialect != Dialect::InvokeModel {
            return Err(InvalidTarget {
                part: "profile",
                why: "only InvokeModel of Amazon Bedrock has profiles",
            });
        }
        Ok(self.edit(|inner| inner.profile = Some(profile)))
    }

    /// Sends the requests of this target to another host, e.g. a private endpoint or a test server.
    ///
    /// Takes a host with or without a port, optionally after `https://` (the default) or `http://`.
    ///
    /// # Errors
    /// If the text has another form.
    pub fn with_host(self, host: &str) -> Result<Self, InvalidTarget> {
        let (scheme, rest) = match host.split_once("://") {
            None => (Scheme::HTTPS, host),
            Some(("https", rest)) => (Scheme::HTTPS, rest),
            Some(("http", rest)) => (Scheme::HTTP, rest),
            Some(_) => {
                return Err(InvalidTarget {
                    part: "host",
                    why: "the scheme is neither https nor http",
                });
            }
        };
        let authority = authority(rest)?;
        Ok(self.edit(|inner| {
            inner.scheme = scheme;
            inner.authority = authority;
        }))
    }

    /// Sets the name, which must be unique among the targets of one program. The default is made
    /// of platform, location and profile.
    ///
    /// # Errors
    /// If the name is empty, longer than 100 bytes, or has other characters than letters, digits
    /// and `-_./:`.
    pub fn with_name(self, name: &str) -> Result<Self, InvalidTarget> {
        let is_part = |b: u8| b.is_ascii_alphanumeric() || b"-_./:".contains(&b);
        check("name", name, is_part, 100)?;
        Ok(self.edit(|inner| {
            inner.name = name.into();
            inner.has_own_name = true;
        }))
    }

    /// Sets the account that owns the target. Thinking of some models is bound to it. The default
    /// is one account for each of the Claude API, AWS, and each project on Google Cloud.
    ///
    /// # Errors
    /// Under the same rule as [`with_name`](Self::with_name).
    pub fn with_account(self, account: &str) -> Result<Self, InvalidTarget> {
        let is_part = |b: u8| b.is_ascii_alphanumeric() || b"-_./:".contains(&b);
        check("account", account, is_part, 100)?;
        Ok(self.edit(|inner| inner.account = account.into()))
    }

    /// Names the target's id of a model, e.g. the ARN of an inference profile.
    ///
    /// # Errors
    /// If one of the ids is empty, has more than 2,048 bytes, or has spaces or characters beyond
    /// visible ASCII.
    pub fn with_model(self, claude_id: &str, id: &str) -> Result<Self, InvalidTarget> {
        check("model", claude_id, |b| b.is_ascii_graphic(), 2_048)?;
        check("model", id, |b| b.is_ascii_graphic(), 2_048)?;
        Ok(self.edit(|inner| {
            inner.models.retain(|(known, _)| **known != *claude_id);
            inner.models.push((claude_id.into(), id.into()));
        }))
    }

    /// Returns the platform.
    #[must_use]
    pub fn platform(&self) -> Platform {
        self.0.platform
    }

    /// Returns the form of requests.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.0.dialect
    }

    /// Returns the region or multi-region, or `global`.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.0.location
    }

    /// Returns the project on Google Cloud.
    #[must_use]
    pub fn project(&self) -> Option<&str> {
        self.0.project.as_deref()
    }

    /// Returns the inference profile of Bedrock.
    #[must_use]
    pub fn profile(&self) -> Option<Profile> {
        self.0.profile
    }

    /// Returns the scheme of URIs: `https`, unless [`with_host`](Self::with_host) sets another.
    #[must_use]
    pub fn scheme(&self) -> &Scheme {
        &self.0.scheme
    }

    /// Returns the host and the port, if one was given.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.0.authority
    }

    /// Returns the host without a port.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.authority.host()
    }

    /// Returns the unique name, e.g. `bedrock/us-west-2/us`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns the account to which thinking may be bound.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.0.account
    }

    /// Returns the name of the AWS service in signatures. `None` for other platforms.
    #[must_use]
    pub fn aws_service(&self) -> Option<&'static str> {
        match self.0.dialect {
            _ if self.0.platform != Platform::Bedrock => None,
            Dialect::Messages if !self.host().starts_with("bedrock-runtime") => {
                Some("bedrock-mantle")
            }
            _ => Some("bedrock"),
        }
    }

    /// Returns the target's id of a model.
    ///
    /// A name that the user has given wins. Otherwise the id is made by the rules of the platform:
    /// `anthropic.`, the profile, the date and the version of Bedrock, the `@date` of Vertex. Ids
    /// of other clouds are taken as well.
    ///
    /// ```
    /// use tower_claude_wire::{ModelCatalog, cloud::{Profile, Target}};
    ///
    /// let catalog = ModelCatalog::builtin();
    /// let bedrock = Target::bedrock("us-west-2")?.with_profile(Profile::Global)?;
    /// let id = bedrock.model_id("claude-opus-4-5", catalog).unwrap();
    /// assert_eq!(id, "global.anthropic.claude-opus-4-5-20251101-v1:0");
    /// let vertex = Target::vertex("project", "global")?;
    /// assert_eq!(vertex.model_id(&id, catalog).unwrap(), "claude-opus-4-5@20251101");
    /// # Ok::<(), tower_claude_wire::cloud::InvalidTarget>(())
    /// ```
    ///
    /// # Errors
    /// If it is no model of Claude, or an ARN of another region or another platform.
    pub fn model_id<'a>(
        &'a self,
        claude_id: &'a str,
        catalog: &ModelCatalog,
    ) -> Result<Cow<'a, str>, Unportable> {
        if let Some(own) = self.own_name(claude_id) {
            return Ok(Cow::Borrowed(own));
        }
        match (self.0.dialect, self.0.platform) {
            (Dialect::Messages, Platform::Bedrock) => {
                ids::bedrock_messages_id(claude_id).map(Cow::Owned)
            }
            (Dialect::Messages, _) => Ok(ids::api_id(claude_id)),
            (Dialect::InvokeModel, _) => {
                ids::invoke_model_id(claude_id, self.0.profile, &self.0.location, catalog)
            }
            (Dialect::RawPredict, _) => ids::vertex_id(claude_id, catalog).map(Cow::Owned),
        }
    }

    /// Returns the user's name of a model. A name for `claude-opus-4-5` also stands for its dated
    /// form.
    fn own_name(&self, id: &str) -> Option<&str> {
        let models = &self.0.models;
        if models.is_empty() {
            return None;
        }
        let is_own = |own: &&(Box<str>, Box<str>)| *own.1 == *id;
        if let Some((_, own)) = models.iter().find(is_own) {
            return Some(own);
        }
        let exact = models.iter().find(|(known, _)| **known == *id);
        let found = exact.or_else(|| {
            let plain = ids::claude_id(id);
            let base = ids::without_date(&plain);
            let same = |(known, _): &&(Box<str>, Box<str>)| **known == *plain || **known == *base;
            models.iter().find(same)
        });
        found.map(|(_, own)| &**own)
    }

    /// Returns the Claude API's id of a model on this target. The inverse of
    /// [`model_id`](Self::model_id).
    ///
    /// ```
    /// use tower_claude_wire::cloud::Target;
    ///
    /// let arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/jf2sje1c";
    /// let target = Target::bedrock("us-east-1")?.with_model("claude-opus-5-5", arn)?;
    /// assert_eq!(target.claude_id(arn), "claude-opus-5-5");
    /// assert_eq!(target.claude_id("eu.anthropic.claude-opus-4-6-v1"), "claude-opus-4-6");
    /// # Ok::<(), tower_claude_wire::cloud::InvalidTarget>(())
    /// ```
    #[must_use]
    pub fn claude_id<'a>(&'a self, id: &'a str) -> Cow<'a, str> {
        let named = self.0.models.iter().find(|(_, own)| **own == *id);
        match named {
            Some((claude_id, _)) => Cow::Borrowed(claude_id),
            None => ids::claude_id(id),
        }
    }
}

/// Two targets are equal if they have the same name.
impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.name == other.0.name
    }
}

impl Eq for Target {}

impl std::hash::Hash for Target {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("name", &self.0.name)
            .field("authority", &self.0.authority)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Target {
    /// Writes the name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.name)
    }
}

fn authority(host: &str) -> Result<Authority, InvalidTarget> {
    let invalid = InvalidTarget {
        part: "host",
        why: "not a host name, with or without a port",
    };
    match host.parse::<Authority>() {
        Ok(authority) if !authority.host().is_empty() && !host.contains('@') => Ok(authority),
        _ => Err(invalid),
    }
}

/// Checks a label of a host name.
fn check_label(part: &'static str, text: &str) -> Result<(), InvalidTarget> {
    let is_part = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    check(part, text, is_part, 40)?;
    if text.starts_with('-') || text.ends_with('-') {
        let why = "begins or ends with a hyphen";
        return Err(InvalidTarget { part, why });
    }
    Ok(())
}

/// Checks a segment of a path.
fn check_segment(part: &'static str, text: &str) -> Result<(), InvalidTarget> {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    check(part, text, is_part, 200)
}

fn check(
    part: &'static str,
    text: &str,
    is_part: impl Fn(u8) -> bool,
    longest: usize,
) -> Result<(), InvalidTarget> {
    let why = if text.is_empty() {
        "empty"
    } else if text.len() > longest {
        "too long"
    } else if !text.bytes().all(is_part) {
        "has a character that is not allowed"
    } else if text.bytes().all(|b| b == b'.') {
        "has dots only"
    } else {
        return Ok(());
    };
    Err(InvalidTarget { part, why })
}
