//! The wait of a single user, where no other call has found out before that a model or a host is
//! down.

use std::{io, time::Duration};

use http::{Request, Uri};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::{net::TcpStream, time::Instant};
use tower_claude::{FallbackModelLayer, RequestBody, RetryLayer, recommended};
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits, Incident};
use tower_claude_tests::{
    HAIKU, HOUR, OPUS, SECOND, SONNET, request, request_to, request_with, send,
};
use tower_layer::Layer;

/// Returns a server whose Sonnet has this fault.
fn dead(fault: Fault) -> FakeClaude {
    let dead = Incident::new(Duration::ZERO, HOUR, fault).with_group("sonnet-5.5");
    FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .incident(dead)
        .build()
}

#[tokio::test(start_paused = true)]
async fn first_answer_of_a_stand_in_for_a_dead_model_takes_three_attempts() {
    for fault in [
        Fault::Overloaded,
        Fault::ServerError,
        Fault::Reset,
        Fault::ErrorBeforeContent,
    ] {
        for is_stream in [false, true] {
            let fake = dead(fault.clone());
            let stack = recommended().with_fallback([HAIKU, OPUS]);
            let service = stack.layer(fake.clone());
            let mut waits = Vec::new();
            for _ in 0..4 {
                let start = Instant::now();
                let answer = send(&service, request(SONNET, is_stream)).await;
                assert!(answer.expect("an answer").is_complete(is_stream));
                waits.push(start.elapsed());
            }
            println!("{fault:?}, stream {is_stream}: answers after {waits:.1?}");
            // Waits of about 1 s and 2 s. The second call opens the circuit.
            assert!(waits[0] < 5 * SECOND && waits[1] < 2 * SECOND);
            assert_eq!(waits[2..], [Duration::ZERO; 2]);
        }
    }
}

/// The same with two layers, which are two drivers.
#[tokio::test(start_paused = true)]
async fn retry_layer_inside_a_fallback_layer_hands_over_after_three_attempts() {
    let fake = dead(Fault::Overloaded);
    let service = FallbackModelLayer::new([HAIKU]).layer(RetryLayer::new().layer(fake.clone()));
    let answer = send(&service, request(SONNET, false)).await;
    assert!(answer.expect("an answer").is_complete(false));
    assert!(fake.elapsed() < 5 * SECOND);
    assert_eq!(fake.log_len(), 4);
}

/// No stand-in can take the request, so that the model asked for gets all attempts.
#[tokio::test(start_paused = true)]
async fn request_that_no_stand_in_can_take_is_sent_five_times() {
    let fake = dead(Fault::Overloaded);
    let thread = r#","max_tokens":8,"thread":{"type":"continue","previous_message_id":"msg_1"}"#;
    let stack = || recommended().with_fallback([HAIKU, OPUS]);
    let answer = send(&stack().layer(fake.clone()), request_with(SONNET, thread)).await;
    assert_eq!(answer.expect("a response").status, 529);
    let log = fake.log();
    assert_eq!(log.len(), 5);
    assert!(log.iter().all(|attempt| &*attempt.model == SONNET));
    let wait = log[3].at - log[2].at;
    assert!(wait > 3 * SECOND, "{wait:?}");

    // The fourth attempt is answered. This server knows no threads.
    let fake = dead(Fault::Refusal { after_tokens: 1 });
    fake.inject_times(Fault::Overloaded, 3);
    let service = stack().layer(fake.clone());
    let answer = send(&service, request_with(SONNET, thread)).await;
    let status = answer.expect("a response").status;
    assert_eq!((status, fake.log_len()), (400, 4));
}

/// All stand-ins are at the same host.
#[tokio::test(start_paused = true)]
async fn host_that_refuses_connections_is_reported_after_five_seconds() {
    let client: Client<HttpConnector, RequestBody> =
        Client::builder(TokioExecutor::new()).build(HttpConnector::new());
    // No server listens on this port.
    let request = || request_to("http://127.0.0.1:9", SONNET, false);
    let waited = async |models: &[&str]| {
        let service = recommended().with_fallback(models).layer(client.clone());
        let start = Instant::now();
        assert!(send(&service, request()).await.is_err());
        start.elapsed()
    };
    let (with, without) = (waited(&[HAIKU, OPUS]).await, waited(&[]).await);
    println!("connection refused: {with:.1?} with a fallback, {without:.1?} without");
    assert!(with < 6 * SECOND && without > 10 * SECOND);
}

/// These errors are the same at the next attempt.
#[tokio::test(start_paused = true)]
async fn host_that_can_never_be_reached_is_tried_once_for_each_model() {
    for text in [
        "failed to lookup address information: Name or service not known",
        "invalid peer certificate: UnknownIssuer",
        "invalid peer certificate: Expired",
        "received corrupt message of type InvalidContentType",
    ] {
        let connector = tower::service_fn(move |_: Uri| {
            let error = io::Error::new(io::ErrorKind::InvalidData, text);
            std::future::ready(Err::<TokioIo<TcpStream>, _>(error))
        });
        let client: Client<_, RequestBody> = Client::builder(TokioExecutor::new()).build(connector);
        for (models, attempts) in [(&[][..], 1), (&[HAIKU, OPUS], 3)] {
            let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let count = sent.clone();
            let client = client.clone();
            let counting = tower::service_fn(move |request: Request<RequestBody>| {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                client.request(request)
            });
            let service = recommended().with_fallback(models).layer(counting);
            let start = Instant::now();
            let request = request_to("http://localhost", SONNET, false);
            assert!(send(&service, request).await.is_err());
            let sent = sent.load(std::sync::atomic::Ordering::Relaxed);
            assert_eq!(
                (sent, start.elapsed()),
                (attempts, Duration::ZERO),
                "{text}"
            );
        }
    }
}
