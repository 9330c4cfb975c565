//! Cool-downs and probes: the layer stays with a stand-in during an outage, and returns once.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::time::sleep;
use tower::Layer;
use tower_claude_core::{Call, Kind};
use tower_claude_fallback_model::FallbackModelLayer;

use crate::api::*;

/// An API whose Opus is overloaded while the switch is true.
fn switched() -> (Api, Arc<AtomicBool>) {
    let down = Arc::new(AtomicBool::new(true));
    let is_down = down.clone();
    let api = Api::by_model(move |model| {
        if model == OPUS && is_down.load(Ordering::Relaxed) {
            Reply::overloaded()
        } else {
            Reply::fine()
        }
    });
    (api, down)
}

#[tokio::test(start_paused = true)]
async fn model_that_is_out_is_skipped_and_probed_and_returns_once() {
    let (api, down) = switched();
    let (layer, events) = layer();
    for _ in 0..3 {
        assert_eq!(through(&layer, &api).await.by(), SONNET);
    }
    assert_eq!(
        events
            .lines()
            .iter()
            .filter(|line| line.starts_with("opened"))
            .count(),
        1
    );
    api.forget();
    // Ten minutes, a request a second: 30 s, then 60, 120, 240 …
    for _ in 0..600 {
        let answer = through(&layer, &api).await;
        assert_eq!((answer.status, answer.by()), (200, SONNET));
        sleep(SECOND).await;
    }
    let probes = api.models().iter().filter(|model| *model == OPUS).count();
    assert!((3..=5).contains(&probes), "{probes}");
    let unasked = events
        .lines()
        .iter()
        .filter(|line| line.ends_with("unasked"))
        .count();
    assert_eq!(unasked, 600 - probes);
    assert!(
        layer
            .handle()
            .snapshot()
            .targets
            .iter()
            .any(|target| &*target.model == OPUS && target.is_out())
    );
    // One probe succeeds, and all requests return at once.
    down.store(false, Ordering::Relaxed);
    sleep(400 * SECOND).await;
    api.forget();
    for _ in 0..50 {
        assert_eq!(through(&layer, &api).await.by(), "");
        sleep(SECOND).await;
    }
    assert_eq!(api.models(), [OPUS; 50]);
    let closed = events
        .lines()
        .iter()
        .filter(|line| line.starts_with("closed"))
        .count();
    assert_eq!(closed, 1);
}

#[tokio::test(start_paused = true)]
async fn failures_and_cool_down_can_be_set() {
    let (api, down) = switched();
    let layer = FallbackModelLayer::new([SONNET])
        .with_failures(NonZeroU32::MIN, SECOND)
        .with_cool_down(5 * SECOND, 5 * SECOND);
    through(&layer, &api).await;
    through(&layer, &api).await;
    assert_eq!(api.models(), [OPUS, SONNET, SONNET]);
    down.store(false, Ordering::Relaxed);
    // 20 % longer than set at most.
    sleep(6 * SECOND).await;
    assert_eq!(through(&layer, &api).await.by(), "");
}

#[tokio::test(start_paused = true)]
async fn response_for_a_skipped_model_names_the_reason() {
    let (api, _) = switched();
    let (layer, _) = layer();
    for _ in 0..3 {
        through(&layer, &api).await;
    }
    let answer = through(&layer, &api).await;
    let served = answer.served().unwrap();
    assert_eq!((served.why.kind, served.hops), (Kind::Overloaded, 1));
    // Requests for another model are not affected.
    let answer = send(&layer.layer(api.clone()), asking(HAIKU, ""))
        .await
        .unwrap();
    assert_eq!(answer.by(), "");
}

/// Sonnet is slow to fail, and Opus is probed before Haiku is tried.
#[tokio::test(start_paused = true)]
async fn reason_is_the_latest_failure_of_the_model_asked_for() {
    let (layer, _) = layer();
    for _ in 0..3 {
        through(&layer, &opus(Reply::overloaded())).await;
    }
    let api = both(
        Reply::error(500, "api_error"),
        Reply::overloaded().after(60 * SECOND),
    );
    let answer = through(&layer, &api).await;
    assert_eq!(api.models(), [SONNET, OPUS, HAIKU]);
    assert_eq!(answer.served().unwrap().why.kind, Kind::ServerError);
}

