//! The targets of an upstream: the clouds that serve its models.

use std::{
    collections::{BTreeMap, HashSet},
    num::NonZeroU32,
};

use serde::{Deserialize, Serialize};
use tower_claude::{
    spread::{SpreadTarget, TargetLimits},
    wire::cloud::{InvalidTarget, Profile, Target},
};

use crate::{base_url::base_url, secret::Secret};

/// A cloud, region or account that serves the models of an upstream.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct TargetConfig {
    /// The kind of target: `claude-api`, `bedrock` (`InvokeModel`, with the feature `bedrock`,
    /// which is on by default), `bedrock-messages` or `vertex`. Default `claude-api`, which uses
    /// `url` and `key` of the upstream.
    pub platform: PlatformName,
    /// The region of Amazon Bedrock, or the region, multi-region or `global` of Vertex AI. Required
    /// for them.
    pub location: String,
    /// The project on Google Cloud. Required for Vertex AI.
    pub project: Option<String>,
    /// The inference profile of Bedrock's `InvokeModel`: `us`, `eu`, `jp`, `au`, `apac`, `us-gov`
    /// or `global`. Default: none, which newer models do not accept.
    pub profile: Option<String>,
    /// The name, for logs and metrics. Default: the platform with its location. Names are unique,
    /// and none is the profile or the location of a target.
    pub name: Option<String>,
    /// The account that owns the target, to which the thinking of some models is bound. Default:
    /// one for each of the Claude API, AWS, and each project on Google Cloud.
    pub account: Option<String>,
    /// The base URL of a private endpoint, without a path. Default: the public one.
    pub url: Option<String>,
    /// The ids of models at this target, by their ids at the Claude API, such as the ARN of an
    /// inference profile. Default: derived from the platform's rules.
    pub models: BTreeMap<String, String>,
    /// The share of new conversations among targets that cost the same. Default 1.
    pub weight: Option<NonZeroU32>,
    /// The price in percent of that of the Claude API. Default 100, and 110 for regions.
    pub price_percent: Option<u32>,
    /// The limits of each group of models. Default: none, so that they are learned.
    pub limits: TargetLimitsConfig,
    /// A bearer token: an API key of Amazon Bedrock. Default: none.
    pub key: Option<Secret>,
    /// A command that prints a bearer token, such as `["gcloud", "auth", "print-access-token"]`. It
    /// runs again every five minutes, and after a token was rejected. Default: none.
    pub token_command: Vec<String>,
    /// A command that prints credentials of AWS in the form of a `credential_process`, such as
    /// `["aws", "configure", "export-credentials", "--format", "process"]`, with the feature
    /// `bedrock`. It runs again before they expire. Default: none.
    pub credentials_command: Vec<String>,
}

/// The name of a kind of target.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PlatformName {
    /// The Claude API.
    #[default]
    ClaudeApi,
    /// `InvokeModel` of Amazon Bedrock.
    Bedrock,
    /// The Messages API of Amazon Bedrock.
    BedrockMessages,
    /// Google Vertex AI.
    Vertex,
}

/// The limits of a target for each group of models, per minute. Each is absent by default.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct TargetLimitsConfig {
    /// Requests per minute.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Input tokens per minute, without cache reads.
    pub input_tokens_per_minute: Option<NonZeroU32>,
    /// Output tokens per minute.
    pub output_tokens_per_minute: Option<NonZeroU32>,
    /// Input and output tokens per minute together, as Amazon Bedrock counts them.
    pub tokens_per_minute: Option<NonZeroU32>,
}

