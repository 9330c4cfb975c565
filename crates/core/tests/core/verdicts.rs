//! The verdict on every error of the API and its clouds: class, reach, and what the layers do.

use http::{HeaderMap, StatusCode};
use tower_claude_core::{
    Class, ClassifyResponse, ClaudeClassify,
    Kind::{self, *},
    Reach::{self, Credential, Group, Model, Request},
};
use tower_claude_wire::{ApiError, StreamState};

use crate::frames::{fixture, headers};

/// True if the same request is sent again.
type Again = bool;
/// True if the server certainly did not act on the request.
type Unprocessed = bool;
type Verdict = (Kind, Reach, Again, Unprocessed);

/// Classifies as a layer does: by the head, and by the body only if that is not enough.
fn class(status: u16, headers: &HeaderMap, body: &[u8]) -> Class {
    let status = StatusCode::from_u16(status).expect("a status");
    let classify = ClaudeClassify::default();
    let by_head = classify.head(status, headers);
    by_head.unwrap_or_else(|| classify.body(status, headers, body))
}

fn verdict(class: Class) -> Verdict {
    (
        class.kind,
        class.reach,
        class.is_retryable(),
        class.unprocessed,
    )
}

fn envelope(kind: &str, message: &str, code: &str) -> Vec<u8> {
    let mut error = ApiError::new(kind, message);
    error.error_code = Some(code).filter(|code| !code.is_empty()).map(Into::into);
    error.to_body().into_bytes()
}

#[test]
fn status_and_type_decide() {
    #[rustfmt::skip]
    let table: &[(u16, &str, Verdict)] = &[
        // Claude's own pairs.
        (400, "invalid_request_error", (BadRequest, Request, false, true)),
        (401, "authentication_error", (Unauthorized, Credential, false, true)),
        (402, "billing_error", (SpendLimit, Credential, false, true)),
        (403, "permission_error", (Forbidden, Request, false, true)),
        (404, "not_found_error", (NotFound, Request, false, true)),
        (408, "", (Timeout, Model, true, false)),
        (409, "conflict_error", (Conflict, Request, true, false)),
        (410, "", (NotFound, Request, false, true)),
        (412, "", (BadRequest, Request, false, true)),
        (413, "request_too_large", (TooLarge, Request, false, true)),
        (421, "", (Transport, Request, true, true)),
        (422, "", (BadRequest, Request, false, true)),
        (424, "", (ServerError, Model, true, false)),
        (425, "", (Transport, Request, true, true)),
        (429, "rate_limit_error", (RateLimited, Group, true, true)),
        (431, "", (BadRequest, Request, false, true)),
        (499, "", (BadRequest, Request, false, true)),
        (500, "api_error", (ServerError, Model, true, false)),
        (501, "", (ServerError, Model, true, false)),
        (502, "", (ServerError, Model, true, false)),
        (503, "api_error", (ServerError, Model, true, false)),
        (503, "overloaded_error", (Overloaded, Model, true, true)),
        (504, "timeout_error", (Timeout, Model, true, false)),
        (520, "", (ServerError, Model, true, false)),
        (521, "", (ServerError, Model, true, true)),
        (524, "", (Timeout, Model, true, false)),
        (529, "overloaded_error", (Overloaded, Model, true, true)),
        // The type overrules the status, except for the two general types.
        (400, "overloaded_error", (Overloaded, Model, true, true)),
        (401, "overloaded_error", (Overloaded, Model, true, true)),
        (413, "overloaded_error", (Overloaded, Model, true, true)),
        (429, "overloaded_error", (Overloaded, Model, true, true)),
        (500, "overloaded_error", (Overloaded, Model, true, true)),
        (500, "rate_limit_error", (RateLimited, Group, true, true)),
        (400, "authentication_error", (Unauthorized, Credential, false, true)),
        (502, "timeout_error", (Timeout, Model, true, false)),
        (413, "invalid_request_error", (TooLarge, Request, false, true)),
        (429, "invalid_request_error", (RateLimited, Group, true, true)),
        (529, "api_error", (Overloaded, Model, true, true)),
        (404, "api_error", (NotFound, Request, false, true)),
        (418, "future_error", (BadRequest, Request, false, true)),
        (555, "future_error", (ServerError, Model, true, false)),
    ];
    for (status, kind, expected) in table {
        let class = class(*status, &HeaderMap::new(), &envelope(kind, "m", ""));
        assert_eq!(verdict(class), *expected, "{status} {kind}");
    }
}