/// Without another stand-in, an inner retry layer may repeat a probe.
#[tokio::test(start_paused = true)]
async fn probe_is_marked_only_if_another_model_can_take_over() {
    for (chain, more, is_probe) in [
        (&[SONNET, HAIKU][..], "", true),
        (
            &[SONNET, "claude-haiku-4-5"],
            r#","inference_geo":"us""#,
            false,
        ),
        (&[SONNET], "", false),
    ] {
        let layer = layer().0.with_chain(OPUS, chain);
        let overloaded = opus(Reply::overloaded());
        for _ in 0..3 {
            through(&layer, &overloaded).await;
        }
        let slow = Reply::overloaded().after(60 * SECOND);
        let api = both(Reply::fine(), slow);
        let answer = send(&layer.layer(api.clone()), asking(OPUS, more)).await;
        assert_eq!(answer.unwrap().by(), "");
        assert_eq!(api.models(), [SONNET, OPUS]);
        let seen = &api.seen()[1];
        let context = seen.extensions.get::<Arc<Call>>().unwrap();
        assert_eq!(context.is_probe(), is_probe, "{chain:?}");
    }
}

/// One process with two keys: each has limits of its own.
#[tokio::test(start_paused = true)]
async fn rate_limit_counts_for_one_credential() {
    let api = opus(Reply::rate_limited("5"));
    let (layer, events) = layer();
    for _ in 0..3 {
        through(&layer, &api).await;
    }
    let opened = "opened messages/opus-5.5 rate_limited".to_owned();
    assert!(events.lines().contains(&opened), "{:?}", events.lines());
    assert_eq!(layer.handle().snapshot().pools.len(), 1);
    api.forget();
    assert_eq!(through(&layer, &api).await.by(), SONNET);
    assert_eq!(api.models(), [SONNET]);
    let mut other = request();
    other
        .headers_mut()
        .insert("x-api-key", "other".parse().unwrap());
    send(&layer.layer(api.clone()), other).await.unwrap();
    assert_eq!(api.models(), [SONNET, OPUS, SONNET]);
}

