//! Messages for end users in errors, in their language.

use crate::common::{MESSAGE, REQUEST, TestGateway, Upstream, config_for, json, send};

const ERROR: &str = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_1"}"#;

const MESSAGES: &str = r#"
[[user_messages]]
language = "en"
text = "Please try again in {wait}."
text_without_wait = "Please try again later."
[[user_messages]]
language = "de"
text = "Bitte in {wait} noch einmal versuchen."
text_without_wait = "Bitte später noch einmal versuchen."
"#;

/// An upstream that answers everything with a 529, with this `retry-after` if there is one.
async fn overloaded(retry_after: Option<&'static str>) -> Upstream {
    Upstream::new(move |_| async move {
        let mut response = json(529, ERROR);
        if let Some(seconds) = retry_after {
            let seconds = seconds.parse().unwrap();
            response.headers_mut().insert("retry-after", seconds);
        }
        response
    })
    .await
}

async fn gateway(upstream: &Upstream) -> TestGateway {
    let once = "max_attempts = 1";
    TestGateway::new(config_for(upstream, "", &format!("{once}\n{MESSAGES}"))).await
}

#[tokio::test]
async fn error_gets_a_message_in_the_language_of_the_user_and_keeps_its_fields() {
    let upstream = overloaded(Some("130")).await;
    let gateway = gateway(&upstream).await;
    for (languages, message) in [
        (None, "Please try again in 3 min."),
        (
            Some("de-CH, en;q=0.8"),
            "Bitte in 3 min noch einmal versuchen.",
        ),
    ] {
        let mut request = gateway.message();
        if let Some(languages) = languages {
            request = request.header("accept-language", languages);
        }
        let got = send(request, REQUEST).await;
        let body: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
        assert_eq!(
            (got.status, got.error_type().as_str()),
            (529, "overloaded_error")
        );
        assert_eq!(body["user_message"], message);
        assert_eq!(body["request_id"], "req_1");
        assert_eq!(got.header("vary"), "accept-language");
    }
}

#[tokio::test]
async fn message_without_a_known_wait_names_none() {
    let upstream = overloaded(None).await;
    let gateway = gateway(&upstream).await;
    let got = send(gateway.request("GET", "/v1/models"), "").await;
    let body: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
    assert_eq!(body["user_message"], "Please try again later.");
}

#[tokio::test]
async fn rejection_of_the_limiter_names_its_own_wait() {
    let upstream = Upstream::new(|_| async { json(200, MESSAGE) }).await;
    let limits = "max_wait = \"0s\"\nlimits = { requests_per_minute = 1 }";
    let config = config_for(&upstream, "", &format!("{limits}\n{MESSAGES}"));
    let gateway = TestGateway::new(config).await;
    assert_eq!(send(gateway.message(), REQUEST).await.status, 200);
    let got = send(gateway.message(), REQUEST).await;
    let body: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
    assert_eq!(got.status, 429);
    let message = body["user_message"].as_str().unwrap();
    let seconds: u64 = got.header("retry-after").parse().unwrap();
    assert_eq!(message, format!("Please try again in {seconds} s."));
}

#[tokio::test]
async fn errors_without_messages_and_other_responses_pass_unchanged() {
    let upstream = overloaded(Some("2")).await;
    let config = config_for(&upstream, "", "max_attempts = 1");
    let plain = TestGateway::new(config).await;
    let got = send(plain.message(), REQUEST).await;
    assert_eq!(got.text(), ERROR);

    let invalid = r#"{"type":"error","error":{"type":"invalid_request_error","message":"x"}}"#;
    let upstream = Upstream::new(move |request| async move {
        match request.uri.path() {
            "/v1/messages" => json(400, invalid),
            "/v1/long" => json(503, format!("{{\"a\":\"{}\"}}", "x".repeat(100_000))),
            _ => {
                let mut response = json(503, "<html>down</html>");
                let html = "text/html".parse().unwrap();
                response.headers_mut().insert("content-type", html);
                response
            }
        }
    })
    .await;
    let gateway = gateway(&upstream).await;
    let got = send(gateway.message(), REQUEST).await;
    assert_eq!(got.text(), invalid);
    let got = send(gateway.request("GET", "/v1/models"), "").await;
    assert_eq!(got.text(), "<html>down</html>");
    let got = send(gateway.request("GET", "/v1/long"), "").await;
    assert_eq!(got.body.len(), 100_008);
}

#[test]
fn message_without_a_place_for_the_wait_is_an_error_with_its_line() {
    let toml = "[[user_messages]]\nlanguage = \"en\"\ntext = \"Wait\"\ntext_without_wait = \"\"\n\
                [[user_messages]]\nlanguage = \"EN\"\ntext = \"{wait}\"\ntext_without_wait = \"a\"\n";
    let errors = tower_claude_gateway::Config::from_toml(toml).unwrap_err();
    let errors = errors.to_string();
    for part in [
        "line 3: user_messages[0].text: has no {wait}",
        "line 4: user_messages[0].text_without_wait: is empty",
        "line 6: user_messages[1].language: \"EN\" is not unique",
    ] {
        assert!(errors.contains(part), "{errors}");
    }
}
