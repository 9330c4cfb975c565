//! The translation of one request.

use std::borrow::Cow;

use bytes::Bytes;
use http::{
    HeaderMap, Uri,
    uri::{Parts as UriParts, PathAndQuery},
};
use tower_claude_core::Endpoint;
use tower_claude_wire::{
    CacheTtl, Field, Fields, Model, Prompt,
    cloud::{BetaSupport, Loss, Losses, Target, Unportable},
    insert_breakpoints,
};

use super::{
    body::{Body, json},
    content::Content,
    edit::{Fate, NOT_JSON},
    facts::{FIRST_VERSION, Facts},
    fields, headers,
    rules::Rules,
    target_kind::{TargetKind, generation},
};

/// A translation whose body is not built yet.
pub(super) struct Plan {
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    pub(super) stream: bool,
    pub(super) losses: Losses,
}

impl Plan {
    /// Returns the plan for a request that the Claude API gets as it is.
    pub(super) fn unchanged(uri: &Uri, headers: &HeaderMap, body: &Bytes, target: &Target) -> Self {
        Self {
            uri: at_target(target, uri.path(), uri.query()),
            headers: headers::for_claude_api(headers),
            body: Body::new(body.clone()),
            stream: false,
            losses: Losses::default(),
        }
    }
}

/// A request on its way to one target.
pub(super) struct Draft<'a> {
    pub(super) target_kind: TargetKind,
    pub(super) target: &'a Target,
    pub(super) model: Model,
    pub(super) facts: Facts<'a>,
    pub(super) uri: &'a Uri,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a Bytes,
    pub(super) rules: &'a Rules,
}

