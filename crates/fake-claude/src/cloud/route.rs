//! Paths of the platforms.

use http::{Method, Uri};

use crate::cloud::sigv4::percent_decoded;
use crate::cloud::{CloudKind, FakeCloud};
use crate::log::Endpoint;

/// The shape of requests and responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// The Claude API.
    #[default]
    Claude,
    /// Amazon Bedrock's endpoints of the Claude API.
    Messages,
    /// InvokeModel.
    Invoke,
    /// Claude on Google Cloud, managed by Google.
    Vertex,
}

/// The facts of a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) endpoint: Endpoint,
    /// The model id in the path, decoded. `None` where the body has it.
    pub(super) model: Option<String>,
    /// True for a path that streams.
    pub(super) streams: bool,
    /// The project and the location in a path of Google.
    pub(super) place: Option<(String, String)>,
}

/// Returns the dialect of a path. An unknown path has that of its platform.
pub(super) fn dialect(cloud: &FakeCloud, path: &str) -> Dialect {
    match cloud.kind {
        CloudKind::Mantle => Dialect::Messages,
        CloudKind::Bedrock if path.starts_with("/anthropic/") => Dialect::Messages,
        CloudKind::Bedrock => Dialect::Invoke,
        CloudKind::Vertex => Dialect::Vertex,
    }
}

/// Returns the facts of a path. `None` for a path or a method that the platform does not have.
pub(super) fn route(dialect: Dialect, method: &Method, uri: &Uri) -> Option<Route> {
    if method != Method::POST {
        return None;
    }
    let path = uri.path();
    let plain = |endpoint| Route {
        endpoint,
        model: None,
        streams: false,
        place: None,
    };
    match dialect {
        Dialect::Claude | Dialect::Messages => match path.strip_prefix("/anthropic/v1/messages")? {
            "" => Some(plain(Endpoint::Messages)),
            "/count_tokens" => Some(plain(Endpoint::CountTokens)),
            _ => None,
        },
        Dialect::Invoke => {
            // The id is one segment, so the slash of an ARN is encoded.
            let (id, action) = path.strip_prefix("/model/")?.split_once('/')?;
            let streams = match action {
                "invoke" => false,
                "invoke-with-response-stream" => true,
                _ => return None,
            };
            Some(Route {
                model: Some(decoded(id)),
                streams,
                ..plain(Endpoint::Messages)
            })
        }
        Dialect::Vertex => {
            let parts: Vec<&str> = path.strip_prefix("/v1/")?.split('/').collect();
            let [
                "projects",
                project,
                "locations",
                location,
                "publishers",
                "anthropic",
                "models",
                call,
            ] = parts[..]
            else {
                return None;
            };
            let (id, action) = call.rsplit_once(':')?;
            let streams = match action {
                "rawPredict" => false,
                "streamRawPredict" => true,
                _ => return None,
            };
            let counts = id == "count-tokens" && !streams;
            let endpoint = match counts {
                true => Endpoint::CountTokens,
                false => Endpoint::Messages,
            };
            Some(Route {
                model: (!counts).then(|| decoded(id)),
                streams,
                place: Some((decoded(project), decoded(location))),
                ..plain(endpoint)
            })
        }
    }
}

fn decoded(text: &str) -> String {
    String::from_utf8_lossy(&percent_decoded(text)).into_owned()
}
