//! The content of a rejected request reaches the review hook only through the user's redactor.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{ServiceExt, service_fn};
use tower_claude::recommended;
use tower_claude_core::{
    RequestBody,
    alert::{Alert, AlertObserver, AlertSink},
    event::{AttemptEnd, Event, Observer},
};
use tower_layer::Layer;

use crate::common::{SONNET, request};

const CANARY: &str = "canary-prompt";

/// A sink that keeps what the review hook and all events show.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<String>>>);

impl AlertSink for Kept {
    fn on_alert(&self, alert: &Alert) {
        self.0.lock().unwrap().push(format!("{alert:?}"));
    }

    fn on_rejected_request(&self, end: &AttemptEnd<'_>, redacted: Option<&str>) {
        let shown = format!("{:?} {:?} {redacted:?}", end.status, end.request_id);
        let mut kept = self.0.lock().unwrap();
        kept.push(shown);
        kept.push(format!("{end:?}"));
    }
}

/// The alerts, beside a log of all events as they are.
#[derive(Clone)]
struct WithEvents(AlertObserver, Kept);

impl Observer for WithEvents {
    fn on_event(&self, event: &Event<'_>) {
        self.1.0.lock().unwrap().push(format!("{event:?}"));
        self.0.on_event(event);
    }

    fn wants_rejected_requests(&self) -> bool {
        self.0.wants_rejected_requests()
    }

    fn on_rejected_request(&self, end: &AttemptEnd<'_>, body: Option<&[u8]>) {
        self.0.on_rejected_request(end, body);
    }
}

/// Sends a request with the canary in prompt and key. The server answers with this status. Returns
/// all that was shown.
async fn shown(alerts: AlertObserver, status: u16) -> Vec<String> {
    let kept = Kept::default();
    let alerts = alerts.with_sink(kept.clone());
    let server = service_fn(move |_: Request<RequestBody>| async move {
        let error = r#"{"type":"error","error":{"type":"some_error","message":"no"}}"#;
        let response = Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .header("request-id", "req_9");
        Ok::<_, Infallible>(response.body(Full::new(Bytes::from(error))).expect("valid"))
    });
    let layer = recommended().with_observer(WithEvents(alerts, kept.clone()));
    let mut sent = request(SONNET, false);
    let key = "canary-prompt-key".parse().expect("a header value");
    sent.headers_mut().insert("x-api-key", key);
    let body = format!(
        r#"{{"model":"{SONNET}","max_tokens":9,"messages":[{{"role":"user","content":"{CANARY}"}}]}}"#
    );
    let sent = sent.map(|_| RequestBody::from(body));
    let response = layer.layer(server).oneshot(sent).await.expect("an answer");
    assert_eq!(response.status(), status);
    drop(response);
    let kept = kept.0.lock().unwrap();
    kept.clone()
}

fn texts(shown: &[String]) -> Vec<&str> {
    let texts = shown.iter().map(String::as_str);
    texts
        .filter(|text| text.contains("req_9") && text.starts_with("Some"))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn without_redactor_no_content_is_shown_and_no_body_asked_for() {
    assert!(!AlertObserver::new().wants_rejected_requests());
    for status in [400, 403] {
        let shown = shown(AlertObserver::new(), status).await;
        let expected = format!("Some({status}) Some(\"req_9\") None");
        assert_eq!(texts(&shown), [expected]);
        let leaked: Vec<_> = shown.iter().filter(|text| text.contains(CANARY)).collect();
        assert_eq!(leaked, Vec::<&String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn redactor_gets_the_body_and_its_text_alone_is_shown() {
    let redacting = |keeps: bool| {
        AlertObserver::new().with_redactor(move |end, body| {
            let body = String::from_utf8_lossy(body);
            assert!(body.contains(CANARY));
            assert!(!body.contains("canary-prompt-key"), "no headers");
            let model = end.model.unwrap_or_default();
            keeps.then(|| format!("{model}: {}", body.replace(CANARY, "[removed]").len()))
        })
    };
    for status in [400, 403] {
        let shown = shown(redacting(true), status).await;
        let texts = texts(&shown);
        assert_eq!(texts.len(), 1, "once: {texts:?}");
        assert!(
            texts[0].contains(&format!("Some(\"{SONNET}: ")),
            "{texts:?}"
        );
        let leaked: Vec<_> = shown.iter().filter(|text| text.contains(CANARY)).collect();
        assert_eq!(leaked, Vec::<&String>::new());
    }
    let shown = shown(redacting(false), 400).await;
    assert_eq!(texts(&shown), ["Some(400) Some(\"req_9\") None"]);
}

#[tokio::test(start_paused = true)]
async fn other_failures_are_not_redacted() {
    let alerts = AlertObserver::new().with_redactor(|_, _| panic!("it is not called"));
    let shown = shown(alerts, 404).await;
    assert_eq!(texts(&shown), Vec::<&str>::new());
    assert!(shown.iter().any(|text| text.contains("AttemptEnded")));
}
