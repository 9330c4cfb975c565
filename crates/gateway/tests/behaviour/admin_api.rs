//! The client of the Admin API, at a fake of it.

use std::time::{Duration, SystemTime};

use crate::common::{MESSAGE, REQUEST, Upstream, json, send, within};
use http::{Request, StatusCode};
use serde_json::Value;
use tower_claude::wire::Tier;
use tower_claude::wire::admin::{RateLimitEntry, SpendLimitEntry};
use tower_claude_fake_claude::{AdminApi, FakeClaude, FakeServer, GroupLimits};
use tower_claude_gateway::admin::{AdminClient, AdminError, UsageWidth};

const KEY: &str = "sk-ant-admin-canary";

async fn start() -> (AdminApi, FakeServer, AdminClient) {
    let admin = AdminApi::new(KEY);
    let limits = GroupLimits::new().with_requests_per_minute(70);
    let fake = FakeClaude::builder()
        .group_limits("sonnet-5.5", limits)
        .admin(admin.clone())
        .build();
    let server = fake.serve().await.unwrap();
    let client = AdminClient::with_url(KEY, &server.url()).unwrap();
    (admin, server, client)
}

async fn call_once(server: &FakeServer) {
    let request = Request::post(format!("{}/v1/messages", server.url()));
    let request = request
        .header("x-api-key", "key")
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json");
    assert_eq!(
        send(request, REQUEST.replace("\"zzz_unknown\":1.50,", ""))
            .await
            .status,
        200
    );
}

fn rows(text: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for line in text.lines() {
        let page: Value = serde_json::from_str(line).unwrap();
        all.extend(page["data"].as_array().unwrap().clone());
    }
    all
}

#[tokio::test]
async fn limits_of_the_organization_and_of_a_workspace_are_read() {
    let (admin, _server, client) = start().await;
    let json = within(client.rate_limits()).await.unwrap();
    let page = RateLimitEntry::parse_page(json.as_bytes()).unwrap();
    let sonnet = page.entries.iter().find(|entry| {
        let mut models = entry.models.iter();
        models.any(|model| model == "claude-sonnet-5-5")
    });
    assert_eq!(sonnet.unwrap().limit("requests_per_minute"), Some(70));
    admin.set_workspace_limit("wrkspc_1", "sonnet-5.5", "requests_per_minute", 30);
    let json = within(client.workspace_rate_limits("wrkspc_1"))
        .await
        .unwrap();
    let page = RateLimitEntry::parse_page(json.as_bytes()).unwrap();
    assert_eq!(page.entries[0].limit("requests_per_minute"), Some(30));
    assert_eq!(page.entries[0].workspace_id.as_deref(), Some("wrkspc_1"));
    let bad = within(client.workspace_rate_limits("../me")).await;
    assert!(
        matches!(bad, Err(AdminError::InvalidWorkspace(_))),
        "{bad:?}"
    );
}

#[tokio::test]
async fn cap_of_the_tier_is_read_with_its_beta() {
    let (admin, _server, client) = start().await;
    admin.set_cap_cents(20_000_000);
    let json = within(client.spend_limits()).await.unwrap();
    let page = SpendLimitEntry::parse_page(json.as_bytes()).unwrap();
    assert_eq!(page.entries[0].tier(), Some(Tier::Scale));
}

#[tokio::test]
async fn usage_of_several_days_is_read_in_parts() {
    let (admin, server, client) = start().await;
    for _ in 0..3 {
        call_once(&server).await;
    }
    let until = SystemTime::now();
    let since = until - Duration::from_secs(3 * 86_400 + 60);
    let text = within(client.usage(since, until, UsageWidth::Minute))
        .await
        .unwrap();
    assert_eq!(text.lines().count(), 4);
    assert_eq!(admin.requests().len(), 4);
    let rows = rows(&text);
    let requests = rows
        .iter()
        .map(|row| row["usage"]["requests"].as_u64().unwrap());
    assert_eq!(requests.sum::<u64>(), 3);
    assert_eq!(rows[0]["group"]["model"], "claude-sonnet-5-5");
    let by_hour = within(client.usage(since, until, UsageWidth::Hour))
        .await
        .unwrap();
    assert_eq!(by_hour.lines().count(), 1);
    // Parts that met within a bucket would count it twice.
    let starts = admin.requests();
    let starts = starts
        .iter()
        .take(4)
        .map(|target| target.split(['=', '&']).nth(1).unwrap());
    assert!(
        starts.clone().all(|start| start.ends_with(":00Z")),
        "{starts:?}"
    );
    let reversed = within(client.usage(until, since, UsageWidth::Hour)).await;
    assert_eq!(reversed, Err(AdminError::InvalidPeriod));
}

