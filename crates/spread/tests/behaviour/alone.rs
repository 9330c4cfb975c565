//! The layer without another one.

use std::time::Duration;

use http::header::HOST;
use tokio::time::Instant;
use tower::ServiceExt;
use tower_claude_core::{
    Call, Deadline, Endpoint, Kind, RejectReason, Rejection, RequestBody, Scope,
    event::{Event, observer_fn},
};
use tower_claude_spread::{Binding, Residency, Route, SpreadLayer, SpreadTarget, ThinkingAccount};
use tower_claude_tests::{EventLog, FrameBody, Reply, post, send_ok, settle, with};
use tower_claude_wire::cloud::{Profile, Target, Unportable};
use tower_layer::Layer;

use crate::common::{
    Clouds, HAIKU, SECOND, ask, ask_again, ask_model, limited, overloaded, target, three, timed,
};

#[tokio::test(start_paused = true)]
async fn request_names_its_target_in_every_way_that_inner_layers_read() {
    let clouds = Clouds::default();
    let service = three().layer(clouds.clone());
    let request = with(ask("hi"), HOST.as_str(), "api.anthropic.com");
    let answer = send_ok(&service, request).await;
    let sent = clouds.sent().remove(0);
    assert_eq!(
        sent.uri,
        format!("https://{}.example/v1/messages", sent.target)
    );
    assert_eq!(&*sent.scope.host, format!("{}.example", sent.target));
    assert_ne!(sent.scope.credential, Scope::of(&ask("hi")).credential);
    assert!(!sent.has_host_header);
    assert_eq!(answer.header("x-tower-claude-target"), sent.target);
    let route = answer.extensions.get::<Route>().expect("a route");
    assert_eq!(route.target.name(), sent.target);
    assert_eq!((route.attempts, route.skipped.len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn accounts_at_one_host_have_limits_of_their_own() {
    let at_one_host = |name| target(name).with_host("one.example").expect("a host");
    let layer = SpreadLayer::new(["a", "b", "c"].map(at_one_host));
    let clouds = Clouds::default();
    // The record of the call knows the credential of the first target.
    let inner = tower::service_fn({
        let clouds = clouds.clone();
        move |request: http::Request<RequestBody>| {
            let call = Call::of(&request).expect("a call").clone();
            assert_eq!(call.credential_of(&request), Scope::of(&request).credential);
            clouds.clone().oneshot(request)
        }
    });
    let service = layer.layer(inner);
    for number in 0..30 {
        send_ok(&service, ask(&number.to_string())).await;
    }
    let sent = clouds.sent();
    let mut scopes: Vec<u64> = sent.iter().map(|sent| sent.scope.credential).collect();
    scopes.sort_unstable();
    scopes.dedup();
    assert_eq!(scopes.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn credential_of_the_caller_is_kept_where_the_target_takes_it() {
    let target = SpreadTarget::new(target("a")).with_callers_credential();
    let clouds = Clouds::default();
    let service = SpreadLayer::new([target]).layer(clouds.clone());
    for key in ["key-1", "key-2", "key-1"] {
        send_ok(&service, with(ask("hi"), "x-api-key", key)).await;
    }
    let sent = clouds.sent();
    assert_eq!(sent[0].scope, sent[2].scope);
    assert_ne!(sent[0].scope, sent[1].scope);
}

#[tokio::test(start_paused = true)]
async fn limits_and_rejected_keys_of_one_caller_do_not_concern_another() {
    let unauthorized = || Reply::claude_error(401, "authentication_error");
    for reply in [limited(600), unauthorized()] {
        let target = SpreadTarget::new(target("a")).with_callers_credential();
        let clouds = Clouds::default();
        let layer = SpreadLayer::new([target]);
        let service = layer.layer(clouds.clone());
        let ask_as = |key: &'static str| with(ask("hi"), "x-api-key", key);
        clouds.script("a", [reply.clone(), reply, Reply::message()]);
        let first = send_ok(&service, ask_as("key-1")).await;
        assert_ne!(first.status, 200);
        let second = send_ok(&service, ask_as("key-2")).await;
        assert_ne!(second.status, 200);
        let (third, took) = timed(&service, ask_as("key-3")).await;
        assert_eq!((third.status, took), (200, 0.0));
        let snapshot = layer.handle().snapshot();
        assert!(
            snapshot.targets[0]
                .cool_downs
                .iter()
                .all(|it| it.because == Kind::RateLimited),
            "{snapshot:?}"
        );
        // The caller itself has to wait.
        let again = send_ok(&service, ask_as("key-1")).await;
        let is_limited = first.status == 429;
        assert_eq!(again.status == 429, is_limited);
    }
}

#[tokio::test(start_paused = true)]
async fn overload_concerns_all_callers() {
    let own = |name| SpreadTarget::new(target(name)).with_callers_credential();
    let clouds = Clouds::default();
    let layer = SpreadLayer::new([own("a")]);
    let service = layer.layer(clouds.clone());
    clouds.script("a", [overloaded()]);
    for key in ["key-1", "key-2", "key-3"] {
        send_ok(&service, with(ask("hi"), "x-api-key", key)).await;
    }
    assert_eq!(layer.handle().snapshot().targets[0].cool_downs.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn other_endpoints_pass_untouched() {
    let clouds = Clouds::default();
    let service = three().layer(clouds.clone());
    for (method, path) in [
        ("GET", "/v1/models"),
        ("POST", "/v1/messages/batches"),
        ("GET", "/v1/messages"),
        ("POST", "/model/anthropic.claude/invoke"),
    ] {
        let mut request = ask("hi");
        *request.method_mut() = method.parse().expect("a method");
        *request.uri_mut() = format!("https://api.anthropic.com{path}")
            .parse()
            .expect("a URI");
        send_ok(&service, request).await;
    }
    for sent in clouds.sent() {
        assert!(sent.target.is_empty() && sent.uri.starts_with("https://api.anthropic.com/"));
    }
}

#[tokio::test(start_paused = true)]
async fn token_counts_go_where_the_conversation_is() {
    let clouds = Clouds::default();
    let service = three().layer(clouds.clone());
    for number in 0..20 {
        let text = number.to_string();
        send_ok(&service, ask(&text)).await;
        let mut count = ask(&text);
        *count.uri_mut() = "/v1/messages/count_tokens".parse().expect("a URI");
        send_ok(&service, count).await;
    }
    for pair in clouds.sent().chunks(2) {
        assert_eq!(pair[0].target, pair[1].target);
        assert_eq!(pair[1].scope.endpoint, Endpoint::CountTokens);
    }
}

#[tokio::test(start_paused = true)]
async fn turns_of_a_conversation_stay_together() {
    let clouds = Clouds::default();
    let service = three().layer(clouds.clone());
    for number in 0..20 {
        let text = number.to_string();
        send_ok(&service, ask(&text)).await;
        send_ok(&service, ask_again(&text)).await;
    }
    let sent = clouds.sent();
    assert!(sent.chunks(2).all(|pair| pair[0].target == pair[1].target));
    let mut targets: Vec<&str> = sent.iter().map(|sent| &*sent.target).collect();
    targets.sort_unstable();
    targets.dedup();
    assert_eq!(targets, ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn thinking_stays_at_the_account_that_made_it() {
    let clouds = Clouds::default();
    let layer = three();
    let service = layer.layer(clouds.clone());
    for number in 0..12 {
        let text = number.to_string();
        let home = send_ok(&service, ask(&text)).await;
        let home = home.header("x-tower-claude-target").to_owned();
        // The home fails, and asks for a wait.
        clouds.script(&home, [limited(5), Reply::message()]);
        let answer = send_ok(&service, ask_again(&text)).await;
        assert_eq!(answer.status, 429);
        assert_eq!(answer.header("x-tower-claude-target"), home);
        let (answer, took) = timed(&service, ask_again(&text)).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-tower-claude-target"), home);
        assert!(took >= 5.0, "{took}");
        let route = answer.extensions.get::<Route>().expect("a route");
        assert_eq!(route.binding, Binding::Known(home.as_str().into()));
        tokio::time::sleep(60 * SECOND).await;
    }
    assert!(layer.handle().snapshot().bound_prompts > 0);
}

#[tokio::test(start_paused = true)]
async fn account_in_the_request_decides_after_a_restart() {
    for home in ["a", "b", "c"] {
        let clouds = Clouds::default();
        let service = three().layer(clouds.clone());
        let mut request = ask_again("hi");
        request.extensions_mut().insert(ThinkingAccount::new(home));
        let answer = send_ok(&service, request).await;
        assert_eq!(answer.header("x-tower-claude-target"), home);
        let route = answer.extensions.get::<Route>().expect("a route");
        assert_eq!(route.binding, Binding::Named(home.into()));
    }
    let clouds = Clouds::default();
    let answer = send_ok(&three().layer(clouds.clone()), ask_again("hi")).await;
    let route = answer.extensions.get::<Route>().expect("a route");
    assert!(matches!(route.binding, Binding::Assumed(_)));
}

#[tokio::test(start_paused = true)]
async fn residency_of_layer_and_request_both_hold() {
    let layer = SpreadLayer::new(
        [
            Target::bedrock("us-west-2").and_then(|it| it.with_profile(Profile::Global)),
            Target::bedrock("us-east-1").and_then(|it| it.with_profile(Profile::Us)),
            Target::vertex("p", "us"),
            Target::vertex("p", "eu"),
        ]
        .map(|target| target.expect("a target")),
    )
    .with_residency(["us", "eu"]);
    let clouds = Clouds::default();
    let service = layer.layer(clouds.clone());
    for number in 0..40 {
        send_ok(&service, ask(&number.to_string())).await;
    }
    // A profile may process a request in a region of another continent.
    assert!(!clouds.take().iter().any(|name| name.contains("global")));
    let narrowed = |entries: &[&str]| {
        let mut request = ask("hi");
        request.extensions_mut().insert(Residency::new(entries));
        request
    };
    send_ok(&service, narrowed(&["eu"])).await;
    assert_eq!(clouds.take(), ["vertex/eu"]);
    // A request cannot widen what the layer allows.
    let answer = send_ok(&service, narrowed(&["global"])).await;
    assert_eq!(answer.status, 400);
    assert!(answer.contains("bedrock/us-west-2/global not in an allowed area"));
    assert_eq!(send_ok(&service, narrowed(&[])).await.status, 400);
    assert!(clouds.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn request_that_no_target_can_serve_is_rejected_with_each_reason() {
    let log = EventLog::default();
    let check = |_: &_, target: &Target| match target.name() {
        "a" => Err(Unportable::new("container", "there is no code execution")),
        _ => Err(Unportable::new("mcp_servers", "there is no MCP connector")),
    };
    let layer = three().with_check(check).with_observer(log.clone());
    let clouds = Clouds::default();
    let answer = send_ok(&layer.layer(clouds.clone()), ask("hi")).await;
    assert_eq!(answer.status, 400);
    assert!(answer.contains("invalid_request_error"));
    assert!(answer.contains(
        "spread: no target is left for this request: a cannot serve the request (container: there \
         is no code execution); b cannot serve the request (mcp_servers: there is no MCP connector)"
    ));
    assert_eq!(answer.header("x-tower-claude-refused-by"), "spread");
    let length = answer.header("content-length").to_owned();
    assert_eq!(length, answer.text().len().to_string());
    let rejection = answer.rejected().expect("a rejection");
    let because = Kind::BadRequest;
    assert_eq!(rejection.reason, RejectReason::NoTarget { because });
    assert!(clouds.take().is_empty());
    assert_eq!(log.count("spread refused"), 1);
}

#[tokio::test(start_paused = true)]
async fn check_is_made_once_for_each_target_and_skips_those_that_fail() {
    let check = |_: &_, target: &Target| match target.name() {
        "b" => Ok(()),
        _ => Err(Unportable::new("container", "there is no code execution")),
    };
    let clouds = Clouds::default();
    let service = three().with_check(check).layer(clouds.clone());
    for number in 0..20 {
        send_ok(&service, ask(&number.to_string())).await;
    }
    assert!(clouds.take().iter().all(|name| name == "b"));
}

#[tokio::test(start_paused = true)]
async fn layer_without_targets_rejects_with_the_reason() {
    let layer = SpreadLayer::new::<Target>([]);
    let answer = send_ok(&layer.layer(Clouds::default()), ask("hi")).await;
    assert_eq!(answer.status, 400);
    assert!(answer.contains("no target is configured"));
}

#[tokio::test(start_paused = true)]
async fn call_waits_for_the_first_target_whose_pause_ends() {
    let clouds = Clouds::default();
    let service = three().layer(clouds.clone());
    for (name, seconds) in [("a", 30), ("b", 8), ("c", 20)] {
        clouds.script(name, [limited(seconds), Reply::message()]);
    }
    for _ in 0..3 {
        assert_eq!(send_ok(&service, ask("hi")).await.status, 429);
    }
    let mut paused = clouds.take();
    paused.sort_unstable();
    assert_eq!(paused, ["a", "b", "c"]);
    let (answer, took) = timed(&service, ask("hi")).await;
    assert_eq!((answer.status, clouds.take()), (200, vec!["b".to_owned()]));
    // Up to a fifth is added.
    assert!((8.0..=9.7).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn wait_past_the_deadline_is_rejected_with_the_time_of_the_server() {
    let clouds = Clouds::default();
    let service = three().layer(clouds.clone());
    for name in ["a", "b", "c"] {
        clouds.script(name, [limited(30), Reply::message()]);
    }
    for _ in 0..3 {
        send_ok(&service, ask("hi")).await;
    }
    let mut request = ask("hi");
    let deadline = Deadline(Instant::now() + 10 * SECOND);
    request.extensions_mut().insert(deadline);
    let (answer, took) = timed(&service, request).await;
    assert_eq!((answer.status, took), (429, 0.0));
    assert!(answer.contains("rate_limit_error") && answer.contains("b cooling down for"));
    let retry_after: u64 = answer.header("retry-after").parse().expect("a number");
    assert!((30..=36).contains(&retry_after));
    let because = Kind::RateLimited;
    let reason = answer.rejected().map(|rejection| rejection.reason);
    assert_eq!(reason, Some(RejectReason::NoTarget { because }));
}

#[tokio::test(start_paused = true)]
async fn dropped_wait_leaves_nothing_behind() {
    let clouds = Clouds::default();
    let layer = three();
    let service = layer.layer(clouds.clone());
    for name in ["a", "b", "c"] {
        clouds.script(name, [limited(10), Reply::message()]);
    }
    for _ in 0..3 {
        send_ok(&service, ask("hi")).await;
    }
    clouds.take();
    let waiting = tokio::spawn(service.clone().oneshot(ask("hi")));
    settle().await;
    assert!(clouds.take().is_empty());
    waiting.abort();
    settle().await;
    tokio::time::sleep(60 * SECOND).await;
    assert!(clouds.take().is_empty());
    assert_eq!(send_ok(&service, ask("hi")).await.status, 200);
    let snapshot = layer.handle().snapshot();
    let sent: u64 = snapshot.targets.iter().map(|target| target.sent).sum();
    assert_eq!(sent, 4);
}

#[tokio::test(start_paused = true)]
async fn target_that_fails_is_left_out_and_comes_back_by_one_probe() {
    let clouds = Clouds::default();
    let layer = three();
    let service = layer.layer(clouds.clone());
    let home = send_ok(&service, ask("hi")).await;
    let home = home.header("x-tower-claude-target").to_owned();
    clouds.script(&home, [overloaded()]);
    for _ in 0..3 {
        let mut request = ask("hi");
        request.extensions_mut().insert(Residency::new([&home]));
        assert_eq!(send_ok(&service, request).await.status, 529);
    }
    clouds.take();
    for _ in 0..10 {
        assert_eq!(send_ok(&service, ask("hi")).await.status, 200);
    }
    assert!(!clouds.take().contains(&home));
    let snapshot = layer.handle().snapshot();
    let down: Vec<_> = snapshot
        .targets
        .iter()
        .filter(|it| !it.cool_downs.is_empty())
        .collect();
    assert_eq!((down.len(), &*down[0].name), (1, &*home));
    // The probe fails, and the next calls go elsewhere again.
    tokio::time::sleep(7 * SECOND).await;
    assert_eq!(send_ok(&service, ask("hi")).await.status, 529);
    assert_eq!(send_ok(&service, ask("hi")).await.status, 200);
    clouds.script(&home, [Reply::message()]);
    tokio::time::sleep(60 * SECOND).await;
    clouds.take();
    send_ok(&service, ask("hi")).await;
    assert_eq!(clouds.take(), [home]);
}

#[tokio::test(start_paused = true)]
async fn failures_of_one_model_do_not_move_another() {
    let clouds = Clouds::default();
    let service = SpreadLayer::new(["a"].map(target)).layer(clouds.clone());
    clouds.script(
        "a",
        [overloaded(), overloaded(), overloaded(), Reply::message()],
    );
    for _ in 0..3 {
        send_ok(&service, ask("hi")).await;
    }
    assert_eq!(send_ok(&service, ask_model(HAIKU, "hi")).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn unreadable_body_goes_to_a_target_that_takes_it_as_it_is() {
    let layer = SpreadLayer::new([
        Target::vertex("p", "global").expect("a target"),
        Target::bedrock("us-east-1").expect("a target"),
        target("a"),
    ])
    .with_body_limit(100);
    let clouds = Clouds::default();
    let service = layer.layer(clouds.clone());
    for body in ["no JSON".to_owned(), "[]".to_owned(), ask_body(200)] {
        let body = FrameBody::full(body);
        send_ok(
            &service,
            post::<FrameBody>("https://api.anthropic.com", body),
        )
        .await;
    }
    assert_eq!(clouds.take(), ["a", "a", "a"]);
}

fn ask_body(length: usize) -> String {
    let text = "x".repeat(length);
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}]}}"#)
}

#[tokio::test(start_paused = true)]
async fn event_names_the_target_and_each_one_that_was_left_out() {
    let log = EventLog::new(|event| match event {
        Event::Routed {
            target,
            because,
            attempt,
            skipped,
            ..
        } => {
            let skipped: Vec<String> = skipped
                .iter()
                .map(|skip| format!("{} {}", skip.target, skip.because))
                .collect();
            Some(format!("{target:?} {because} {attempt} {skipped:?}"))
        }
        _ => None,
    });
    let check = |_: &_, target: &Target| match target.name() {
        "a" => Err(Unportable::new("container", "there is no code execution")),
        _ => Ok(()),
    };
    let layer = three().with_check(check).with_observer(log.clone());
    let clouds = Clouds::default();
    clouds.script("b", [limited(30)]);
    let service = layer
        .with_residency(["b", "a", "global"])
        .layer(clouds.clone());
    let mut request = ask("hi");
    request.extensions_mut().insert(Residency::new(["a", "b"]));
    send_ok(&service, request).await;
    assert_eq!(
        log.take(),
        [r#"Some("b") only 1 ["a unportable", "c residency"]"#]
    );
    send_ok(&service, ask("hi")).await;
    let lines = log.take();
    assert_eq!(
        lines,
        [r#"Some("c") only 1 ["a unportable", "b cool_down"]"#]
    );
}

#[tokio::test(start_paused = true)]
async fn inner_rejection_is_handed_on() {
    let clouds = Clouds::default();
    let reason = RejectReason::QueueFull {
        waiting: 1,
        limit: 1,
    };
    for name in ["a", "b", "c"] {
        clouds.script(name, [Reply::refusal(Rejection::new("limiter", reason))]);
    }
    let answer = send_ok(&three().layer(clouds.clone()), ask("hi")).await;
    assert_eq!(answer.rejected().map(|it| it.by), Some("limiter"));
    assert_eq!(clouds.take().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn zero_longest_wait_never_waits() {
    let clouds = Clouds::default();
    let observer = observer_fn(|_: &Event<'_>| {});
    let layer = SpreadLayer::new([target("a")])
        .with_max_wait(Duration::ZERO)
        .with_observer(observer);
    let service = layer.layer(clouds.clone());
    clouds.script("a", [limited(30)]);
    assert!(!send_ok(&service, ask("hi")).await.is_rejected());
    let (answer, took) = timed(&service, ask("hi")).await;
    assert_eq!((answer.is_rejected(), took), (true, 0.0));
    assert_eq!(clouds.take().len(), 1);
}
