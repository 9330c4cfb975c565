//! Names of models that are empty, mistyped, unknown or doubled, in the settings and in requests.

use tower::Layer;
use tower_claude_core::RequestBody;
use tower_claude_fallback_model::FallbackModelLayer;
use tower_claude_tests::{EventLog, post};

use crate::api::*;

const TYPO: &str = "claude-sonet-5-5";

/// Returns an API that knows the models of these tests.
fn api() -> Api {
    Api::by_model(|model| match model {
        OPUS | SONNET | HAIKU => Reply::fine(),
        _ => Reply::no_model(),
    })
}

/// Sends a request for this model. Returns the status, and the models that were asked.
async fn ask(layer: &FallbackModelLayer, api: &Api, model: &str) -> (u16, Vec<String>) {
    api.forget();
    let answer = send(&layer.layer(api.clone()), asking(model, "")).await;
    (answer.expect("a response").status, api.models())
}

#[tokio::test(start_paused = true)]
async fn mistyped_model_gets_the_404_of_the_api() {
    let (layer, events) = layer();
    let api = api();
    for name in [
        TYPO,
        "claude-sonnet-5-5 ",
        "Claude-Opus-5-5",
        "claude-opus-99",
        "my-deployment",
    ] {
        for _ in 0..5 {
            let (status, asked) = ask(&layer, &api, name).await;
            assert_eq!((status, asked), (404, vec![name.to_owned()]));
        }
    }
    assert_eq!(events.take(), [""; 0]);
    let targets = layer.handle().snapshot().targets;
    assert_eq!(
        targets.len(),
        2,
        "nothing is kept of the names: {targets:?}"
    );
    assert!(targets.iter().all(|target| target.cool_down.is_none()));
}

#[tokio::test(start_paused = true)]
async fn retired_model_of_the_catalog_is_answered_by_a_stand_in() {
    for name in ["claude-opus-4-20250514", "claude-3-opus-20240229"] {
        let (layer, _) = layer();
        let (status, asked) = ask(&layer, &api(), name).await;
        assert_eq!(
            (status, asked),
            (200, vec![name.to_owned(), SONNET.to_owned()])
        );
    }
}

/// A model that the catalog does not list yet, or of a gateway, is retired later.
#[tokio::test(start_paused = true)]
async fn unlisted_model_that_was_served_before_is_answered_by_a_stand_in() {
    let (layer, _) = layer();
    let mut calls = 0;
    let api = Api::by_model(move |model| {
        calls += usize::from(model != SONNET);
        match model {
            SONNET => Reply::fine(),
            _ if calls == 1 => Reply::fine(),
            _ => Reply::no_model(),
        }
    });
    assert_eq!(ask(&layer, &api, "my-deployment").await.0, 200);
    let (status, asked) = ask(&layer, &api, "my-deployment").await;
    assert_eq!((status, asked.len()), (200, 2));
    assert_eq!(ask(&layer, &api, TYPO).await.0, 404, "another name");
}

/// The success comes while another model is out, so that the call has its full state.
#[tokio::test(start_paused = true)]
async fn success_during_an_outage_of_another_model_counts() {
    let (layer, _) = layer();
    let down = Api::by_model(|model| match model {
        OPUS => Reply::overloaded(),
        _ => Reply::fine(),
    });
    ask(&layer, &down, OPUS).await;
    assert_eq!(ask(&layer, &down, "my-deployment").await.0, 200);
    let (status, asked) = ask(&layer, &api(), "my-deployment").await;
    assert_eq!((status, asked.len()), (200, 2));
}

#[tokio::test(start_paused = true)]
async fn unlisted_model_that_is_overloaded_is_answered_by_a_stand_in() {
    let (layer, _) = layer();
    let down = Api::by_model(|model| match model {
        SONNET => Reply::fine(),
        _ => Reply::overloaded(),
    });
    assert_eq!(ask(&layer, &down, "my-deployment").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn served_names_are_bounded() {
    let (layer, _) = layer();
    let fine = Api::by_model(|_| Reply::fine());
    for number in 0..1_200 {
        assert_eq!(ask(&layer, &fine, &format!("model-{number}")).await.0, 200);
    }
    let gone = Api::by_model(|model| match model {
        SONNET => Reply::fine(),
        _ => Reply::no_model(),
    });
    let mut remembered = 0;
    for number in 0..1_200 {
        let (status, _) = ask(&layer, &gone, &format!("model-{number}")).await;
        remembered += usize::from(status == 200);
    }
    // Each 404 that a stand-in mends counts as a failure, which keeps the name of the model.
    assert_eq!(remembered, 1_024);
}

#[tokio::test(start_paused = true)]
async fn empty_and_doubtful_stand_ins_are_reported_once() {
    let events = EventLog::default();
    let layer = FallbackModelLayer::new(["", " \t", " claude-sonet-5-5 ", HAIKU, HAIKU, OPUS])
        .with_chain("", [SONNET])
        .with_chain("claude-opus-4-1", [SONNET])
        .with_observer(events.clone());
    let down = Api::by_model(|model| match model {
        HAIKU => Reply::fine(),
        TYPO => Reply::no_model(),
        _ => Reply::overloaded(),
    });
    let _ = (layer.layer(down.clone()), layer.clone().layer(down.clone()));
    let doubtful = |model: &str, because: &str| {
        format!(
            "DoubtfulModel {{ layer: \"fallback-model\", model: {model:?}, because: {because:?} }}"
        )
    };
    assert_eq!(
        events.take(),
        [doubtful("", "empty"), doubtful(TYPO, "unknown")]
    );
    let (status, asked) = ask(&layer, &down, SONNET).await;
    assert_eq!(
        (status, asked),
        (200, vec![SONNET.into(), TYPO.into(), HAIKU.into()])
    );
    assert!(
        !events
            .take()
            .iter()
            .any(|line| line.starts_with("Doubtful"))
    );
}

#[tokio::test(start_paused = true)]
async fn lists_without_another_model_fall_back_to_nothing() {
    for list in [vec![], vec![""], vec![" ", ""], vec![OPUS], vec!["", OPUS]] {
        let layer = FallbackModelLayer::new(list);
        let down = Api::by_model(|_| Reply::overloaded());
        let (status, asked) = ask(&layer, &down, OPUS).await;
        assert_eq!((status, asked), (529, vec![OPUS.to_owned()]));
    }
}

/// The API answers for the request. A stand-in would hide the mistake.
#[tokio::test(start_paused = true)]
async fn request_without_a_usable_model_passes_through() {
    for body in [
        r#"{"max_tokens":64,"messages":[]}"#,
        r#"{"model":"","max_tokens":64,"messages":[]}"#,
        r#"{"model":"  ","max_tokens":64,"messages":[]}"#,
        r#"{"model":null,"max_tokens":64,"messages":[]}"#,
        r#"{"model":7,"max_tokens":64,"messages":[]}"#,
        r#"{"model":["claude-opus-5-5"],"max_tokens":64,"messages":[]}"#,
        "claude-opus-5-5",
        "",
    ] {
        for status in [529, 404, 400] {
            let (layer, events) = layer();
            let api = Api::by_model(move |_| match status {
                404 => Reply::no_model(),
                _ => Reply::error(status, "api_error"),
            });
            let request: http::Request<RequestBody> = post("http://localhost", body);
            let answer = send(&layer.layer(api.clone()), request)
                .await
                .expect("a response");
            assert_eq!((answer.status, api.seen().len()), (status, 1), "{body}");
            assert_eq!(events.take(), [""; 0]);
        }
    }
}