/// The API rejects a part without a second.
#[tokio::test]
async fn period_that_ends_just_after_a_bucket_has_no_empty_part() {
    let (_admin, _server, client) = start().await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let minute = SystemTime::UNIX_EPOCH + Duration::from_secs(now.unwrap().as_secs() / 60 * 60);
    for (millis, parts) in [(0, 2), (300, 3), (1_300, 3)] {
        let until = minute + Duration::from_millis(millis);
        let since = until - Duration::from_secs(2 * 86_400);
        let usage = within(client.usage(since, until, UsageWidth::Minute)).await;
        assert_eq!(usage.unwrap().lines().count(), parts, "{millis}");
    }
}

#[tokio::test]
async fn organization_without_analytics_gets_the_older_report() {
    let (admin, server, client) = start().await;
    admin.remove_analytics();
    call_once(&server).await;
    let until = SystemTime::now() + Duration::from_secs(120);
    let since = until - Duration::from_secs(3_600);
    let text = within(client.usage(since, until, UsageWidth::Minute))
        .await
        .unwrap();
    let rows = rows(&text);
    assert_eq!(rows[0]["results"][0]["model"], "claude-sonnet-5-5");
    assert!(admin.requests()[1].starts_with("/v1/organizations/usage_report/messages?"));
}

#[tokio::test]
async fn pages_are_followed_to_the_last_one() {
    let upstream = Upstream::new(|request| async move {
        assert_eq!(request.headers["authorization"], format!("Bearer {KEY}"));
        let query = request.uri.query().unwrap();
        match query.split_once("&page=").map(|(_, page)| page) {
            None => json(200, r#"{"data":[1],"next_page":"a/b"}"#),
            Some("a%2Fb") => json(200, r#"{"data":[2],"next_page":"c"}"#),
            Some("c") => json(200, r#"{"data":[3],"next_page":null}"#),
            other => panic!("{other:?}"),
        }
    })
    .await;
    let client = AdminClient::with_url(KEY, &upstream.url()).unwrap();
    let json = within(client.rate_limits()).await.unwrap();
    assert!(json.starts_with(r#"{"data":[1,2,3],"#), "{json}");
}

#[tokio::test]
async fn expired_cursor_begins_the_list_anew_three_times_at_most() {
    let upstream = Upstream::new(|request| async move {
        match request.uri.query().unwrap().contains("&page=") {
            false => json(200, r#"{"data":[1],"next_page":"a"}"#),
            true => json(
                410,
                r#"{"type":"error","error":{"type":"gone","message":"m"}}"#,
            ),
        }
    })
    .await;
    let client = AdminClient::with_url(KEY, &upstream.url()).unwrap();
    let error = within(client.rate_limits()).await.unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::GONE));
    assert_eq!(upstream.received().len(), 8);
}

#[tokio::test]
async fn failure_that_passes_is_retried_and_one_that_stays_is_typed() {
    let (admin, _server, client) = start().await;
    admin.fail_next(StatusCode::SERVICE_UNAVAILABLE, None);
    admin.fail_next(StatusCode::TOO_MANY_REQUESTS, Some(1));
    assert!(within(client.rate_limits()).await.is_ok());
    assert_eq!(admin.requests().len(), 3);
    // Longer than anybody waits at a prompt.
    admin.fail_next(StatusCode::TOO_MANY_REQUESTS, Some(3_600));
    let error = within(client.rate_limits()).await.unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::TOO_MANY_REQUESTS));
    assert!(error.to_string().contains("try again later"), "{error}");
}

#[tokio::test]
async fn wrong_key_and_wrong_answer_are_reported_without_the_key() {
    let (admin, server, _) = start().await;
    let client = AdminClient::with_url("sk-ant-api-canary", &server.url()).unwrap();
    let error = within(client.rate_limits()).await.unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::UNAUTHORIZED));
    assert_eq!(admin.requests().len(), 1, "it is not sent again");
    let upstream = Upstream::new(|_| async { json(200, MESSAGE) }).await;
    let other = AdminClient::with_url(KEY, &upstream.url()).unwrap();
    let invalid = within(other.rate_limits()).await.unwrap_err();
    assert!(
        matches!(invalid, AdminError::InvalidPage { .. }),
        "{invalid:?}"
    );
    for text in [
        format!("{error} {error:?} {invalid}"),
        format!("{client:?}"),
    ] {
        assert!(!text.contains("canary"), "{text}");
    }
}

#[tokio::test]
async fn key_goes_to_anthropic_and_this_machine_only() {
    for url in ["http://api.anthropic.com", "https://example.com"] {
        let error = AdminClient::with_url(KEY, url).unwrap_err();
        assert!(matches!(error, AdminError::InvalidUrl { .. }), "{error}");
        assert!(!error.to_string().contains("canary"));
    }
    assert!(AdminClient::new(KEY).is_ok());
    assert!(matches!(AdminClient::new(""), Err(AdminError::InvalidKey)));
    assert!(matches!(
        AdminClient::new("a\nb"),
        Err(AdminError::InvalidKey)
    ));
}
