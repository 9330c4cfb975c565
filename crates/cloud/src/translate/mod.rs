//! Translation of requests.

mod body;
mod content;
mod draft;
mod edit;
mod facts;
mod fields;
mod headers;
mod rules;
mod target_kind;

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, Request, Uri};
use tower_claude_core::{RequestBody, toolkit::ApiPath};
use tower_claude_wire::{
    ModelCatalog,
    cloud::{Betas, Losses, Target, Unportable},
};

use self::{
    draft::{Draft, Plan},
    facts::Facts,
    rules::Rules,
    target_kind::TargetKind,
};

/// A translator of requests for the Claude API into those of its targets. A pure function of the
/// request, with the facts about models and betas that it needs.
///
/// `system`, `tools` and `messages` stay byte for byte as they are, but for what a
/// [`Loss`](tower_claude_wire::cloud::Loss) names.
/// Their translation is not translated any further by the same target.
///
/// ```
/// use bytes::Bytes;
/// use http::{HeaderMap, Uri};
/// use tower_claude_cloud::Translator;
/// use tower_claude_wire::cloud::{Profile, Target};
///
/// let target = Target::bedrock("us-west-2")?.with_profile(Profile::Us)?;
/// let uri = Uri::from_static("https://api.anthropic.com/v1/messages");
/// let body = Bytes::from_static(
///     br#"{"model":"claude-opus-5-5","max_tokens":9,"messages":[],"stream":true}"#,
/// );
/// let sent = Translator::new().translate(&uri, &HeaderMap::new(), &body, &target)?;
/// assert_eq!(
///     sent.uri.path(),
///     "/model/us.anthropic.claude-opus-5-5/invoke-with-response-stream",
/// );
/// assert_eq!(
///     sent.body,
///     r#"{"max_tokens":9,"messages":[],"anthropic_version":"bedrock-2023-05-31"}"#,
/// );
/// assert!(sent.losses.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Translator {
    rules: Rules,
}

impl Default for Translator {
    fn default() -> Self {
        Self::new()
    }
}

/// A request for a target.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Translated {
    /// The URI at the target.
    pub uri: Uri,
    /// All headers, without a credential, `host` and `content-length`.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// True if the answer will be a stream.
    pub stream: bool,
    /// The differences that the sender may notice.
    pub losses: Losses,
}

impl Translator {
    /// Creates a translator with the built-in catalog and table of betas.
    #[must_use]
    pub fn new() -> Self {
        Self {
            rules: Rules {
                catalog: Cow::Borrowed(ModelCatalog::builtin()),
                betas: Betas::builtin().clone(),
                replaces_tool_ids: false,
            },
        }
    }

    /// Sets the catalog of models. The default is the built-in one.
    #[must_use]
    pub fn with_catalog(mut self, catalog: ModelCatalog) -> Self {
        self.rules.catalog = Cow::Owned(catalog);
        self
    }

    /// Sets the betas that each cloud accepts. The default is the built-in table.
    #[must_use]
    pub fn with_betas(mut self, betas: Betas) -> Self {
        self.rules.betas = betas;
        self
    }

    /// Replaces the ids of tool calls that another vendor's model has made, with a loss. By default
    /// such a request is unportable, because the API takes ids of letters, digits, `-` and `_`
    /// only.
    ///
    /// Each id is replaced by its hash, in the call and in its result.
    #[must_use]
    pub const fn with_replaced_tool_ids(mut self) -> Self {
        self.rules.replaces_tool_ids = true;
        self
    }

    /// Translates a request for a target.
    ///
    /// The request may have any of the dialects of targets. For the Claude API, all headers and
    /// fields stay.
    ///
    /// # Errors
    /// Names the field or the header that the target cannot serve.
    pub fn translate(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        body: &Bytes,
        target: &Target,
    ) -> Result<Translated, Unportable> {
        let plan = self.plan(uri, headers, body, target)?;
        Ok(Translated {
            uri: plan.uri,
            headers: plan.headers,
            body: plan.body.build(),
            stream: plan.stream,
            losses: plan.losses,
        })
    }

    /// Checks that a target can serve a request. Suits the `with_check` of the spread layer.
    ///
    /// # Errors
    /// As [`translate`](Self::translate) does. A body that is not buffered can only go to the
    /// Claude API.
    pub fn check(&self, request: &Request<RequestBody>, target: &Target) -> Result<(), Unportable> {
        let (uri, headers) = (request.uri(), request.headers());
        match request.body().bytes() {
            Some(body) => self.plan(uri, headers, body, target).map(|_| ()),
            None if TargetKind::of(target) == TargetKind::ClaudeApi => Ok(()),
            None => Err(TOO_LONG),
        }
    }

    fn plan(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        body: &Bytes,
        target: &Target,
    ) -> Result<Plan, Unportable> {
        let target_kind = TargetKind::of(target);
        match Facts::read(uri, headers, body, target) {
            Ok(facts) => {
                let model = self.rules.catalog.lookup(&facts.model);
                let draft = Draft {
                    target_kind,
                    target,
                    model,
                    facts,
                    uri,
                    headers,
                    body,
                    rules: &self.rules,
                };
                draft.plan()
            }
            // The Claude API decides about its own requests.
            Err(_)
                if target_kind == TargetKind::ClaudeApi
                    && ApiPath::parse(uri.path()).form.is_none() =>
            {
                Ok(Plan::unchanged(uri, headers, body, target))
            }
            Err(reason) => Err(reason),
        }
    }
}

/// A body that is not buffered, so that it cannot be read.
pub(crate) const TOO_LONG: Unportable = Unportable::new("body", "too long to be translated");