#[test]
fn error_code_decides() {
    #[rustfmt::skip]
    let table: &[(u16, &str, &str, Verdict)] = &[
        // Money.
        (429, "rate_limit_error", "enforced_spend_limit_reached", (SpendLimit, Credential, false, true)),
        (429, "rate_limit_error", "contract_spend_limit_reached", (SpendLimit, Credential, false, true)),
        (429, "rate_limit_error", "service_spend_limit_reached", (SpendLimit, Credential, false, true)),
        (429, "rate_limit_error", "credits_required", (SpendLimit, Request, false, true)),
        (402, "billing_error", "linked_organization_spend_limit_reached", (SpendLimit, Credential, false, true)),
        (402, "billing_error", "linked_organization_billing_unavailable", (SpendLimit, Credential, false, true)),
        // The account.
        (400, "invalid_request_error", "organization_on_hold", (Forbidden, Credential, false, true)),
        (400, "invalid_request_error", "cmek_key_disabled", (Forbidden, Credential, false, true)),
        (400, "invalid_request_error", "cmek_key_network_blocked", (Forbidden, Credential, false, true)),
        (503, "api_error", "cmek_context_unavailable", (ServerError, Credential, true, false)),
        (503, "api_error", "cmek_key_unreachable", (ServerError, Credential, true, false)),
        (403, "permission_error", "user_profile_not_found", (Forbidden, Request, false, true)),
        (403, "permission_error", "sandbox_egress_restricted", (Forbidden, Request, false, true)),
        // The model, for this account.
        (403, "permission_error", "model_access_suspended", (Forbidden, Model, false, true)),
        (400, "invalid_request_error", "program_use_case_not_held", (BadRequest, Model, false, true)),
        (400, "invalid_request_error", "claude_code_version_too_old", (BadRequest, Model, false, true)),
        // The rate group.
        (429, "rate_limit_error", "ramp_limit_exceeded", (RampLimited, Group, true, true)),
        // This request.
        (400, "invalid_request_error", "request_body_timeout", (Timeout, Request, true, true)),
        (404, "not_found_error", "thread_not_found", (NotFound, Request, false, true)),
        (400, "invalid_request_error", "thread_fingerprint_mismatch", (BadRequest, Request, false, true)),
        (400, "invalid_request_error", "thread_already_continued", (BadRequest, Request, false, true)),
        (400, "invalid_request_error", "thread_continue_in_flight", (BadRequest, Request, false, true)),
        (400, "invalid_request_error", "thread_unsupported_request", (BadRequest, Request, false, true)),
        (404, "not_found_error", "file_expired", (NotFound, Request, false, true)),
        (400, "invalid_request_error", "workspace_human_review_disabled", (BadRequest, Request, false, true)),
        (400, "invalid_request_error", "mid_conversation_system_not_supported", (BadRequest, Request, false, true)),
        (400, "invalid_request_error", "advisor_tool_unavailable", (BadRequest, Request, false, true)),
        (400, "invalid_request_error", "tool_search_not_allowed", (BadRequest, Request, false, true)),
        (400, "invalid_request_error", "image_dimensions_too_large", (BadRequest, Request, false, true)),
        (400, "invalid_request_error", "compaction_failed", (BadRequest, Request, false, true)),
        (413, "request_too_large", "request_body_too_large_after_decoding", (TooLarge, Request, false, true)),
        // Trouble of the server.
        (529, "overloaded_error", "compaction_unavailable", (Overloaded, Model, true, true)),
        (503, "api_error", "authorization_check_unavailable", (ServerError, Request, true, true)),
        (503, "api_error", "change_outcome_unknown", (ServerError, Request, true, false)),
        (503, "api_error", "workspace_created_incomplete", (ServerError, Request, false, false)),
        // An unknown code counts like none.
        (503, "overloaded_error", "future_code", (Overloaded, Model, true, true)),
        (429, "rate_limit_error", "future_code", (RateLimited, Group, true, true)),
    ];
    let yes = headers(&[("x-should-retry", "true")]);
    for (status, kind, code, expected) in table {
        let body = envelope(kind, "m", code);
        let by_code = class(*status, &HeaderMap::new(), &body);
        assert_eq!(verdict(by_code), *expected, "{status} {code}");
        // The advice of the server outranks no code of money, account or outcome.
        let (of, _, again, _) = *expected;
        if of == SpendLimit
            || *code == "organization_on_hold"
            || *code == "workspace_created_incomplete"
        {
            assert_eq!(
                class(*status, &yes, &body).is_retryable(),
                again,
                "{code} with advice"
            );
        }
        // A stream has the same class, but the server has begun to work.
        let error = ApiError::parse(&body).expect("an envelope");
        let in_stream = ClaudeClassify::default().stream_error(&error);
        assert!(!in_stream.unprocessed, "{code} in a stream");
        if !code.starts_with("future") && in_stream.kind == of {
            assert_eq!(in_stream.reach, expected.1, "{code} in a stream");
        }
    }
}

