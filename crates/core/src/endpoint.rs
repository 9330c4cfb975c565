//! Endpoints, and the paths that lead to them.

use std::borrow::Cow;

use tower_claude_wire::{
    Model, Platform,
    cloud::{Dialect, model_segment, quota_group},
};

use crate::percent;

/// A family of endpoints with separate limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// `POST /v1/messages`, and the calls of Bedrock and Vertex that do the same.
    Messages,
    /// `POST /v1/messages/count_tokens`, and the same on Vertex.
    CountTokens,
    /// `/v1/messages/batches` and the paths below it.
    Batches,
    /// `/v1/models`.
    Models,
    /// `/v1/files`.
    Files,
    /// Any other path.
    Other,
}

impl Endpoint {
    /// Returns the family of a path. See [`ApiPath`](crate::toolkit::ApiPath).
    #[must_use]
    #[inline]
    pub fn of(path: &str) -> Self {
        ApiPath::parse(path).endpoint
    }

    /// Returns the name for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::CountTokens => "count_tokens",
            Self::Batches => "batches",
            Self::Models => "models",
            Self::Files => "files",
            Self::Other => "other",
        }
    }
}

/// A form of path that names the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PathForm {
    /// `/model/{id}/invoke` of Amazon Bedrock.
    InvokeModel,
    /// `/publishers/anthropic/models/{id}:rawPredict` of Google Vertex.
    RawPredict,
}

/// The parts of a request path that identify the endpoint and the model.
///
/// Gateways put a prefix before the path, which may contain `/v1/` as well. The path is therefore
/// read from its end. Doubled and trailing slashes are ignored.
///
/// | End of the path | Endpoint | Model |
/// |---|---|---|
/// | `/v1/messages` | Messages | in the body |
/// | `/v1/messages/count_tokens` | token counting | in the body |
/// | `/v1/messages/batches…`, `/v1/models…`, `/v1/files…` | batches, models, files | none |
/// | `/model/{id}/invoke`, `…/invoke-with-response-stream` | Messages | in the path |
/// | `/publishers/anthropic/models/{id}:rawPredict`, `…:streamRawPredict` | Messages | in the path |
/// | `/publishers/anthropic/models/count-tokens:rawPredict` | token counting | in the body |
///
/// ```
/// use tower_claude_core::{Endpoint, toolkit::ApiPath};
///
/// let path = ApiPath::parse("/model/us.anthropic.claude-opus-4-5-20251101-v1%3A0/invoke");
/// assert_eq!(path.endpoint, Endpoint::Messages);
/// let model = path.model().expect("in the path");
/// assert_eq!(model, "us.anthropic.claude-opus-4-5-20251101-v1:0");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApiPath<'a> {
    /// The endpoint family.
    pub endpoint: Endpoint,
    /// True if the path requests a stream. A body can request a stream as well.
    pub streams: bool,
    /// The form of a path that names the model. `None` if the model is in the body.
    pub form: Option<PathForm>,
    path: &'a str,
    /// The model as written, between these two positions.
    model: (usize, usize),
}

impl<'a> ApiPath<'a> {
    /// Reads a path without its query.
    #[must_use]
    #[inline]
    pub fn parse(path: &'a str) -> Self {
        // The fast path: nearly every request, and several layers call this.
        if path == "/v1/messages" {
            return Self::without_model(path, Endpoint::Messages);
        }
        Self::search(path)
    }

