//! Inner services with a lifetime.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::ServiceExt;
use tower_layer::Layer;
use tower_service::Service;

use super::request;
use crate::{Borrowed, Broken, FrameBody, Received, Reply, Script, clock::in_time, paused};

/// Checks that the layer accepts an inner service of any lifetime. A
/// `reqwest_middleware::Middleware` made of a layer needs this bound.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn serves_a_borrowed_service<L, R>(layer: impl Fn() -> L)
where
    L: for<'a> Layer<Borrowed<'a>>,
    for<'a> <L as Layer<Borrowed<'a>>>::Service:
        Service<Request<FrameBody>, Response = Response<R>, Error = Broken>,
    R: Body<Data = Bytes, Error = Broken> + Unpin,
{
    paused(async {
        let layer = layer();
        for number in 0..3 {
            let script = Script::always(Reply::message());
            let name = number.to_string();
            let next = Borrowed::new(script.clone(), &name);
            let response = in_time(layer.layer(next).oneshot(request())).await;
            let answer = in_time(Received::read(response.expect("served"))).await;
            assert_eq!(answer.status, 200);
            assert_eq!(script.calls(), 1);
        }
    });
}