#[test]
fn text_decides_where_the_api_has_no_code() {
    const LIMIT: &str = "rate_limit_error";
    const INVALID: &str = "invalid_request_error";
    const PERMISSION: &str = "permission_error";
    const MISSING: &str = "not_found_error";
    #[rustfmt::skip]
    let table: &[(u16, &str, &str, Verdict)] = &[
        (400, INVALID, "You have reached your specified API usage limits. You will regain access", (SpendLimit, Credential, false, true)),
        (400, INVALID, "You have reached your specified workspace API usage limits.", (SpendLimit, Credential, false, true)),
        (400, INVALID, "Your credit balance is too low to access the Anthropic API.", (SpendLimit, Credential, false, true)),
        (429, LIMIT, "service_spend_limit_reached: try another service", (SpendLimit, Credential, false, true)),
        (429, LIMIT, "Extra usage is required for long context requests.", (SpendLimit, Model, false, true)),
        (429, LIMIT, "Usage credits are required for long context requests", (SpendLimit, Model, false, true)),
        (429, LIMIT, "The long context beta is not yet available for this subscription.", (SpendLimit, Model, false, true)),
        (429, LIMIT, "spend limit reached (daily; resets at midnight)", (SpendLimit, Request, false, true)),
        (400, "budget_exceeded", "Budget has been exceeded! Current cost: 2, max budget: 1", (SpendLimit, Request, false, true)),
        (429, "budget_exceeded", "Budget has been exceeded! Current cost: 2, max budget: 1", (SpendLimit, Request, false, true)),
        (429, LIMIT, "Spend limit reached for this key", (SpendLimit, Request, false, true)),
        (429, LIMIT, "This would exceed your rate limit for long context requests", (RateLimited, Group, true, true)),
        (400, INVALID, "Organization must have data retention enabled to use this", (BadRequest, Model, false, true)),
        (400, INVALID, "Invalid `signature` in `thinking` block. The block is bound to a different conversation.", (BadRequest, Request, false, true)),
        (400, INVALID, "Unexpected value(s) `x` for the `anthropic-beta` header.", (BadRequest, Request, false, true)),
        (403, PERMISSION, "Your organization has no access to claude-fable-5-2", (Forbidden, Model, false, true)),
        (403, PERMISSION, "This model requires an access grant.", (Forbidden, Model, false, true)),
        (403, PERMISSION, "OAuth authentication is not allowed here", (Forbidden, Request, false, true)),
        (404, MISSING, "model: claude-2", (NotFound, Model, false, true)),
        (404, MISSING, "Could not find the model batch", (NotFound, Request, false, true)),
        (404, MISSING, "File not found: file_1", (NotFound, Request, false, true)),
    ];
    for (status, kind, message, expected) in table {
        let class = class(*status, &HeaderMap::new(), &envelope(kind, message, ""));
        assert_eq!(verdict(class), *expected, "{status} {message}");
    }
    for code in ["user_profile_not_allowed", "sandbox_egress_restricted"] {
        let body = envelope(PERMISSION, "Not allowed to use a model", code);
        let class = class(403, &HeaderMap::new(), &body);
        assert_eq!(verdict(class), (Forbidden, Request, false, true), "{code}");
    }
    let long = class(429, &HeaderMap::new(), &fixture("429_long_context.json"));
    assert_eq!(verdict(long), (SpendLimit, Model, false, true));
}

