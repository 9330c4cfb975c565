//! State is shared by all services of a layer, and no call blocks another.

use std::fmt::Debug;

use futures_util::future::join_all;

use super::{Subject, request};
use crate::{Received, Reply, Script, clock::in_time, paused, serve};

/// Checks at compile time that the layer is a [`Subject`].
pub fn auto_traits<L: Subject>(layer: impl Fn() -> L) {
    drop(layer);
}

/// Checks that each call changes the result of `observe`, through any service of the layer or of
/// its clones. axum makes services again and again, per route and per request.
///
/// `reply` is the response of the inner service, and must change the state.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn state_is_shared<L, T>(layer: impl Fn() -> L, observe: impl Fn(&L) -> T, reply: &Reply)
where
    L: Subject,
    T: PartialEq + Debug,
{
    paused(async {
        let layer = layer();
        let copy = layer.clone();
        let script = Script::new((0..8_u32).map(|call| with_headroom(reply, call)));
        let first = layer.layer(script.clone());
        assert_eq!(
            observe(&layer),
            observe(&layer),
            "the state must stay as it is when it is only looked at"
        );
        let services = [
            ("a service", first.clone()),
            ("a clone of that service", first.clone()),
            (
                "the service of a second layer() call",
                layer.layer(script.clone()),
            ),
            ("a service of the layer's clone", copy.layer(script.clone())),
        ];
        for (name, service) in services {
            let before = observe(&layer);
            if let Ok(response) = serve(&service, request()).await {
                let _ = in_time(Received::read(response)).await;
            }
            let after = observe(&layer);
            assert_ne!(
                before, after,
                "a call through {name} did not change the layer's state: it is not shared"
            );
            let seen = observe(&copy);
            assert_eq!(after, seen, "the layer's clone has a state of its own");
        }
    });
}

/// Adds rate-limit headers that differ from call to call.
fn with_headroom(reply: &Reply, call: u32) -> Reply {
    let mut reply = reply.clone();
    for (name, limit) in [
        ("requests", 1_000),
        ("input-tokens", 900_000),
        ("output-tokens", 800_000),
    ] {
        let header = |suffix: &str| {
            format!("anthropic-ratelimit-{name}-{suffix}")
                .parse()
                .expect("a valid header name")
        };
        reply = reply
            .header(header("limit"), &limit.to_string())
            .header(header("remaining"), &(limit - 100 * (call + 1)).to_string())
            .header(
                header("reset"),
                &format!("2026-11-22T10:00:{:02}Z", call + 10),
            );
    }
    reply.header(http::header::DATE, "Sun, 22 Nov 2026 10:00:00 GMT")
}

/// Checks that four calls run at the same time. The inner service answers only after all four have
/// arrived.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn calls_run_side_by_side<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        let layer = layer();
        let script = Script::always(Reply::message()).together(4);
        let service = layer.layer(script.clone());
        let other = layer.layer(script.clone());
        let calls = [&service, &service, &other, &other].map(|service| serve(service, request()));
        for result in join_all(calls).await {
            assert_eq!(result.expect("served").status(), 200);
        }
    });
}