    /// Returns the model in the path without percent-encoding. `None` if the path names none.
    #[must_use]
    pub fn model(&self) -> Option<Cow<'a, str>> {
        self.form?;
        percent::decode(&self.path[self.model.0..self.model.1])
    }

    /// Returns the path with another model. `None` if the path names none.
    #[must_use]
    pub fn with_model(&self, model: &str) -> Option<String> {
        let dialect = match self.form? {
            PathForm::InvokeModel => Dialect::InvokeModel,
            PathForm::RawPredict => Dialect::RawPredict,
        };
        let (head, tail) = (&self.path[..self.model.0], &self.path[self.model.1..]);
        Some(format!("{head}{}{tail}", model_segment(dialect, model)))
    }

    /// Returns the quota of a model at this path, which differs by location on Vertex. `host` is
    /// needed where the path does not show the platform.
    #[inline]
    pub(crate) fn quota_group<'m>(&self, host: &str, model: &'m Model) -> &'m str {
        // Nearly every request.
        if self.path == "/v1/messages" {
            return &model.rate_group;
        }
        self.other_quota_group(host, model)
    }

    #[cold]
    fn other_quota_group<'m>(&self, host: &str, model: &'m Model) -> &'m str {
        match self.form {
            Some(PathForm::InvokeModel) => quota_group(Platform::Bedrock, "", model),
            Some(PathForm::RawPredict) => {
                let mut segments = self.path.split('/').skip_while(|part| *part != "locations");
                let location = segments.nth(1).unwrap_or_default();
                quota_group(Platform::Vertex, location, model)
            }
            None => quota_group(Platform::of(host, self.path), "", model),
        }
    }

    const fn without_model(path: &'a str, endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            streams: false,
            form: None,
            path,
            model: (0, 0),
        }
    }

    /// Reads a path other than the most common one.
    fn search(path: &'a str) -> Self {
        let trimmed = path.trim_end_matches('/');
        let last = trimmed.rfind('/').map_or(0, |slash| slash + 1);
        let (head, action) = trimmed.split_at(last);
        let cloud = match action {
            "invoke" => Self::invoke_model(path, head, false),
            "invoke-with-response-stream" => Self::invoke_model(path, head, true),
            _ => Self::raw_predict(path, head, action),
        };
        cloud.unwrap_or_else(|| Self::without_model(path, family(trimmed)))
    }

    /// Reads a path of Bedrock. `head` is the path before the action. The id of a resource may
    /// contain slashes.
    fn invoke_model(path: &'a str, head: &str, streams: bool) -> Option<Self> {
        const MARK: &str = "/model/";
        let rest = head.rfind(MARK)? + MARK.len();
        let id = head[rest..].trim_matches('/');
        let begin = rest + head[rest..].find(|byte| byte != '/')?;
        Some(Self {
            streams,
            form: Some(PathForm::InvokeModel),
            model: (begin, begin + id.len()),
            ..Self::without_model(path, Endpoint::Messages)
        })
    }

    /// Reads a path of Vertex. `head` is the path before the last segment. The colon before the
    /// method may be percent-encoded.
    fn raw_predict(path: &'a str, head: &str, last: &str) -> Option<Self> {
        let colons = [":", "%3A", "%3a"].into_iter();
        let colon = colons.filter_map(|colon| Some((last.rfind(colon)?, colon.len())));
        let (length, colon) = colon.max()?;
        let streams = match &last[length + colon..] {
            "rawPredict" => false,
            "streamRawPredict" => true,
            _ => return None,
        };
        let mut segments = head.rsplit('/').filter(|segment| !segment.is_empty());
        let parents = [segments.next(), segments.next(), segments.next()];
        if parents != [Some("models"), Some("anthropic"), Some("publishers")] || length == 0 {
            return None;
        }
        if &last[..length] == "count-tokens" {
            return Some(Self::without_model(path, Endpoint::CountTokens));
        }
        Some(Self {
            streams,
            form: Some(PathForm::RawPredict),
            model: (head.len(), head.len() + length),
            ..Self::without_model(path, Endpoint::Messages)
        })
    }
}

/// Returns the family by the segments after the last `/v1/` that a known family follows.
fn family(path: &str) -> Endpoint {
    const VERSION: &str = "/v1/";
    let mut end = path.len();
    while let Some(found) = path[..end].rfind(VERSION) {
        let rest = &path[found + VERSION.len()..];
        let mut segments = rest.split('/').filter(|segment| !segment.is_empty());
        match [segments.next(), segments.next(), segments.next()] {
            [Some("messages"), None, None] => return Endpoint::Messages,
            [Some("messages"), Some("count_tokens"), None] => return Endpoint::CountTokens,
            [Some("messages"), Some("batches"), _] => return Endpoint::Batches,
            [Some("models"), ..] => return Endpoint::Models,
            [Some("files"), ..] => return Endpoint::Files,
            // The slash before this `v1` may end another one.
            _ => end = found + 1,
        }
    }
    Endpoint::Other
}
