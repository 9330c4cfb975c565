//! The layer over scripted services.

mod answers;
mod authorizing;
mod routing;

use tower_claude_cloud::{Bearer, CloudLayer};
use tower_claude_tests::{FrameBody, Received, Reply, Script, prompt};
use tower_claude_wire::cloud::{Profile, Target};
use tower_layer::Layer;

pub(crate) const OPUS: &str = "claude-opus-5-5";

pub(crate) fn vertex() -> Target {
    Target::vertex("project", "us-east5").expect("a target")
}

pub(crate) fn bedrock_messages() -> Target {
    Target::bedrock_messages("us-east-1").expect("a target")
}

pub(crate) fn invoke_model() -> Target {
    let target = Target::bedrock("us-east-1").expect("a target");
    target.with_profile(Profile::Us).expect("a target")
}

pub(crate) fn bearer(token: &str) -> Bearer {
    Bearer::fixed(token).expect("a token")
}

pub(crate) fn request(stream: bool) -> http::Request<FrameBody> {
    tower_claude_tests::post(
        tower_claude_tests::BASE,
        FrameBody::full(prompt(OPUS, stream)),
    )
}

/// Marks a request for a target, as the spread layer does.
pub(crate) fn marked(target: &Target, stream: bool) -> http::Request<FrameBody> {
    let mut request = request(stream);
    request.extensions_mut().insert(target.clone());
    request
}

/// Sends a request, and reads the response to its end.
pub(crate) async fn send(
    layer: &CloudLayer,
    script: &Script,
    request: http::Request<FrameBody>,
) -> Received<tower_claude_tests::Broken> {
    let service = layer.layer(script.clone());
    let response = tower_claude_tests::serve(&service, request).await;
    Received::read(response.expect("a response")).await
}

/// Returns the answer of a target to one request.
pub(crate) async fn answer(
    target: Target,
    stream: bool,
    reply: Reply,
) -> Received<tower_claude_tests::Broken> {
    let layer = CloudLayer::new().with_open_default_target(target);
    send(&layer, &Script::always(reply), request(stream)).await
}
