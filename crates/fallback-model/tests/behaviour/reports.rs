//! The reports of a fallback: headers, events, snapshots.

use tower::Layer;
use tower_claude_core::{Call, Class, Kind};
use tower_claude_fallback_model::{
    FALLBACK_LOSSES, FALLBACK_REASON, FallbackModelLayer, LAST_MESSAGE, SERVED_MODEL, ServedBy,
};

use crate::api::*;

#[tokio::test(start_paused = true)]
async fn fallback_is_reported_by_headers_events_and_snapshot() {
    let api = opus(Reply::overloaded());
    let (layer, events) = layer();
    let layer = layer.with_chain(OPUS, ["claude-haiku-4-5"]);
    let service = layer.layer(api.clone());
    let more = r#","output_config":{"effort":"low"}"#;
    let answer = send(&service, asking(OPUS, more)).await.unwrap();
    let served = answer.served().unwrap();
    assert_eq!((&*served.model, &*served.asked), ("claude-haiku-4-5", OPUS));
    assert_eq!((served.why.kind, served.hops), (Kind::Overloaded, 2));
    assert!(
        served
            .losses
            .iter()
            .any(|loss| loss.field == "output_config.effort"),
        "{served:?}"
    );
    assert_eq!(answer.headers[SERVED_MODEL], "claude-haiku-4-5");
    assert_eq!(answer.headers[FALLBACK_REASON], "overloaded");
    let losses = answer.headers[FALLBACK_LOSSES].to_str().unwrap();
    assert!(
        losses
            .split(',')
            .any(|field| field == "output_config.effort"),
        "{losses}"
    );
    assert_eq!(events.lines(), ["opus -> haiku overloaded"]);
    let snapshot = layer.handle().snapshot();
    let haiku = snapshot
        .targets
        .iter()
        .find(|target| &*target.model == "claude-haiku-4-5");
    assert_eq!(
        haiku.map(|target| (target.served, target.failed)),
        Some((1, 0))
    );
    let opus = snapshot
        .targets
        .iter()
        .find(|target| &*target.model == OPUS)
        .unwrap();
    assert_eq!(
        (opus.why.unwrap().kind, opus.is_out()),
        (Kind::Overloaded, false)
    );
}

/// One layer is in the application, another in the gateway.
#[tokio::test(start_paused = true)]
async fn innermost_of_two_layers_names_the_serving_model() {
    let api = both(Reply::overloaded(), Reply::overloaded());
    let inner = FallbackModelLayer::new([HAIKU]).without_fallback(OPUS);
    let outer = FallbackModelLayer::new([SONNET]);
    let service = outer.layer(inner.layer(api.clone()));
    let answer = send(&service, request()).await.unwrap();
    assert_eq!(api.models(), [OPUS, SONNET, HAIKU]);
    assert_eq!(answer.by(), HAIKU);
    let served = answer.served().unwrap();
    assert_eq!((&*served.model, &*served.asked), (HAIKU, OPUS));
    // A response from another process has headers only.
    let gateway = Reply::fine().header("x-tower-claude-served-model", HAIKU);
    let api = both(Reply::overloaded(), gateway);
    let answer = send(&outer.layer(api), request()).await.unwrap();
    assert_eq!(
        (answer.by(), &*answer.served().unwrap().model),
        (HAIKU, HAIKU)
    );
}

/// The stand-ins are slow to fail, and meanwhile Opus may be probed.
#[tokio::test(start_paused = true)]
async fn model_asked_for_is_not_marked_as_a_stand_in() {
    let (layer, _) = layer();
    for _ in 0..3 {
        through(&layer, &opus(Reply::overloaded())).await;
    }
    let slow = Reply::overloaded().after(60 * SECOND);
    let api = Api::by_model(move |model| match model {
        OPUS => Reply::fine(),
        _ => slow.clone(),
    });
    assert_eq!(through(&layer, &api).await.by(), "");
    assert_eq!(api.models(), [SONNET, OPUS]);
    let targets = layer.handle().snapshot().targets;
    let opus = targets.iter().find(|target| &*target.model == OPUS);
    assert!(opus.is_none_or(|opus| opus.served == 0));
}

/// The layer that rejects reports it, unless another model was tried meanwhile.
#[tokio::test(start_paused = true)]
async fn local_rejection_is_not_reported_again() {
    for (kind, said) in [
        (Kind::RateLimited, &[][..]),
        (
            Kind::Overloaded,
            &[
                "opus -> opus overloaded",
                "opus gave up 2 overloaded targets",
            ],
        ),
    ] {
        let refusal = Class::new(kind).into_local();
        let api = Api::by_model(move |_| Reply::new(529).extension(refusal));
        let (layer, events) = layer();
        let layer = layer.with_chain("claude-opus-4-8", ["claude-opus-4-7"]);
        let request = asking("claude-opus-4-8", "");
        send(&layer.layer(api), request).await.unwrap();
        assert_eq!(events.lines(), said);
    }
}

#[tokio::test(start_paused = true)]
async fn snapshot_counts_calls_of_stand_ins() {
    let (layer, _) = layer();
    through(&layer, &both(Reply::overloaded(), Reply::overloaded())).await;
    let targets = layer.handle().snapshot().targets;
    let counts = targets
        .iter()
        .map(|target| (&*target.model, target.served, target.failed));
    let mut counts: Vec<_> = counts.collect();
    counts.sort_unstable();
    assert_eq!(counts, [(HAIKU, 1, 0), (OPUS, 0, 0), (SONNET, 0, 1)]);
}

#[tokio::test(start_paused = true)]
async fn call_without_fallback_is_not_reported() {
    let api = opus(Reply::fine());
    let (layer, events) = layer();
    let answer = through(&layer, &api).await;
    assert!(answer.served().is_none() && events.lines().is_empty());
    for name in [SERVED_MODEL, FALLBACK_REASON, FALLBACK_LOSSES, LAST_MESSAGE] {
        assert!(!answer.headers.contains_key(name));
    }
    assert!(
        api.seen()[0]
            .extensions
            .get::<std::sync::Arc<Call>>()
            .is_some()
    );
    // Nor if every model fails: no model served the error.
    let api = Api::by_model(|_| Reply::overloaded());
    let answer = through(&layer, &api).await;
    assert_eq!((answer.status, answer.by()), (529, ""));
    assert_eq!(answer.class().kind, Kind::Overloaded);
    assert!(answer.extensions.get::<ServedBy>().is_none());
    assert_eq!(
        events.lines().last().unwrap(),
        "opus gave up 3 overloaded targets"
    );
    assert_eq!(layer.handle().snapshot().exhausted, 1);
}

/// The reader of a 400 must know which model rejected the request.
#[tokio::test(start_paused = true)]
async fn rejection_by_the_last_stand_in_names_it() {
    let api = both(
        Reply::overloaded(),
        Reply::error(400, "invalid_request_error"),
    );
    let (layer, _) = layer();
    let answer = through(&layer, &api).await;
    assert_eq!((answer.status, answer.by()), (200, HAIKU));
    assert_eq!(api.models(), [OPUS, SONNET, HAIKU]);
    let layer = layer.with_chain(OPUS, [SONNET]);
    let answer = through(&layer, &api).await;
    assert_eq!((answer.status, answer.by()), (400, SONNET));
}