/// The fast mode of Opus 5 and its standard requests have separate limits.
#[tokio::test(start_paused = true)]
async fn fast_stand_in_uses_the_limits_of_its_fast_mode() {
    let second = "claude-opus-5";
    let api = Api::by_model(move |model| match model {
        OPUS => Reply::overloaded(),
        model if model == second => Reply::rate_limited("60"),
        _ => Reply::fine(),
    });
    let layer = layer().0.with_chain(OPUS, [second, HAIKU]);
    let service = layer.layer(api.clone());
    let fast = || asking(OPUS, r#","speed":"fast""#);
    for _ in 0..4 {
        send(&service.clone(), fast()).await.unwrap();
    }
    api.forget();
    send(&service.clone(), fast()).await.unwrap();
    assert_eq!(api.models(), [HAIKU]);
    api.forget();
    send(&service.clone(), asking(second, "")).await.unwrap();
    assert_eq!(api.models()[0], second);
    // Haiku has no fast mode, and the request does not ask for it.
    let limited = Api::by_model(|model| match model {
        HAIKU => Reply::rate_limited("60"),
        _ => Reply::overloaded(),
    });
    for _ in 0..4 {
        let answer = send(&layer.layer(limited.clone()), fast()).await;
        assert!(answer.unwrap().status >= 429);
    }
    api.forget();
    send(&service, asking(HAIKU, "")).await.unwrap();
    assert_eq!(
        api.models(),
        [SONNET],
        "standard requests of Haiku are limited"
    );
}

/// The model may be missing, or a file that the request names.
#[tokio::test(start_paused = true)]
async fn not_found_counts_only_after_another_model_served() {
    let (layer, _) = layer();
    let missing = Api::by_model(|_| Reply::no_model());
    for _ in 0..5 {
        let answer = through(&layer, &missing).await;
        assert_eq!((answer.status, answer.by()), (404, HAIKU));
    }
    assert_eq!(missing.models().len(), 15);
    let retired = both(Reply::no_model(), Reply::no_model());
    for _ in 0..4 {
        assert_eq!(through(&layer, &retired).await.by(), HAIKU);
    }
    let opus = || vec![OPUS, SONNET, HAIKU];
    assert_eq!(
        retired.models(),
        [opus(), opus(), opus(), vec![HAIKU]].concat()
    );
}

/// A 404 shows that the limits which both models share have room.
#[tokio::test(start_paused = true)]
async fn not_found_on_a_probe_frees_the_shared_rate_group() {
    let (gone, next) = ("claude-opus-4-8", "claude-opus-4-7");
    let layer = FallbackModelLayer::new([next]);
    let limited = Api::by_model(|_| Reply::rate_limited("5"));
    for _ in 0..3 {
        let answer = send(&layer.layer(limited.clone()), asking(gone, "")).await;
        assert_eq!(answer.unwrap().status, 429);
    }
    sleep(60 * SECOND).await;
    let api = Api::by_model(move |model| match model {
        model if model == gone => Reply::no_model(),
        _ => Reply::fine(),
    });
    let answer = send(&layer.layer(api.clone()), asking(gone, "")).await;
    assert_eq!(answer.unwrap().by(), next);
    assert_eq!(api.models(), [gone, next]);
}

/// The table keeps up to 1,024 names, and a name could be as long as a body.
#[tokio::test(start_paused = true)]
async fn model_name_over_1024_bytes_is_not_kept() {
    let (layer, _) = layer();
    let api = Api::by_model(|model| match model {
        SONNET => Reply::fine(),
        _ => Reply::overloaded(),
    });
    for (length, status) in [(1_024, 200), (1_025, 529)] {
        let request = asking(&"x".repeat(length), "");
        let answer = send(&layer.layer(api.clone()), request).await.unwrap();
        assert_eq!(answer.status, status);
    }
    let targets = layer.handle().snapshot().targets;
    assert!(targets.iter().all(|target| target.model.len() <= 1_024));
    assert_eq!(targets.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn all_models_out_uses_the_soonest() {
    let api = Api::by_model(|model| {
        let reply = Reply::overloaded();
        if model == SONNET {
            reply
        } else {
            reply.header("retry-after", "600")
        }
    });
    let (layer, _) = layer();
    for _ in 0..3 {
        through(&layer, &api).await;
    }
    api.forget();
    let answer = through(&layer, &api).await;
    assert_eq!(
        (answer.status, api.models()),
        (529, vec![SONNET.to_owned()])
    );
}

/// If the caller of a probe leaves, the next request probes.
#[tokio::test(start_paused = true)]
async fn dropped_probe_is_given_back() {
    let slow = Arc::new(AtomicBool::new(false));
    let is_slow = slow.clone();
    let api = Api::by_model(move |model| match model {
        OPUS if is_slow.load(Ordering::Relaxed) => Reply::never(),
        OPUS => Reply::overloaded(),
        _ => Reply::fine(),
    });
    let (layer, events) = layer();
    for _ in 0..3 {
        through(&layer, &api).await;
    }
    sleep(60 * SECOND).await;
    slow.store(true, Ordering::Relaxed);
    for round in 1..=3 {
        let call = through(&layer, &api);
        assert!(tokio::time::timeout(SECOND, call).await.is_err());
        let probes = events
            .lines()
            .iter()
            .filter(|line| line.starts_with("probe"))
            .count();
        assert_eq!(probes, round);
    }
}

/// An inner layer keeps its own state of outages.
#[tokio::test(start_paused = true)]
async fn local_rejections_start_no_cool_down() {
    let class = tower_claude_core::Class::new(Kind::Overloaded).into_local();
    let api = opus(Reply::overloaded().extension(class));
    let (layer, _) = layer();
    for _ in 0..10 {
        assert_eq!(through(&layer, &api).await.by(), SONNET);
    }
    assert_eq!(api.models().len(), 20);
    assert!(
        layer
            .handle()
            .snapshot()
            .targets
            .iter()
            .all(|target| target.cool_down.is_none())
    );
}
