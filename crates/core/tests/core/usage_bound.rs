//! The most that a response can truly report.

use http::Request;
use tower_claude_core::{RequestBody, UsageBound};

const WINDOW: u32 = 1_000_000;

fn bound(fields: &str) -> UsageBound {
    let body = format!(
        r#"{{"model":"claude-sonnet-5-5","max_tokens":100,"messages":[{{"role":"user","content":"Hi"}}]{fields}}}"#
    );
    UsageBound::of(
        &Request::post("/v1/messages")
            .body(RequestBody::from(body))
            .expect("a request"),
    )
}

#[test]
fn plain_request_is_bound_by_its_bytes_and_max_tokens() {
    for fields in [
        "",
        r#","tools":[{"name":"f","input_schema":{}},{"type":"bash_20250124","name":"bash"}]"#,
        r#","thinking":{"type":"adaptive"},"metadata":{"user_id":"u"},"stream":true"#,
    ] {
        let bound = bound(fields);
        assert!(
            (200_080..200_300).contains(&bound.input_tokens),
            "{fields} {bound:?}"
        );
        assert_eq!(bound.output_tokens, 100);
    }
    let long = format!(r#","x":"{}""#, "x".repeat(2_000_000));
    assert_eq!(bound(&long).input_tokens, WINDOW, "no more than the window");
}

#[test]
fn media_are_bound_by_the_window() {
    let image = r#","system":[{"type":"image","source":{"type":"url","url":"https://x"}}]"#;
    assert_eq!(bound(image), UsageBound::new(WINDOW, 100));
}

#[test]
fn request_that_the_server_expands_is_bound_by_ten_windows() {
    for fields in [
        r#","tools":[{"type":"web_search_20250305","name":"web_search"}]"#,
        r#","mcp_servers":[{"type":"url","url":"https://x"}]"#,
        r#","container":"c""#,
        r#","thread":{"type":"create"}"#,
        r#","fallbacks":"default""#,
        r#","context_management":{}"#,
        r#","th\u0072ead":{}"#,
    ] {
        assert_eq!(
            bound(fields),
            UsageBound::new(10 * WINDOW, 1_000),
            "{fields}"
        );
    }
}

#[test]
fn request_that_cannot_be_read_has_the_bound_of_an_unknown_one() {
    for body in ["", "[]", "text"] {
        let request = Request::new(RequestBody::from(body));
        assert_eq!(UsageBound::of(&request), UsageBound::UNKNOWN, "{body}");
    }
    let unlisted = r#"{"model":"other","messages":[]}"#;
    let bound = UsageBound::of(&Request::new(RequestBody::from(unlisted)));
    assert!(bound.input_tokens < 200_100 && bound.output_tokens == 3_000_000);
}
