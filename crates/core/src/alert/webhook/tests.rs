use std::{
    collections::VecDeque,
    future::{Future, ready},
    num::{NonZeroU32, NonZeroUsize},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, Uri};
use serde_json::Value;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    AttemptResult, Step, Webhook, WebhookSecret, WebhookSink, message::Message, next_step,
};
use crate::{
    BoxError, RequestBody,
    alert::{Alert, AlertKind, AlertSink},
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn webhook() -> Webhook {
    let url = Uri::from_static("https://hooks.example.com/secret-path");
    Webhook::new(url, WebhookSecret::new(SECRET).expect("it is a secret"))
}

fn alert(subject: &str, raised: bool) -> Alert {
    Alert {
        kind: AlertKind::KeyRejected,
        raised,
        subject: subject.into(),
        dimension: None,
        value: 1.0,
        since: Instant::now(),
        message: format!("{subject}: the API does not accept the key (401)"),
    }
}

/// A request as the receiver gets it: id, subject, and true if the alert is raised.
type Received = (String, String, bool);

/// A receiver that answers with these statuses, then with 200. 0 is an error of the client, and 1
/// never answers.
#[derive(Clone, Default)]
struct Receiver {
    statuses: Arc<Mutex<VecDeque<u16>>>,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    fn answering(statuses: impl IntoIterator<Item = u16>) -> Self {
        let receiver = Self::default();
        receiver.statuses.lock().unwrap().extend(statuses);
        receiver
    }

    fn subjects(&self) -> Vec<(String, bool)> {
        let received = self.received.lock().unwrap();
        let subjects = received.iter().cloned();
        subjects
            .map(|(_, subject, raised)| (subject, raised))
            .collect()
    }
}

impl Service<Request<RequestBody>> for Receiver {
    type Response = Response<()>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let header = |name: &str| {
            let value = request.headers()[name].to_str();
            value.expect("it is a text").to_owned()
        };
        let body = request.body().bytes().expect("it is buffered");
        let text = std::str::from_utf8(body).expect("it is a text");
        let timestamp = header("webhook-timestamp").parse().expect("it is a number");
        let secret = WebhookSecret::new(SECRET).expect("it is a secret");
        let id = header("webhook-id");
        let signature = secret.sign(&id, timestamp, text);
        assert_eq!(header("webhook-signature"), signature);
        let body: Value = serde_json::from_str(text).expect("it is JSON");
        let subject = body["data"]["subject"].as_str().expect("it has a subject");
        let raised = body["type"] == "alert.raised";
        let received = (id, subject.to_owned(), raised);
        self.received.lock().unwrap().push(received);
        match self.statuses.lock().unwrap().pop_front().unwrap_or(200) {
            0 => Box::pin(ready(Err("connection refused".into()))),
            1 => Box::pin(std::future::pending()),
            status => {
                let response = Response::builder()
                    .status(status)
                    .header("retry-after", "7");
                Box::pin(ready(Ok(response.body(()).expect("it is valid"))))
            }
        }
    }
}

/// Starts a sender to this receiver.
fn start(webhook: Webhook, receiver: &Receiver) -> WebhookSink {
    let (sink, sender) = webhook.start(receiver.clone());
    tokio::spawn(sender.run());
    sink
}

/// Waits until all messages are sent or lost.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(3_600)).await;
}

