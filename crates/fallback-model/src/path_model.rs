//! Requests whose path names the model: those of Bedrock's `InvokeModel` and of Vertex.

use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header::CONTENT_LENGTH};
use tower_claude_core::{
    RequestBody,
    toolkit::{ApiPath, PathForm},
};
use tower_claude_wire::{Fields, ModelCatalog, json_text};

use crate::rewrite::{RewriteOptions, Rewritten, Unportable};

/// The API version that all models of Bedrock accept.
const BEDROCK_VERSION: &str = "bedrock-2023-05-31";

/// Rewrites a request for the model `to`: its path and its body.
///
/// The body names no model, so it gets one for the rewrite, which is removed again. The stand-in
/// must be named as the platform names it, because the id follows no common rule.
pub(crate) fn rewrite(
    options: &RewriteOptions,
    original: &Request<RequestBody>,
    to: &str,
    catalog: &ModelCatalog,
) -> Result<(Rewritten, Uri), Unportable> {
    let uri = original.uri();
    let path = ApiPath::parse(uri.path());
    let empty = Bytes::new();
    let body = original.body().bytes().unwrap_or(&empty);
    let unportable = |why| Unportable::new("model", why);
    let is_name = match path.form {
        Some(PathForm::InvokeModel) => to.contains("anthropic.") || to.starts_with("arn:"),
        _ => to.starts_with("claude-"),
    };
    if !is_name {
        return Err(unportable(
            "in the path: the stand-in has no name of this platform",
        ));
    }
    if path.form == Some(PathForm::InvokeModel) && version(body).as_deref() != Some(BEDROCK_VERSION)
    {
        return Err(unportable(
            "in the path: another model may reject this `anthropic_version`",
        ));
    }
    if uri
        .query()
        .is_some_and(|query| query.contains("X-Amz-Signature="))
    {
        return Err(unportable("in the path: the URI is signed"));
    }
    let from = path.model().unwrap_or_default();
    let named = with_model(body, &from).ok_or_else(|| unportable("in the path: no JSON object"))?;
    let mut rewritten = options.rewrite(original.headers(), &named, &from, to, catalog)?;
    rewritten.body = without_model(&rewritten.body);
    let length = HeaderValue::from(rewritten.body.len());
    rewritten.headers.insert(CONTENT_LENGTH, length);
    let uri = with_path(uri, &path.with_model(to).unwrap_or_default());
    Ok((
        rewritten,
        uri.ok_or_else(|| unportable("in the path: no valid URI"))?,
    ))
}

fn version(body: &[u8]) -> Option<String> {
    let mut fields = Fields::open(body)?.map_while(Result::ok);
    let version = fields.find(|field| field.name == "anthropic_version")?;
    json_text(version.value_in(body)).map(Into::into)
}

/// Returns the body with the model as its first field.
fn with_model(body: &[u8], model: &str) -> Option<Bytes> {
    let is_text = |char: char| !char.is_control() && char != '"' && char != '\\';
    if !model.chars().all(is_text) {
        return None;
    }
    let first = Fields::open(body)?.next();
    let brace = body.iter().position(|byte| *byte == b'{')?;
    let mut named = body[..=brace].to_vec();
    named.extend_from_slice(format!(r#""model":"{model}""#).as_bytes());
    if first.is_some() {
        named.push(b',');
    }
    named.extend_from_slice(&body[brace + 1..]);
    Some(named.into())
}

/// Returns the body without its first field, which is the model.
fn without_model(body: &Bytes) -> Bytes {
    let Some(Ok(model)) = Fields::open(body).and_then(|mut fields| fields.next()) else {
        return body.clone();
    };
    let mut rest = &body[model.span.end..];
    if let Some(more) = rest.strip_prefix(b",") {
        rest = more;
    }
    [&body[..model.span.start], rest].concat().into()
}

fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.parse().ok()?);
    Uri::from_parts(parts).ok()
}