/// An error of a field of a target: the name of the field, and the reason.
type FieldError = (&'static str, String);

impl TargetConfig {
    /// Returns the target. `url` is the base URL of the upstream.
    pub(crate) fn target(&self, url: &str) -> Result<Target, FieldError> {
        let location = &*self.location;
        let target = match self.platform {
            PlatformName::ClaudeApi => Ok(Target::claude_api()),
            PlatformName::Bedrock => Target::bedrock(location),
            PlatformName::BedrockMessages => Target::bedrock_messages(location),
            PlatformName::Vertex => {
                let project = self.project.as_deref();
                let project = project.ok_or(("project", "is required for vertex".to_owned()))?;
                Target::vertex(project, location)
            }
        };
        let mut target = target.map_err(|error| invalid(&error))?;
        if let Some(profile) = &self.profile {
            let known = Profile::ALL.into_iter();
            let found = known.into_iter().find(|known| known.as_str() == profile);
            let found = found.ok_or_else(|| ("profile", format!("{profile:?} is not known")))?;
            let result = target.with_profile(found);
            target = result.map_err(|error| invalid(&error))?;
        }
        if let Some(name) = &self.name {
            target = target.with_name(name).map_err(|error| invalid(&error))?;
        }
        if let Some(account) = &self.account {
            let result = target.with_account(account);
            target = result.map_err(|error| invalid(&error))?;
        }
        for (model, id) in &self.models {
            let result = target.with_model(model, id);
            target = result.map_err(|error| ("models", format!("{model:?}: {}", error.why)))?;
        }
        let url = match self.platform {
            PlatformName::ClaudeApi => Some(url),
            _ => self.url.as_deref(),
        };
        let Some(url) = url else {
            return Ok(target);
        };
        let named = |reason| ("url", format!("{url:?} {reason}"));
        let uri = base_url(url).map_err(named)?;
        if self.platform != PlatformName::ClaudeApi && uri.path() != "/" {
            return Err(named("has a path"));
        }
        let scheme = uri.scheme_str().unwrap_or("https");
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let result = target.with_host(&format!("{scheme}://{authority}"));
        result.map_err(|error| named(error.why))
    }

    /// Returns the target with the settings for the choice among several.
    pub(crate) fn spread_target(&self, target: Target) -> SpreadTarget {
        let is_callers = self.platform == PlatformName::ClaudeApi;
        let mut spread = SpreadTarget::new(target).with_limits(self.limits.limits());
        if let Some(weight) = self.weight {
            spread = spread.with_weight(weight);
        }
        if let Some(percent) = self.price_percent {
            spread = spread.with_price_percent(percent);
        }
        if is_callers {
            spread = spread.with_callers_credential();
        }
        spread
    }

    fn check(&self, url: &str, report: &mut dyn FnMut(&str, String)) -> Option<Target> {
        let is_claude = self.platform == PlatformName::ClaudeApi;
        let ways = [
            ("key", self.key.is_some()),
            ("token_command", !self.token_command.is_empty()),
            ("credentials_command", !self.credentials_command.is_empty()),
        ];
        let mut set = ways.iter().filter(|(_, is_set)| *is_set);
        match (set.next(), set.next()) {
            (Some((name, _)), _) if is_claude => {
                report(name, "is set by the key of the upstream".into());
            }
            (None, _) if !is_claude => {
                let message = "or token_command or credentials_command is required";
                report("key", message.into());
            }
            (Some(_), Some((name, _))) => {
                report(name, "a target has one source of credentials".into());
            }
            _ => {}
        }
        if is_claude && self.url.is_some() {
            report("url", "is set by the url of the upstream".into());
        }
        let is_aws = self.platform != PlatformName::Vertex && !is_claude;
        if !self.credentials_command.is_empty() && !is_aws && !is_claude {
            report("credentials_command", "is for Amazon Bedrock only".into());
        }
        let needs_bedrock =
            self.platform == PlatformName::Bedrock || !self.credentials_command.is_empty();
        if needs_bedrock && !cfg!(feature = "bedrock") {
            let message = "needs a build with the feature `bedrock`";
            let field = match self.platform {
                PlatformName::Bedrock => "platform",
                _ => "credentials_command",
            };
            report(field, message.into());
        }
        match self.target(url) {
            Ok(target) => Some(target),
            Err((field, reason)) => {
                report(field, reason);
                None
            }
        }
    }
}

impl TargetLimitsConfig {
    fn limits(&self) -> TargetLimits {
        let mut limits = TargetLimits::learned();
        if let Some(limit) = self.requests_per_minute {
            limits = limits.with_requests(limit);
        }
        if let Some(limit) = self.input_tokens_per_minute {
            limits = limits.with_input_tokens(limit);
        }
        if let Some(limit) = self.output_tokens_per_minute {
            limits = limits.with_output_tokens(limit);
        }
        if let Some(limit) = self.tokens_per_minute {
            limits = limits.with_all_tokens(limit);
        }
        limits
    }
}

/// Reports every error of the targets of an upstream with its field.
pub(crate) fn check(targets: &[TargetConfig], url: &str, report: &mut dyn FnMut(String, String)) {
    let mut names = HashSet::new();
    let areas = targets.iter().filter_map(|config| {
        let target = config.target(url).ok()?;
        Some(config.spread_target(target).area().to_owned())
    });
    let areas: HashSet<String> = areas.collect();
    for (index, config) in targets.iter().enumerate() {
        let mut of = |name: &str, message: String| {
            report(format!("targets[{index}].{name}"), message);
        };
        let Some(target) = config.check(url, &mut of) else {
            continue;
        };
        if !names.insert(target.name().to_owned()) {
            of("name", format!("{:?} is not unique", target.name()));
        }
        // A list of the allowed targets has names and areas, so that one could allow another.
        if areas.contains(target.name()) {
            of(
                "name",
                format!("{:?} is the area of a target", target.name()),
            );
        }
    }
}

fn invalid(error: &InvalidTarget) -> FieldError {
    (error.part, error.why.to_owned())
}