#[test]
fn signature_equals_that_of_the_reference() {
    let secret = WebhookSecret::new(SECRET).expect("it is a secret");
    let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    let signature = secret.sign(id, 1_614_265_330, r#"{"test": 2432232314}"#);
    assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

#[test]
fn secret_is_base64_of_some_length_and_never_shown() {
    for text in ["", "whsec_", "secret", "whsec_c2hvcnQ=", "whsec_!!!"] {
        assert!(WebhookSecret::new(text).is_err(), "{text:?}");
    }
    let shown = format!("{:?}", webhook());
    assert!(shown.contains("hooks.example.com"), "{shown}");
    for hidden in ["MfKQ9r8G", "secret-path"] {
        assert!(!shown.contains(hidden), "{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn message_has_the_fields_of_the_alert() {
    let now = Instant::now();
    let alert = alert("messages/sonnet-5.5", true);
    let at = std::time::UNIX_EPOCH + Duration::from_secs(1_796_000_000);
    let later = now + Duration::from_secs(60);
    let to = webhook();
    let request = Message::of(&alert, later, at, 7).request(&to.url, &to.secret, at);
    assert_eq!(request.method(), "POST");
    assert_eq!(request.uri().path(), "/secret-path");
    let headers = request.headers();
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(
        headers["webhook-id"],
        "msg_00000000000000000000000000000007"
    );
    assert_eq!(headers["webhook-timestamp"], "1796000000");
    let body = request.body().bytes().expect("it is buffered");
    let body: Value = serde_json::from_slice(body).expect("it is JSON");
    let expected = serde_json::json!({
        "type": "alert.raised",
        "timestamp": "2026-11-30T00:53:20Z",
        "data": {
            "alert": "ClaudeKeyRejected",
            "severity": "critical",
            "subject": "messages/sonnet-5.5",
            "dimension": null,
            "value": 1.0,
            "since": "2026-11-30T00:52:20Z",
            "message": "messages/sonnet-5.5: the API does not accept the key (401)",
            "help": "Replace the key. No retry helps.",
        },
    });
    assert_eq!(body, expected);
}

#[tokio::test(start_paused = true)]
async fn failed_attempts_are_repeated_with_the_same_id() {
    let receiver = Receiver::answering([429, 503, 0, 1]);
    let sink = start(webhook(), &receiver);
    sink.on_alert(&alert("a", true));
    sink.on_alert(&alert("b", true));
    settle().await;
    let received = receiver.received.lock().unwrap();
    let subjects: Vec<_> = received.iter().map(|(_, subject, _)| &**subject).collect();
    assert_eq!(subjects, ["a", "a", "a", "a", "a", "b"]);
    assert!(received[..5].iter().all(|(id, ..)| *id == received[0].0));
    assert_ne!(received[5].0, received[0].0);
    assert_eq!(sink.lost(), 0);
}

#[tokio::test(start_paused = true)]
async fn message_is_lost_after_the_last_attempt_or_a_final_answer() {
    let receiver = Receiver::answering([500, 500, 500, 404, 302]);
    let attempts = NonZeroU32::new(3).expect("not zero");
    let sink = start(webhook().with_max_attempts(attempts), &receiver);
    for subject in ["a", "b", "c", "d"] {
        sink.on_alert(&alert(subject, true));
    }
    settle().await;
    let subjects = receiver.subjects();
    let subjects: Vec<_> = subjects.iter().map(|(subject, _)| &**subject).collect();
    assert_eq!(subjects, ["a", "a", "a", "b", "c", "d"]);
    assert_eq!(sink.lost(), 3);
}

#[tokio::test(start_paused = true)]
async fn state_of_an_alert_is_sent_once() {
    let receiver = Receiver::default();
    let sink = start(webhook(), &receiver);
    for raised in [false, true, true, false, false, true] {
        sink.clone().on_alert(&alert("a", raised));
    }
    sink.on_alert(&alert("b", true));
    settle().await;
    let expected = [("a", true), ("a", false), ("a", true), ("b", true)];
    assert_eq!(
        receiver.subjects(),
        expected.map(|(subject, raised)| (subject.to_owned(), raised))
    );
}

#[tokio::test(start_paused = true)]
async fn full_queue_drops_alerts_without_waiting_and_sends_them_when_raised_again() {
    let receiver = Receiver::answering([1]);
    let capacity = NonZeroUsize::new(2).expect("not zero");
    let sink = start(webhook().with_capacity(capacity), &receiver);
    sink.on_alert(&alert("a", true));
    tokio::task::yield_now().await;
    for subject in ["b", "c", "d", "e"] {
        sink.on_alert(&alert(subject, true));
    }
    assert_eq!(sink.lost(), 2, "one is being sent and two wait");
    settle().await;
    sink.on_alert(&alert("b", true));
    sink.on_alert(&alert("d", true));
    settle().await;
    let subjects = receiver.subjects();
    let subjects: Vec<_> = subjects.iter().map(|(subject, _)| &**subject).collect();
    assert_eq!(subjects, ["a", "a", "b", "c", "d"]);
}

#[tokio::test(start_paused = true)]
async fn sender_ends_with_the_last_sink() {
    let receiver = Receiver::default();
    let (sink, sender) = webhook().start(receiver.clone());
    sink.on_alert(&alert("a", true));
    drop(sink);
    sender.run().await;
    assert_eq!(receiver.subjects(), [("a".to_owned(), true)]);
}

#[test]
fn wait_doubles_up_to_a_minute_and_is_no_shorter_than_retry_after() {
    let after = |attempt, jitter| match next_step(&AttemptResult::Failed, attempt, 100, jitter) {
        Step::Wait(time) => time.as_secs_f64(),
        step => panic!("{step:?}"),
    };
    assert_eq!(
        [1, 2, 3, 6, 7, 99].map(|attempt| after(attempt, 0.0)),
        [1.0, 2.0, 4.0, 32.0, 60.0, 60.0]
    );
    assert_eq!(after(3, 1.0), 2.0);
    for (seconds, expected) in [(20, 20), (0, 1), (86_400, 300)] {
        let limited = AttemptResult::Answered {
            status: http::StatusCode::TOO_MANY_REQUESTS,
            retry_after: Some(Duration::from_secs(seconds)),
        };
        let step = next_step(&limited, 1, 2, 0.0);
        assert_eq!(step, Step::Wait(Duration::from_secs(expected)));
        assert_eq!(next_step(&limited, 2, 2, 0.0), Step::Lost);
    }
}
