//! The contract between a gateway and its clients, and reports about other gateways.
//!
//! `c1` tests are rows of the protocol for gateways. The numbers in the other names are those of
//! the table in `docs/gateway.md`, which lists known mistakes of gateways.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use common::*;
use tower_claude_gateway::new_key;

#[tokio::test]
async fn c1_path_and_query_of_every_endpoint_arrive_unchanged() {
    let upstream = Upstream::with_message().await;
    let gateway = TestGateway::before(&upstream).await;
    for (method, path) in [
        ("POST", "/v1/messages"),
        ("POST", "/v1/messages?beta=true"),
        ("POST", "/v1/messages/count_tokens?beta=true"),
        ("GET", "/v1/models?limit=1000"),
        ("GET", "/v1/models/claude-sonnet-5-5"),
        ("POST", "/v1/messages/batches"),
        ("GET", "/v1/messages/batches/msgbatch_1/results?x=%2F%20y"),
        ("DELETE", "/v1/files/file_1"),
        ("PATCH", "/v1/of/the/future?a=1&a=2"),
        ("HEAD", "/api/hello"),
        ("POST", "/api/event_logging/batch"),
    ] {
        let sent = gateway.request(method, path).header("x-api-key", "k");
        let got = send(sent, if method == "POST" { REQUEST } else { "" }).await;
        assert_eq!(got.status, 200, "{method} {path}");
        let received = upstream.last();
        assert_eq!(received.method, method);
        assert_eq!(received.uri.to_string(), path);
    }
}