impl Draft<'_> {
    pub(super) fn plan(&self) -> Result<Plan, Unportable> {
        let mut losses = Losses::default();
        let id = self.model_id()?;
        let path = self.path(&id)?;
        let mut betas = self.betas(&mut losses);
        let version = self.version(&mut losses);
        let user_profile = self.user_profile(&mut losses);
        let marked = self.automatic_cache(&mut losses);
        let source = marked.unwrap_or_else(|| self.body.clone());
        let mut body = Body::new(source.clone());
        let messages = self.fields(&source, &mut body, &id, &mut betas, &mut losses)?;
        if self.target_kind.has_version_in_body() {
            body.member("anthropic_version", &json(&version));
        }
        if self.target_kind == TargetKind::InvokeModel && !betas.is_empty() {
            let names = serde_json::to_string(&betas).unwrap_or_default();
            body.member("anthropic_beta", &names);
        }
        if let Some(profile) = user_profile
            .as_deref()
            .filter(|_| self.target_kind.is_bedrock())
        {
            body.member("user_profile_id", &json(profile));
        }
        // The stores of Vertex's prompt cache are chosen by the beginning of the body.
        if let Some((field, fate)) = messages {
            body.push_last(&field, fate);
        }
        let limit = self.target_kind.body_limit().unwrap_or(usize::MAX);
        if body.len() > limit {
            return Err(Unportable::new("body", "longer than the target takes"));
        }
        let query = match self.target_kind {
            TargetKind::ClaudeApi | TargetKind::BedrockMessages => self.uri.query(),
            TargetKind::InvokeModel | TargetKind::Vertex => None,
        };
        let headers = match self.target_kind {
            TargetKind::ClaudeApi => {
                let mut headers = headers::for_claude_api(self.headers);
                if self.facts.has_cloud_fields {
                    headers::set_facts(&mut headers, &betas, &version, user_profile.as_deref());
                }
                headers
            }
            target_kind => {
                let stream = self.facts.stream;
                let mut headers =
                    headers::for_cloud(self.headers, target_kind, stream, &mut losses)?;
                let no_betas = Vec::new();
                match target_kind {
                    TargetKind::BedrockMessages => {
                        headers::set_facts(&mut headers, &betas, &version, None);
                    }
                    TargetKind::Vertex => headers::set_facts(&mut headers, &betas, "", None),
                    _ => headers::set_facts(&mut headers, &no_betas, "", None),
                }
                headers
            }
        };
        Ok(Plan {
            uri: at_target(self.target, &path, query),
            headers,
            body,
            stream: self.facts.stream,
            losses,
        })
    }

    fn is_count(&self) -> bool {
        self.facts.endpoint == Endpoint::CountTokens
    }

    /// Returns the target's id of the model. An id that is the target's own stays.
    fn model_id(&self) -> Result<String, Unportable> {
        let catalog = &self.rules.catalog;
        let id = self.target.model_id(&self.facts.named, catalog)?;
        Ok(id.into_owned())
    }

    fn path(&self, id: &str) -> Result<String, Unportable> {
        if self.target_kind == TargetKind::ClaudeApi && !self.facts.model_was_in_path {
            // It may have the prefix of a proxy.
            return Ok(self.uri.path().to_owned());
        }
        if self.is_count() {
            let path = self.target.count_tokens_path();
            return path.ok_or(Unportable::new("path", "the target does not count tokens"));
        }
        Ok(self.target.messages_path(id, self.facts.stream))
    }

    /// Returns true if the target accepts a beta for this request.
    fn accepts(&self, beta: &str) -> bool {
        // The counting of tokens on Vertex takes no betas.
        let counts_on_vertex = self.is_count() && self.target_kind == TargetKind::Vertex;
        !counts_on_vertex && self.rules.betas.support(beta, self.target) == BetaSupport::Accepted
    }

    /// Returns the betas that are sent.
    fn betas(&self, losses: &mut Losses) -> Vec<Cow<'_, str>> {
        let mut sent: Vec<Cow<'_, str>> = Vec::with_capacity(self.facts.betas.len());
        for beta in &self.facts.betas {
            let name = match self.rules.betas.support(beta, self.target) {
                _ if self.accepts(beta) => Cow::Borrowed(&**beta),
                BetaSupport::Renamed(name) if self.accepts(&name) => name,
                BetaSupport::Unneeded => continue,
                _ => {
                    losses.push(Loss::Beta((**beta).into()));
                    continue;
                }
            };
            if !sent.contains(&name) {
                sent.push(name);
            }
        }
        sent
    }

    /// Returns the version in the terms of the target. The first one is the default.
    fn version(&self, losses: &mut Losses) -> String {
        let version = self.facts.version.as_deref().unwrap_or(FIRST_VERSION);
        // Bedrock takes the second version for models from 4.7 on.
        let is_old = self.target_kind.is_bedrock() && self.is_before_4_7();
        let first = match self.target_kind {
            TargetKind::InvokeModel => "bedrock-2023-05-31",
            TargetKind::Vertex => "vertex-2023-10-16",
            TargetKind::ClaudeApi | TargetKind::BedrockMessages => FIRST_VERSION,
        };
        if version == FIRST_VERSION {
            return first.to_owned();
        }
        if is_old {
            losses.push(Loss::Changed {
                path: "anthropic-version",
                to: first,
            });
            return first.to_owned();
        }
        version.to_owned()
    }

    fn user_profile(&self, losses: &mut Losses) -> Option<Cow<'_, str>> {
        let profile = self.facts.user_profile.as_deref()?;
        if self.target_kind == TargetKind::Vertex {
            losses.push(Loss::Field("user_profile_id"));
            return None;
        }
        Some(Cow::Borrowed(profile))
    }

    /// Returns the body with an explicit breakpoint in place of the automatic one, which
    /// `InvokeModel` rejects for models before 4.7.
    fn automatic_cache(&self, losses: &mut Losses) -> Option<Bytes> {
        /// The greatest number of breakpoints.
        const MOST: usize = 4;
        if !self.drops_automatic_cache() {
            return None;
        }
        let prompt = Prompt::parse(self.body)?;
        let ttl = CacheTtl::of(prompt.automatic()?);
        losses.push(Loss::Changed {
            path: "cache_control",
            to: "breakpoint at the last block",
        });
        let (mut breakpoints, mut last, mut last_has_one) = (0, None, false);
        prompt.blocks(|block| {
            let has_one = block.breakpoint.is_some();
            breakpoints += usize::from(has_one);
            if block.inner.is_some() {
                return;
            }
            if has_one || block.takes_breakpoint() {
                last_has_one = has_one;
                last = block.range_in(self.body);
            }
        });
        let marks = match last {
            Some(range) if !last_has_one && breakpoints < MOST => vec![(range, ttl)],
            _ => return None,
        };
        insert_breakpoints(self.body, &marks).map(Bytes::from)
    }

    /// Reads all fields, and appends those that are sent. Returns the messages if they come last.
    fn fields<'b>(
        &self,
        source: &'b Bytes,
        body: &mut Body,
        id: &str,
        betas: &mut Vec<Cow<'_, str>>,
        losses: &mut Losses,
    ) -> Result<Option<(Field<'b>, Fate)>, Unportable> {
        let accepts = |beta: &str| self.accepts(beta);
        let mut last = None;
        let (mut choice, mut thinking) = (None, None);
        let mut needs_eager_streaming = false;
        let mut model_is_there = false;
        for field in Fields::open(source).ok_or(NOT_JSON)? {
            let field = field.map_err(|_| NOT_JSON)?;
            let value = field.value_in(source);
            let mut content = Content {
                target_kind: self.target_kind,
                platform: self.target.platform(),
                model: &self.model,
                accepts: &accepts,
                losses,
                replaces_tool_ids: self.rules.replaces_tool_ids,
                needs_eager_streaming: false,
            };
            let fate = match &*field.name {
                "model" => {
                    model_is_there = true;
                    self.model_field(value, id)
                }
                "stream" if self.target_kind == TargetKind::InvokeModel => Fate::Drop,
                "anthropic_version" | "anthropic_beta" | "user_profile_id" => Fate::Drop,
                _ if self.target_kind == TargetKind::ClaudeApi => Fate::Keep,
                "messages" => content.messages(value)?.into(),
                "system" => content.blocks(value)?.into(),
                "tools" => content.tools(value)?.into(),
                "cache_control" if self.drops_automatic_cache() => Fate::Drop,
                "cache_control" => content.cache_control(value)?.into(),
                name => {
                    match name {
                        "tool_choice" => choice = Some(value),
                        "thinking" => thinking = Some(value),
                        _ => {}
                    }
                    let model = &self.model;
                    fields::fate(name, value, self.target, &accepts, model, content.losses)?
                        .unwrap_or(Fate::Keep)
                }
            };
            needs_eager_streaming |= content.needs_eager_streaming;
            if self.target_kind == TargetKind::Vertex && field.name == "messages" {
                last = Some((field, fate));
            } else {
                body.push(&field, fate);
            }
        }
        if self.target_kind != TargetKind::ClaudeApi {
            let platform = self.target.platform();
            fields::check_tool_choice(choice, thinking, &self.model, platform)?;
        }
        const EAGER: &str = "fine-grained-tool-streaming-2025-05-14";
        if needs_eager_streaming && self.accepts(EAGER) && !betas.iter().any(|b| b == EAGER) {
            betas.push(Cow::Borrowed(EAGER));
        }
        if self.names_model() && !model_is_there {
            body.member("model", &json(id));
        }
        if self.facts.stream_was_in_path && self.target_kind != TargetKind::InvokeModel {
            body.member("stream", "true");
        }
        Ok(last)
    }

    fn drops_automatic_cache(&self) -> bool {
        self.target_kind == TargetKind::InvokeModel && self.is_before_4_7()
    }

    fn is_before_4_7(&self) -> bool {
        generation(&self.model.id).is_some_and(|model| model < (4, 7))
    }

    /// Returns true if the model is a field of the body.
    fn names_model(&self) -> bool {
        match self.target_kind {
            TargetKind::ClaudeApi | TargetKind::BedrockMessages => true,
            TargetKind::InvokeModel => false,
            TargetKind::Vertex => self.is_count(),
        }
    }

    fn model_field(&self, value: &[u8], id: &str) -> Fate {
        if !self.names_model() {
            return Fate::Drop;
        }
        let wanted = json(id);
        if value == wanted.as_bytes() {
            Fate::Keep
        } else {
            Fate::Replace(wanted.into_bytes())
        }
    }
}

/// Returns the URI of a path at a target.
fn at_target(target: &Target, path: &str, query: Option<&str>) -> Uri {
    let path = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = UriParts::default();
    parts.scheme = Some(target.scheme().clone());
    parts.authority = Some(target.authority().clone());
    // All parts of a path are checked or percent-encoded.
    parts.path_and_query =
        Some(PathAndQuery::try_from(path).unwrap_or_else(|_| PathAndQuery::from_static("/")));
    Uri::from_parts(parts).unwrap_or_default()
}