#[test]
fn error_of_a_cloud_is_classified_by_its_own_names() {
    #[rustfmt::skip]
    let amazon: &[(u16, &str, Verdict)] = &[
        (429, "ThrottlingException", (RateLimited, Group, true, true)),
        (503, "ServiceUnavailableException", (Overloaded, Model, true, true)),
        (408, "ModelTimeoutException", (Timeout, Model, true, false)),
        (424, "ModelErrorException", (ServerError, Model, true, false)),
        (424, "ModelStreamErrorException", (ServerError, Model, true, false)),
        (500, "InternalServerException", (ServerError, Model, true, false)),
        (400, "ValidationException", (BadRequest, Request, false, true)),
        (403, "AccessDeniedException", (Forbidden, Request, false, true)),
        (404, "FTUFormNotFilledException", (Forbidden, Credential, false, true)),
        (404, "ResourceNotFoundException", (NotFound, Request, false, true)),
    ];
    for (status, name, expected) in amazon {
        for name in [
            (*name).to_owned(),
            format!("{name}:http://internal.amazon.com/coral/x/"),
        ] {
            let headers = headers(&[("x-amzn-errortype", &name)]);
            let class = class(*status, &headers, br#"{"message":"Too bad"}"#);
            assert_eq!(verdict(class), *expected, "{status} {name}");
        }
        // In a stream: any case of the first letter, as the type or as the name of the event.
        let mut lower = (*name).to_owned();
        lower[..1].make_ascii_lowercase();
        for name in [(*name).to_owned(), lower] {
            for stream in [
                format!(
                    "event: error\ndata: {{\"type\":\"error\",\"error\":{{\"type\":\"{name}\",\"message\":\"m\"}}}}\n\n"
                ),
                format!("event: {name}\ndata: {{\"message\":\"m\"}}\n\n"),
            ] {
                let mut state = StreamState::new();
                state.feed(stream.as_bytes());
                let error = state
                    .error()
                    .unwrap_or_else(|| panic!("no error in {stream}"));
                let class = ClaudeClassify::default().stream_error(error);
                assert_eq!(
                    (class.kind, class.unprocessed),
                    (expected.0, false),
                    "{stream}"
                );
            }
        }
    }
    // The form is for the account, though its text names the model.
    let form = headers(&[("x-amzn-errortype", "FTUFormNotFilledException:")]);
    let text = br#"{"message":"Model use case details have not been submitted for this account."}"#;
    let form = class(404, &form, text);
    assert_eq!(verdict(form), (Forbidden, Credential, false, true));
    let denied = headers(&[("x-amzn-errortype", "AccessDeniedException")]);
    let model = br#"{"message":"You don't have access to the model with the specified model ID."}"#;
    assert_eq!(class(403, &denied, model).reach, Model);
    #[rustfmt::skip]
    let google: &[(u16, &str, &str, Verdict)] = &[
        (429, "RESOURCE_EXHAUSTED", "Quota exceeded", (RateLimited, Group, true, true)),
        (503, "UNAVAILABLE", "m", (Overloaded, Model, true, true)),
        (500, "INTERNAL", "m", (ServerError, Model, true, false)),
        (504, "DEADLINE_EXCEEDED", "m", (Timeout, Model, true, false)),
        (401, "UNAUTHENTICATED", "m", (Unauthorized, Credential, false, true)),
        (403, "PERMISSION_DENIED", "The API is not enabled", (Forbidden, Request, false, true)),
        (403, "PERMISSION_DENIED", "Model x is not available for this organization's inference configuration.", (Forbidden, Model, false, true)),
        (404, "NOT_FOUND", "Publisher Model `x` was not found", (NotFound, Model, false, true)),
        (404, "NOT_FOUND", "Endpoint `x` was not found", (NotFound, Request, false, true)),
        (400, "INVALID_ARGUMENT", "m", (BadRequest, Request, false, true)),
        (400, "FAILED_PRECONDITION", "m", (BadRequest, Request, false, true)),
        (409, "ABORTED", "m", (Conflict, Request, true, false)),
    ];
    for (status, name, message, expected) in google {
        let body =
            format!(r#"{{"error":{{"code":{status},"message":"{message}","status":"{name}"}}}}"#);
        let by_body = class(*status, &HeaderMap::new(), body.as_bytes());
        assert_eq!(verdict(by_body), *expected, "{status} {name}");
        let in_array = class(*status, &HeaderMap::new(), format!("[{body}]").as_bytes());
        assert_eq!(verdict(in_array), *expected, "{status} {name} in an array");
    }
}

#[test]
fn body_without_an_error_is_classified_by_status() {
    for body in [
        "",
        "<html><title>x</title></html>",
        "<?xml version=\"1.0\"?><Error/>",
        "upstream connect error",
        "{\"type\":\"error\"",
        "{}",
    ] {
        for (status, kind) in [
            (400, BadRequest),
            (401, Unauthorized),
            (403, Forbidden),
            (404, NotFound),
            (413, TooLarge),
            (429, RateLimited),
            (500, ServerError),
            (502, ServerError),
            (503, ServerError),
            (504, Timeout),
            (529, Overloaded),
        ] {
            let class = class(status, &HeaderMap::new(), body.as_bytes());
            assert_eq!(class, Class::new(kind), "{status} {body}");
        }
    }
}

#[test]
fn should_retry_of_the_server_comes_before_the_status() {
    let class =
        |status, advice, body: &[u8]| class(status, &headers(&[("x-should-retry", advice)]), body);
    let overloaded = envelope("overloaded_error", "m", "");
    let no = class(503, "false", &overloaded);
    assert_eq!(verdict(no), (Overloaded, Model, false, true));
    let yes = class(404, "true", &envelope("not_found_error", "m", ""));
    assert!(yes.is_retryable());
    let limited = class(429, "false", &envelope("rate_limit_error", "m", ""));
    assert_eq!(verdict(limited), (RateLimited, Request, false, true));
    assert!(!limited.is_rate_limit(), "no other request is delayed");
    for text in [
        "spend limit reached (daily; resets 00:00)",
        "Extra usage is required for long context requests.",
    ] {
        for advice in ["true", "false"] {
            let class = class(429, advice, &envelope("rate_limit_error", text, ""));
            assert!(
                !class.is_retryable() && !class.is_rate_limit(),
                "{text} {advice}"
            );
        }
    }
}

#[test]
fn rejection_of_a_subscription_is_an_explicit_wait() {
    let date = ("date", "Wed, 25 Mar 2026 20:20:00 GMT");
    let rejected = ("anthropic-ratelimit-unified-status", "rejected");
    let reset = ("anthropic-ratelimit-unified-reset", "1774470060");
    let limit = envelope("rate_limit_error", "m", "");
    let wait = |pairs: &[(&'static str, &str)]| {
        let class = class(429, &headers(pairs), &limit);
        assert!(class.is_rate_limit());
        class.retry_after.map(|wait| wait.as_secs())
    };
    assert_eq!(wait(&[date, rejected, reset]), Some(60));
    assert_eq!(
        wait(&[date, rejected, reset, ("retry-after", "90")]),
        Some(90)
    );
    assert_eq!(
        wait(&[date, rejected, reset, ("retry-after", "5")]),
        Some(60)
    );
    assert_eq!(
        wait(&[date, rejected, reset, ("x-should-retry", "false")]),
        Some(60)
    );
    assert_eq!(wait(&[date, reset]), None);
    let overage = ("anthropic-ratelimit-unified-overage-reset", "1774490000");
    assert_eq!(wait(&[date, rejected, overage]), None);
    // Paid use beyond the subscription is off, for good or just now.
    const REASON: &str = "anthropic-ratelimit-unified-overage-disabled-reason";
    let credits = envelope("rate_limit_error", "m", "credits_required");
    let of = |reason| {
        class(
            429,
            &headers(&[(REASON, reason), ("retry-after", "9")]),
            &credits,
        )
    };
    for reason in [
        "out_of_credits",
        "org_level_disabled",
        "org_spend_cap_reached",
    ] {
        assert_eq!(
            verdict(of(reason)),
            (SpendLimit, Request, false, true),
            "{reason}"
        );
    }
    for reason in ["fetch_error", "org_level_disabled_until"] {
        assert_eq!(
            verdict(of(reason)),
            (RateLimited, Group, true, true),
            "{reason}"
        );
    }
}