#[tokio::test]
async fn c1_request_headers_arrive_verbatim_03_04_05_06_07_08_10_39() {
    let upstream = Upstream::with_message().await;
    let gateway = TestGateway::before(&upstream).await;
    let headers = [
        ("anthropic-version", "2023-06-01"),
        (
            "anthropic-beta",
            "prompt-caching-2024-07-31,of-the-future-2031-01-01",
        ),
        ("anthropic-beta", "second-line-2025-01-01"),
        ("anthropic-of-the-future", "x"),
        ("x-claude-code-session-id", "s"),
        ("x-claude-code-agent-id", "a"),
        ("x-stainless-retry-count", "2"),
        ("x-stainless-lang", "python"),
        ("user-agent", "Anthropic/Python 1"),
        ("x-app", "cli"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        ("tracestate", "a=1"),
        ("content-type", "application/json"),
    ];
    for path in [
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/files",
        "/other",
    ] {
        let mut sent = gateway.request("POST", path).header("x-api-key", "k");
        for (name, value) in headers {
            sent = sent.header(name, value);
        }
        send(sent, REQUEST).await;
        let received = upstream.last();
        for (name, _) in headers {
            let all = received.headers.get_all(name).iter();
            let all: Vec<&str> = all.map(|value| value.to_str().unwrap()).collect();
            let expected = headers.iter().filter(|(other, _)| *other == name);
            let expected: Vec<&str> = expected.map(|(_, value)| *value).collect();
            assert_eq!(all, expected, "{name} at {path}");
        }
    }
}

#[tokio::test]
async fn headers_of_one_caller_are_not_on_the_next_request_09() {
    let upstream = Upstream::with_message().await;
    let gateway = TestGateway::before(&upstream).await;
    let client = client();
    let first = gateway
        .message()
        .header("anthropic-beta", "mine-2025-01-01");
    send_with(&client, first, REQUEST).await;
    assert!(upstream.last().headers.contains_key("anthropic-beta"));
    send_with(&client, gateway.message(), REQUEST).await;
    assert!(!upstream.last().headers.contains_key("anthropic-beta"));
}

#[tokio::test]
async fn c1_body_arrives_byte_for_byte_29_30_31_32_36() {
    let upstream = Upstream::with_message().await;
    let gateway = TestGateway::before(&upstream).await;
    for body in [
        REQUEST,
        "{\"model\":\"unknown-model\",\"temperature\":9e99}",
        "not json at all",
        "",
    ] {
        for path in [
            "/v1/messages",
            "/v1/messages/count_tokens",
            "/v1/messages/batches",
        ] {
            let sent = gateway.request("POST", path).header("x-api-key", "k");
            send(sent, body).await;
            assert_eq!(upstream.last().body, body, "{path}");
        }
    }
}

#[tokio::test]
async fn c1_errors_pass_with_status_body_and_headers_01_02_19() {
    let errors = [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (529, "overloaded_error"),
    ];
    for (status, kind) in errors {
        let text = format!(
            "{{\"error\":{{ \"message\":\"why\", \"type\":\"{kind}\"}},\"type\":\"error\"}}"
        );
        let body = text.clone();
        let upstream = Upstream::new(move |_| {
            let mut response = json(status, body.clone());
            for (name, value) in [
                ("request-id", "req_of_upstream"),
                ("retry-after", "7"),
                ("retry-after-ms", "7000"),
                ("anthropic-ratelimit-requests-remaining", "0"),
                ("anthropic-ratelimit-unified-status", "rejected"),
                ("anthropic-organization-id", "org"),
                ("x-of-the-future", "1"),
            ] {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            async { response }
        })
        .await;
        let gateway = TestGateway::new(config_for(&upstream, "", "max_attempts = 1")).await;
        let got = send(gateway.message(), REQUEST).await;
        assert_eq!(got.status, status);
        assert_eq!(got.text(), text);
        assert_eq!(got.header("request-id"), "req_of_upstream");
        assert_eq!(got.header("retry-after"), "7");
        assert_eq!(got.header("retry-after-ms"), "7000");
        assert_eq!(got.header("anthropic-ratelimit-requests-remaining"), "0");
        assert_eq!(got.header("anthropic-ratelimit-unified-status"), "rejected");
        assert_eq!(got.header("anthropic-organization-id"), "org");
        assert_eq!(got.header("x-of-the-future"), "1");
        let advice = if status == 429 || status >= 500 {
            "false"
        } else {
            ""
        };
        assert_eq!(got.header("x-should-retry"), advice, "{status}");
    }
}

#[tokio::test]
async fn advice_of_the_upstream_passes_where_the_gateway_gave_nothing_up_02() {
    let upstream = Upstream::new(|request| async move {
        let mut response = json(
            if request.uri.path() == "/v1/files" {
                500
            } else {
                400
            },
            "{}",
        );
        let advice = "true".parse().unwrap();
        response.headers_mut().insert("x-should-retry", advice);
        response
    })
    .await;
    let gateway = TestGateway::before(&upstream).await;
    let got = send(
        gateway.request("GET", "/v1/files").header("x-api-key", "k"),
        "",
    )
    .await;
    assert_eq!((got.status, got.header("x-should-retry")), (500, "true"));
}

#[tokio::test]
async fn failed_attempt_is_repeated_once_for_the_client() {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    let upstream = Upstream::new(move |_| {
        let is_first = seen.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            match is_first {
                true => json(
                    529,
                    r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#,
                ),
                false => json(200, MESSAGE),
            }
        }
    })
    .await;
    let gateway = TestGateway::before(&upstream).await;
    let got = send(gateway.message(), REQUEST).await;
    assert_eq!((got.status, got.text()), (200, MESSAGE));
    assert_eq!(got.header("x-should-retry"), "");
    let bodies: Vec<_> = upstream.received().into_iter().map(|it| it.body).collect();
    assert_eq!(bodies, [REQUEST, REQUEST]);
}

#[tokio::test]
async fn c1_stream_passes_byte_for_byte_as_it_comes_11_12_13_17_34() {
    let (upstream, mut senders) = stream_upstream().await;
    let gateway = TestGateway::before(&upstream).await;
    let answering = tokio::spawn(Live::new(gateway.message(), STREAM_REQUEST));
    let sender = within(senders.recv()).await.unwrap();
    sender.send(START).unwrap();
    let mut live = within(answering).await.unwrap();
    assert_eq!(live.status, 200);
    assert_eq!(live.headers["cache-control"], "no-cache, no-transform");
    assert_eq!(live.headers["x-accel-buffering"], "no");
    assert!(live.headers.contains_key("request-id"));
    // Each part arrives before the next is sent: nothing is held back.
    let mut all = START.to_owned();
    for part in [
        PING,
        DELTA,
        "event: of_the_future\ndata: {}\n\n",
        ": comment\n\n",
        END,
    ] {
        sender.send(part).unwrap();
        all.push_str(part);
        live.read_to(part).await;
    }
    drop(sender);
    assert!(live.read_all().await);
    assert_eq!(live.text, all);
}

#[tokio::test]
async fn c1_silence_is_filled_between_events_only_14_15_40() {
    let (upstream, mut senders) = stream_upstream().await;
    let config = config_for(&upstream, "stream.heartbeat = \"40ms\"", "");
    let gateway = TestGateway::new(config).await;
    let answering = tokio::spawn(Live::new(gateway.message(), STREAM_REQUEST));
    let sender = within(senders.recv()).await.unwrap();
    sender.send(START).unwrap();
    let mut live = within(answering).await.unwrap();
    live.read_to(PING).await;
    live.read_to(PING).await;
    let (head, tail) = DELTA.split_at(30);
    sender.send(head).unwrap();
    live.read_to(head).await;
    sender.send(tail).unwrap();
    live.read_to(PING).await;
    assert!(live.text.contains(DELTA), "{}", live.text);
    sender.send(END).unwrap();
    drop(sender);
    assert!(live.read_all().await);
    let without_pings = live.text.replace(PING, "");
    assert_eq!(without_pings, [START, DELTA, END].concat());
}

#[tokio::test]
async fn heartbeat_can_be_padded_for_buffering_proxies_15() {
    let (upstream, mut senders) = stream_upstream().await;
    let toml = "stream = { heartbeat = \"40ms\", heartbeat_padding = \"2KiB\" }";
    let gateway = TestGateway::new(config_for(&upstream, toml, "")).await;
    let answering = tokio::spawn(Live::new(gateway.message(), STREAM_REQUEST));
    let sender = within(senders.recv()).await.unwrap();
    sender.send(START).unwrap();
    let mut live = within(answering).await.unwrap();
    live.read_to(PING).await;
    let added = live.text.strip_prefix(START).unwrap();
    assert!(added.starts_with(':') && added.len() >= 2048 + PING.len());
}

#[tokio::test]
async fn dead_stream_ends_with_an_error_event_and_frees_its_slot_18_20() {
    let (upstream, mut senders) = stream_upstream().await;
    let config = config_for(
        &upstream,
        "stream = { heartbeat = \"0ms\", idle_timeout = \"150ms\" }",
        "max_wait = \"0ms\"\nlimits.concurrency = 1",
    );
    let gateway = TestGateway::new(config).await;
    for _ in 0..2 {
        let answering = tokio::spawn(Live::new(gateway.message(), STREAM_REQUEST));
        let sender = within(senders.recv()).await.unwrap();
        sender.send(START).unwrap();
        let (head, _) = DELTA.split_at(30);
        sender.send(head).unwrap();
        let mut live = within(answering).await.unwrap();
        assert!(live.read_all().await);
        let added = live.text.strip_prefix(&*[START, head].concat()).unwrap();
        assert!(added.starts_with("\n\nevent: error\ndata: {"), "{added}");
        within(sender.closed()).await;
    }
}

#[tokio::test]
async fn slot_is_free_after_the_client_left_20() {
    let (upstream, mut senders) = stream_upstream().await;
    let toml = "max_wait = \"0ms\"\nlimits.concurrency = 1";
    let gateway = TestGateway::new(config_for(&upstream, "", toml)).await;
    let answering = tokio::spawn(Live::new(gateway.message(), STREAM_REQUEST));
    let sender = within(senders.recv()).await.unwrap();
    sender.send(START).unwrap();
    let live = within(answering).await.unwrap();
    let refused = send(gateway.message(), STREAM_REQUEST).await;
    assert_eq!(
        (refused.status, &*refused.error_type()),
        (429, "rate_limit_error")
    );
    drop(live);
    // The upstream notices that its response is not wanted.
    within(sender.closed()).await;
    let answering = tokio::spawn(Live::new(gateway.message(), STREAM_REQUEST));
    let sender = within(senders.recv()).await.unwrap();
    sender.send(START).unwrap();
    assert_eq!(within(answering).await.unwrap().status, 200);
}

#[tokio::test]
async fn c2_counts_and_models_do_not_wait_for_messages() {
    let (upstream, mut senders) = stream_upstream().await;
    let toml = "max_wait = \"0ms\"\nlimits.concurrency = 1";
    let gateway = TestGateway::new(config_for(&upstream, "", toml)).await;
    let answering = tokio::spawn(Live::new(gateway.message(), STREAM_REQUEST));
    let sender = within(senders.recv()).await.unwrap();
    sender.send(START).unwrap();
    let _live = within(answering).await.unwrap();
    // The only slot for messages is taken.
    assert_eq!(send(gateway.message(), STREAM_REQUEST).await.status, 429);
    let count = gateway
        .request("POST", "/v1/messages/count_tokens")
        .header("x-api-key", "k");
    assert_eq!(send(count, REQUEST).await.text(), COUNT);
}

#[tokio::test]
async fn c1_compressed_responses_are_not_asked_for_and_pass_as_they_are_26_27() {
    const GZIP: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03not really";
    let upstream = Upstream::new(|_| async {
        let mut response = json(400, GZIP);
        let gzip = "gzip".parse().unwrap();
        response.headers_mut().insert("content-encoding", gzip);
        response
    })
    .await;
    let gateway = TestGateway::before(&upstream).await;
    for path in ["/v1/messages", "/v1/models"] {
        let sent = gateway.request("POST", path).header("x-api-key", "k");
        let got = send(sent.header("accept-encoding", "gzip, br"), REQUEST).await;
        assert_eq!(
            (got.header("content-encoding"), &got.body[..]),
            ("gzip", GZIP)
        );
        assert_eq!(upstream.last().headers["accept-encoding"], "identity");
    }
}

#[tokio::test]
async fn c1_headers_of_a_connection_end_here() {
    let upstream = Upstream::new(|_| async {
        let mut response = json(200, MESSAGE);
        for (name, value) in [
            ("connection", "x-private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=9"),
        ] {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        response
    })
    .await;
    let gateway = TestGateway::before(&upstream).await;
    let text = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: public.example\r\nx-api-key: k\r\nte: trailers\r\n\
         connection: keep-alive, x-mine\r\nx-mine: 1\r\nkeep-alive: 1\r\nproxy-authorization: Basic eA==\r\n\
         expect: 100-continue\r\nupgrade: websocket\r\ncontent-length: {}\r\n\r\n{REQUEST}",
        REQUEST.len()
    );
    let mut stream = gateway.raw(text.as_bytes()).await;
    let got = read_until(&mut stream, MESSAGE).await;
    assert!(got.contains("HTTP/1.1 100 Continue\r\n"), "{got}");
    for name in ["x-private", "keep-alive"] {
        assert!(!got.contains(name), "{name} in {got}");
    }
    let received = upstream.last().headers;
    for name in [
        "te",
        "connection",
        "x-mine",
        "keep-alive",
        "proxy-authorization",
        "expect",
        "upgrade",
    ] {
        assert!(!received.contains_key(name), "{name}");
    }
    assert_eq!(received["host"], upstream.addr.to_string());
    assert_eq!(received["content-length"], REQUEST.len().to_string());
}

#[tokio::test]
async fn redirect_is_passed_and_not_followed() {
    let upstream = Upstream::new(|_| async {
        let mut response = json(307, "");
        let to = "http://127.0.0.1:1/elsewhere".parse().unwrap();
        response.headers_mut().insert("location", to);
        response
    })
    .await;
    let gateway = TestGateway::before(&upstream).await;
    for (method, path) in [("POST", "/v1/messages"), ("GET", "/v1/models")] {
        let got = send(gateway.request(method, path).header("x-api-key", "k"), "").await;
        assert_eq!(
            (got.status, got.header("location")),
            (307, "http://127.0.0.1:1/elsewhere")
        );
    }
}

#[tokio::test]
async fn c1_results_url_of_batches_leads_to_the_gateway_37() {
    let upstream = Upstream::new(|request| async move {
        let host = request.headers["host"].to_str().unwrap().to_owned();
        let batch = format!("{{\"id\":\"b\", \"results_url\": \"http://{host}/base/v1/messages/batches/b/results\"}}");
        match request.uri.path() {
            "/base/v1/messages/batches" => json(200, format!("{{\"data\":[{batch},{batch}]}}")),
            "/base/v1/messages/batches/b/results" => json(200, batch),
            _ => json(200, batch),
        }
    })
    .await;
    let toml = |before: &str| {
        config(&format!(
            "path_prefix = \"/claude\"\n{before}\n[[upstreams]]\nurl = \"{}/base/\"",
            upstream.url()
        ))
    };
    for (before, base) in [
        ("", None),
        (
            "public_url = \"https://claude.example/\"",
            Some("https://claude.example"),
        ),
    ] {
        let gateway = TestGateway::new(toml(before)).await;
        let own = format!("http://{}", gateway.addr);
        let base = base.unwrap_or(&own);
        let expected = format!("\"results_url\": \"{base}/claude/v1/messages/batches/b/results\"");
        for (method, path, times) in [("POST", "", 2), ("GET", "/b", 1), ("POST", "/b/cancel", 1)] {
            let path = format!("/claude/v1/messages/batches{path}");
            let got = send(gateway.request(method, &path).header("x-api-key", "k"), "").await;
            assert_eq!(
                got.text().matches(&expected).count(),
                times,
                "{}",
                got.text()
            );
            assert_eq!(got.header("content-length"), got.body.len().to_string());
        }
        // Results are the callers' own texts, and stay.
        let path = "/claude/v1/messages/batches/b/results";
        let got = send(gateway.request("GET", path).header("x-api-key", "k"), "").await;
        assert!(got.text().contains(&upstream.url()), "{}", got.text());
    }
}

#[tokio::test]
async fn c1_wrong_paths_are_answered_with_a_hint_28() {
    let upstream = Upstream::with_message().await;
    let gateway = TestGateway::before(&upstream).await;
    for (path, hint) in [
        ("//v1/messages", "slash"),
        ("/v1//messages", "slash"),
        ("/v1/../v1/messages", "dot segments"),
        ("/v1/%2e%2E/messages", "dot segments"),
        ("/v1/v1/messages", "twice"),
        ("/messages", "missing"),
        ("/anthropic/v1/messages", "path_prefix"),
    ] {
        let got = send(
            gateway.request("POST", path).header("x-api-key", "k"),
            REQUEST,
        )
        .await;
        assert_eq!(
            (got.status, &*got.error_type()),
            (404, "not_found_error"),
            "{path}"
        );
        assert!(got.text().contains(hint), "{path}: {}", got.text());
        assert!(got.header("request-id").starts_with("req_"));
    }
    assert!(upstream.received().is_empty());
    let prefixed =
        TestGateway::new(config_for(&upstream, "path_prefix = \"/anthropic\"", "")).await;
    let got = send(
        prefixed.request("POST", "/anthropic/v1/messages?beta=true"),
        REQUEST,
    )
    .await;
    assert_eq!(got.status, 200);
    assert_eq!(upstream.last().uri.to_string(), "/v1/messages?beta=true");
    assert_eq!(
        send(prefixed.request("POST", "/v1/messages"), REQUEST)
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn c2_probes_are_answered_by_the_gateway_itself() {
    let upstream = Upstream::with_message().await;
    let gateway = TestGateway::before(&upstream).await;
    let got = send(gateway.request("GET", "/"), "").await;
    assert!(
        got.text().contains("\"name\":\"tower-claude\""),
        "{}",
        got.text()
    );
    assert_eq!(send(gateway.request("HEAD", "/"), "").await.status, 200);
    assert_eq!(
        send(gateway.request("GET", "/healthz"), "").await.status,
        200
    );
    assert_eq!(
        send(gateway.request("GET", "/readyz"), "").await.status,
        200
    );
    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn admin_routes_are_not_on_the_public_address() {
    let upstream = Upstream::new(|_| async { json(404, "{}") }).await;
    let config = config_for(&upstream, "", "");
    let gateway = tower_claude_gateway::Gateway::bind(config).await.unwrap();
    let (addr, admin) = (gateway.addr(), gateway.admin_addr());
    let metrics = axum::Router::new().route("/own", axum::routing::get(async || "up 1\n"));
    let running = tokio::spawn(
        gateway
            .with_admin_routes(metrics)
            .run(std::future::pending()),
    );
    let get = |addr| http::Request::get(format!("http://{addr}/own"));
    assert_eq!(send(get(admin), "").await.text(), "up 1\n");
    assert_eq!(send(get(addr), "").await.status, 404);
    let health = http::Request::get(format!("http://{admin}/readyz"));
    assert_eq!(send(health, "").await.status, 200);
    running.abort();
}

#[tokio::test]
async fn c1_gateway_key_is_replaced_by_the_key_of_its_upstream_21_22_23_24() {
    let (first, second) = (
        Upstream::with_message().await,
        Upstream::with_message().await,
    );
    let ((key_a, hash_a), (key_b, hash_b)) = (new_key().unwrap(), new_key().unwrap());
    let gateway = TestGateway::new(config(&format!(
        r#"
        [[upstreams]]
        name = "first"
        url = "{}"
        key = "sk-ant-of-first"
        [[upstreams]]
        name = "second"
        url = "{}"
        key = "of-second"
        auth = "bearer"
        [[keys]]
        name = "a"
        hash = "{hash_a}"
        [[keys]]
        name = "b"
        hash = "{hash_b}"
        upstream = "second"
        priority = "batch"
        "#,
        first.url(),
        second.url()
    )))
    .await;
    let bearer = |key: &str| format!("Bearer {key}");
    for (authorization, api_key, to_second) in [
        (Some(bearer(&key_a)), None, false),
        (None, Some(key_a.clone()), false),
        (Some(bearer(&key_a)), Some(key_a.clone()), false),
        // The bearer token comes first.
        (Some(bearer(&key_b)), Some(key_a.clone()), true),
        (
            Some(bearer("sk-ant-oat-of-a-person")),
            Some(key_b.clone()),
            true,
        ),
    ] {
        for path in ["/v1/messages", "/v1/models", "/v1/files"] {
            let mut sent = gateway.request("POST", path).header("cookie", "session=1");
            for (name, value) in [("authorization", &authorization), ("x-api-key", &api_key)] {
                if let Some(value) = value {
                    sent = sent.header(name, value);
                }
            }
            assert_eq!(send(sent, REQUEST).await.status, 200);
            let received = if to_second {
                second.last()
            } else {
                first.last()
            };
            let (has, lacks, value) = match to_second {
                true => ("authorization", "x-api-key", "Bearer of-second"),
                false => ("x-api-key", "authorization", "sk-ant-of-first"),
            };
            assert_eq!(received.headers[has], value);
            for name in [lacks, "cookie"] {
                assert!(!received.headers.contains_key(name), "{name}");
            }
            let all = format!("{:?}", received.headers);
            assert!(
                !all.contains("tcg-") && !all.contains("of-a-person"),
                "{all}"
            );
        }
    }
    assert_eq!((first.received().len(), second.received().len()), (9, 6));
}

#[tokio::test]
async fn request_without_a_valid_gateway_key_goes_nowhere_21_25() {
    let upstream = Upstream::with_message().await;
    let (key, hash) = new_key().unwrap();
    let toml = format!("key = \"of-upstream\"\n[[keys]]\nname = \"a\"\nhash = \"{hash}\"");
    let gateway = TestGateway::new(config_for(&upstream, "", &toml)).await;
    let (cut, longer) = (key[..key.len() - 1].to_owned(), format!("{key}0"));
    let unknown = new_key().unwrap().0;
    for key in [
        "",
        "tcg-",
        "sk-ant-api03-x",
        &cut,
        &longer,
        &unknown,
        &key.to_uppercase(),
    ] {
        let sent = gateway
            .request("POST", "/v1/messages")
            .header("x-api-key", key);
        let got = send(sent, REQUEST).await;
        assert_eq!(
            (got.status, &*got.error_type()),
            (401, "authentication_error"),
            "{key}"
        );
    }
    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn credentials_of_callers_without_gateway_keys_pass_unchanged() {
    let upstream = Upstream::with_message().await;
    let gateway = TestGateway::before(&upstream).await;
    let sent = gateway.request("POST", "/v1/messages");
    let sent = sent.header("authorization", "Bearer sk-ant-oat01-x");
    send(sent.header("x-api-key", "sk-ant-api03-y"), REQUEST).await;
    let received = upstream.last().headers;
    assert_eq!(received["authorization"], "Bearer sk-ant-oat01-x");
    assert_eq!(received["x-api-key"], "sk-ant-api03-y");
    // A gateway key that this gateway does not know stays here.
    let got = send(
        gateway
            .request("GET", "/v1/models")
            .header("api-key", "tcg-1"),
        "",
    )
    .await;
    assert_eq!((got.status, upstream.received().len()), (401, 1));
}

#[tokio::test]
async fn key_of_the_upstream_serves_callers_of_this_machine_unless_they_have_their_own() {
    let upstream = Upstream::with_message().await;
    for (before, api_key, expected) in [
        ("", "", "of-upstream"),
        ("", "placeholder", "of-upstream"),
        ("client_keys = true", "own", "own"),
    ] {
        let gateway =
            TestGateway::new(config_for(&upstream, before, "key = \"of-upstream\"")).await;
        let mut sent = gateway.request("POST", "/v1/messages");
        if !api_key.is_empty() {
            sent = sent.header("x-api-key", api_key);
        }
        assert_eq!(send(sent, REQUEST).await.status, 200);
        assert_eq!(upstream.last().headers["x-api-key"], expected);
    }
}

#[tokio::test]
async fn key_of_anthropic_goes_to_no_other_host_24() {
    let gateway = TestGateway::new(config("[[upstreams]]\nurl = \"http://other.invalid\"")).await;
    for (name, value) in [
        ("x-api-key", "sk-ant-api03-x"),
        ("authorization", "Bearer sk-ant-oat01-x"),
        ("authorization", "bearer  sk-ant-oat01-x"),
    ] {
        let sent = gateway.request("POST", "/v1/messages").header(name, value);
        let got = send(sent, REQUEST).await;
        assert_eq!((got.status, &*got.error_type()), (403, "permission_error"));
    }
}

#[tokio::test]
async fn quota_of_a_key_is_its_own() {
    let upstream = Upstream::with_message().await;
    let ((key_a, hash_a), (key_b, hash_b)) = (new_key().unwrap(), new_key().unwrap());
    let toml = format!(
        "key = \"k\"\n[[keys]]\nname = \"a\"\nhash = \"{hash_a}\"\nrequests_per_minute = 2\n\
         [[keys]]\nname = \"b\"\nhash = \"{hash_b}\""
    );
    let gateway = TestGateway::new(config_for(&upstream, "", &toml)).await;
    let call = async |key: &str| {
        send(
            gateway
                .request("POST", "/v1/messages")
                .header("x-api-key", key),
            REQUEST,
        )
        .await
    };
    assert_eq!(
        (call(&key_a).await.status, call(&key_a).await.status),
        (200, 200)
    );
    let refused = call(&key_a).await;
    assert_eq!(
        (refused.status, &*refused.error_type()),
        (429, "rate_limit_error")
    );
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    assert_eq!(refused.header("x-tower-claude-refused-by"), "gateway");
    assert_eq!(call(&key_b).await.status, 200);
    assert_eq!(upstream.received().len(), 3);
}

#[tokio::test]
async fn fallback_changes_the_model_and_no_other_byte() {
    let upstream = Upstream::new(|request| async move {
        match String::from_utf8_lossy(&request.body).contains("claude-sonnet-5-5") {
            true => json(
                529,
                r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#,
            ),
            false => json(
                200,
                MESSAGE.replace("claude-sonnet-5-5", "claude-haiku-5-5"),
            ),
        }
    })
    .await;
    let toml = "max_attempts = 1\nfallback = [\"claude-haiku-5-5\"]";
    let gateway = TestGateway::new(config_for(&upstream, "", toml)).await;
    // With an effort of its own, so that the fallback adds none.
    let request = REQUEST.replace("1.50", "1.50, \"output_config\": {\"effort\":\"low\"}");
    let got = send(gateway.message(), request.clone()).await;
    assert_eq!(got.status, 200, "{}", got.text());
    let expected = request.replace("claude-sonnet-5-5", "claude-haiku-5-5");
    assert_eq!(upstream.last().body, expected);
    assert_eq!(
        upstream.last().headers["content-length"],
        expected.len().to_string()
    );
}

#[tokio::test]
async fn unreachable_upstream_is_an_error_in_the_shape_of_the_api() {
    let gateway = TestGateway::new(config(
        "[[upstreams]]\nurl = \"http://127.0.0.1:1\"\nmax_attempts = 1",
    ))
    .await;
    for path in ["/v1/messages", "/v1/models"] {
        let got = send(
            gateway.request("POST", path).header("x-api-key", "k"),
            REQUEST,
        )
        .await;
        assert_eq!(
            (got.status, &*got.error_type()),
            (502, "api_error"),
            "{path}"
        );
        assert!(got.header("request-id").starts_with("req_"));
        assert!(!got.text().contains("127.0.0.1"), "{}", got.text());
    }
}

#[tokio::test]
async fn upload_is_streamed_past_the_limit_of_messages() {
    let upstream = Upstream::with_message().await;
    let toml = "server = { body_bytes = \"1KiB\", buffered_bytes = \"1KiB\" }";
    let gateway = TestGateway::new(config_for(&upstream, toml, "")).await;
    let large = vec![b'x'; 3 << 20];
    for path in ["/v1/files", "/v1/messages/batches", "/v1/of/the/future"] {
        let sent = gateway.request("POST", path).header("x-api-key", "k");
        assert_eq!(send(sent, large.clone()).await.status, 200);
        assert_eq!(upstream.last().body.len(), large.len(), "{path}");
    }
}

#[tokio::test]
async fn client_with_http2_gets_the_same() {
    let upstream = Upstream::new(|request| async move {
        let host = request.headers["host"].to_str().unwrap().to_owned();
        match request.uri.path() {
            "/v1/messages" => json(200, MESSAGE),
            path => json(200, format!("{{\"results_url\":\"http://{host}{path}\"}}")),
        }
    })
    .await;
    let gateway = TestGateway::before(&upstream).await;
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let got = send_with(&client, gateway.message(), REQUEST).await;
    assert_eq!((got.status, got.text()), (200, MESSAGE));
    let path = "/v1/messages/batches/b";
    let got = send_with(
        &client,
        gateway.request("GET", path).header("x-api-key", "k"),
        "",
    )
    .await;
    let expected = format!("{{\"results_url\":\"http://{}{path}\"}}", gateway.addr);
    assert_eq!(got.text(), expected);
    assert_eq!(upstream.last().headers["host"], upstream.addr.to_string());
}
