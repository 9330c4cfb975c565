//! The parts of a request that dialects put in different places.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Uri};
use tower_claude_core::{Endpoint, toolkit::ApiPath};
use tower_claude_wire::{
    Elements, Fields,
    cloud::{Target, Unportable},
    json_text,
};

use super::edit::NOT_JSON;

pub(super) const BETA: HeaderName = HeaderName::from_static("anthropic-beta");
pub(super) const VERSION: HeaderName = HeaderName::from_static("anthropic-version");
pub(super) const USER_PROFILE: HeaderName = HeaderName::from_static("anthropic-user-profile-id");

/// The first version of the API. Bedrock and Vertex have names of their own for it.
pub(super) const FIRST_VERSION: &str = "2023-06-01";
const FIRST_VERSIONS: [&str; 4] = [
    FIRST_VERSION,
    "2023-01-01",
    "bedrock-2023-05-31",
    "vertex-2023-10-16",
];

/// The facts of a request, whatever its dialect.
pub(super) struct Facts<'a> {
    pub(super) endpoint: Endpoint,
    /// The Claude API's id of the model.
    pub(super) model: Cow<'a, str>,
    /// The id as the request has it.
    pub(super) named: Cow<'a, str>,
    pub(super) stream: bool,
    /// True if the path had the model, so that the body has none.
    pub(super) model_was_in_path: bool,
    /// True if the path alone asked for the stream.
    pub(super) stream_was_in_path: bool,
    /// True if the body has fields that the Claude API has as headers.
    pub(super) has_cloud_fields: bool,
    pub(super) betas: Vec<Cow<'a, str>>,
    /// The version, [`FIRST_VERSION`] for all names of it. `None` if the request has none.
    pub(super) version: Option<Cow<'a, str>>,
    pub(super) user_profile: Option<Cow<'a, str>>,
}

impl<'a> Facts<'a> {
    pub(super) fn read(
        uri: &'a Uri,
        headers: &'a HeaderMap,
        body: &'a Bytes,
        target: &Target,
    ) -> Result<Self, Unportable> {
        let path = ApiPath::parse(uri.path());
        if !matches!(path.endpoint, Endpoint::Messages | Endpoint::CountTokens) {
            let why = "the target serves Messages and the counting of tokens only";
            return Err(Unportable::new("path", why));
        }
        let mut betas: Vec<Cow<'a, str>> = Vec::new();
        let mut add = |beta: Cow<'a, str>| {
            if !beta.is_empty() && !betas.contains(&beta) {
                betas.push(beta);
            }
        };
        for value in headers.get_all(BETA) {
            // A name beyond ASCII is none of the API.
            for beta in value.to_str().unwrap_or_default().split(',') {
                add(Cow::Borrowed(beta.trim()));
            }
        }
        let text = |name: HeaderName| {
            let value = headers.get(name)?.to_str().ok()?.trim();
            (!value.is_empty()).then_some(Cow::Borrowed(value))
        };
        let mut version = text(VERSION);
        let mut user_profile = text(USER_PROFILE);
        let mut in_body = None;
        let mut stream = None;
        let mut has_cloud_fields = false;
        for field in Fields::open(body).ok_or(NOT_JSON)? {
            let field = field.map_err(|_| NOT_JSON)?;
            let value = field.value_in(body);
            let text = json_text(value).filter(|text| !text.is_empty());
            has_cloud_fields |= matches!(
                &*field.name,
                "anthropic_version" | "anthropic_beta" | "user_profile_id"
            );
            match &*field.name {
                "model" => in_body = text,
                "stream" => stream = Some(value == b"true"),
                "anthropic_version" => version = text.or(version),
                "user_profile_id" => user_profile = text.or(user_profile),
                "anthropic_beta" => {
                    for beta in Elements::open(value).into_iter().flatten() {
                        json_text(beta).into_iter().for_each(&mut add);
                    }
                }
                _ => {}
            }
        }
        let in_path = path.model();
        let model_was_in_path = in_path.is_some();
        let named = in_path
            .or(in_body)
            .ok_or(Unportable::new("model", "the request names no model"))?;
        if version
            .as_deref()
            .is_some_and(|name| FIRST_VERSIONS.contains(&name))
        {
            version = Some(Cow::Borrowed(FIRST_VERSION));
        }
        Ok(Self {
            endpoint: path.endpoint,
            model: Cow::Owned(target.claude_id(&named).into_owned()),
            named,
            stream: stream.unwrap_or(path.streams),
            model_was_in_path,
            stream_was_in_path: path.streams && stream.is_none(),
            has_cloud_fields,
            betas,
            version,
            user_profile,
        })
    }
}
