//! Translations of requests.

mod official_sdks;
mod properties;
mod requests;
mod table;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use tower_claude_cloud::{Translated, Translator};
use tower_claude_wire::cloud::{Profile, Target, Unportable};

pub(crate) const MESSAGES: &str = "https://api.anthropic.com/v1/messages";

pub(crate) fn bedrock_messages() -> Target {
    Target::bedrock_messages("us-east-1").expect("a target")
}

pub(crate) fn invoke_model() -> Target {
    let target = Target::bedrock("us-east-1").expect("a target");
    target.with_profile(Profile::Us).expect("a target")
}

pub(crate) fn vertex() -> Target {
    Target::vertex("project", "us-east5").expect("a target")
}

pub(crate) fn clouds() -> [Target; 3] {
    [bedrock_messages(), invoke_model(), vertex()]
}

pub(crate) fn headers(list: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in list {
        let name: HeaderName = name.parse().expect("a name");
        headers.append(name, HeaderValue::from_str(value).expect("a value"));
    }
    headers
}

pub(crate) fn translate_at(
    uri: &str,
    list: &[(&str, &str)],
    body: impl Into<Bytes>,
    target: &Target,
) -> Result<Translated, Unportable> {
    let uri: Uri = uri.parse().expect("a URI");
    Translator::new().translate(&uri, &headers(list), &body.into(), target)
}

pub(crate) fn text(body: &Bytes) -> &str {
    std::str::from_utf8(body).expect("UTF-8")
}
