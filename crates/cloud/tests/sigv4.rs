//! Signatures of AWS: the official vectors, those of botocore, and a calculation of its own.
#![cfg(feature = "bedrock")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use hmac_sha256::{HMAC, Hash};
use http::{HeaderName, HeaderValue, Method, Request, header::HOST, request::Parts};
use proptest::prelude::*;
use serde_json::Value;
use tower_claude_cloud::{
    Authorization, Authorize,
    bedrock::{Credentials, SigV4},
};

const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// 2015-08-30 12:36:00 UTC.
const OF_SUITE: u64 = 1_440_938_160;
/// 2026-11-30 12:00:00 UTC.
const OF_BOTOCORE: u64 = 1_796_040_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn cases(json: &str) -> Vec<Value> {
    serde_json::from_str(json).expect("valid test data")
}

/// Signs with the layer's own signer.
fn sign(signer: &SigV4, head: &mut Parts, body: &[u8], time: SystemTime) -> Result<(), String> {
    match signer.authorize(head, &Bytes::copy_from_slice(body), time) {
        Authorization::Done(0) => Ok(()),
        Authorization::Failed(error) => {
            let source = std::error::Error::source(&error).expect("a cause");
            Err(source.to_string())
        }
        other => panic!("{other:?}"),
    }
}

fn header<'a>(head: &'a Parts, name: &str) -> &'a str {
    let mut values = head.headers.get_all(name).iter();
    let value = values.next().unwrap_or_else(|| panic!("no {name}"));
    assert!(values.next().is_none(), "{name} is there once");
    value.to_str().expect("visible ASCII")
}

/// Parses the text of a request in the suite. `None` if its target is no URI.
fn parse(text: &str) -> Option<(Parts, &str)> {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    // A value that continues in the next line is one value with spaces.
    let head = head.replace("\n ", " ");
    let mut lines = head.lines();
    let start = lines.next().expect("a request line");
    let (method, rest) = start.split_once(' ').expect("a method");
    let target = rest.strip_suffix(" HTTP/1.1").expect("a version");
    let headers: Vec<_> = lines
        .map(|line| line.split_once(':').expect("a header"))
        .collect();
    let (_, host) = headers
        .iter()
        .find(|(name, _)| *name == "Host")
        .expect("a host");
    let request = Request::builder()
        .method(method)
        .uri(format!("https://{host}{target}"));
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    Some((request.body(()).ok()?.into_parts().0, body))
}

/// Cases of the suite for which our signer must give another result, with the reason.
fn exception(case: &Value) -> Option<&'static str> {
    let name = case["name"].as_str().expect("a name");
    if case["normalize"] == Value::Bool(false) {
        return Some("paths that are not normalized are those of S3");
    }
    match name {
        "get-space-normalized" => Some("an encoded path is encoded once more, but not for S3"),
        "post-sts-header-after" => Some("the session token is signed as well"),
        _ if case["sign_body"] == Value::Bool(true) => {
            Some("the hash of the body is signed, but only S3 wants it in a header too")
        }
        _ => None,
    }
}

#[test]
fn official_vectors_have_the_expected_signature() {
    let mut signed = 0;
    for case in cases(include_str!("data/aws/sigv4.json")) {
        let name = case["name"].as_str().expect("a name");
        let text = case["request"].as_str().expect("a request");
        let expected = case["authorization"].as_str().expect("an authorization");
        let Some((mut head, body)) = parse(text) else {
            assert_eq!(
                name, "get-space-unnormalized",
                "a space is not part of a path"
            );
            continue;
        };
        // These two have credentials of their own. The second names only the place.
        let (key, secret, scope) = match name {
            "double-encode-path" => (
                "ANOTREAL",
                "notrealrnrELgWzOk3IfjzDKtFBhDby",
                ("service", "us-east-1"),
            ),
            "double-url-encode" => (KEY, SECRET, ("lambda", "us-east-2")),
            _ => (KEY, SECRET, ("service", "us-east-1")),
        };
        let time = if name == "double-url-encode" {
            // 2021-05-11 15:40:45 UTC.
            at(1_620_747_645)
        } else {
            at(OF_SUITE)
        };
        let mut credentials = Credentials::new(key, secret);
        if let Some(token) = case["token"].as_str() {
            credentials = credentials.with_session_token(token.to_owned());
        }
        let signer = SigV4::fixed(credentials, scope.0, scope.1);
        sign(&signer, &mut head, body.as_bytes(), time).expect("a request that can be signed");
        let actual = header(&head, "authorization");
        match exception(&case) {
            // The list of exceptions must not outlive its reasons.
            Some(reason) => assert_ne!(actual, expected, "{name}: {reason}"),
            None => {
                assert_eq!(actual, expected, "{name}");
                signed += 1;
            }
        }
        assert_eq!(header(&head, "host"), head.uri.host().expect("a host"));
    }
    assert_eq!(signed, 29);
}

#[test]
fn bedrock_requests_have_the_signature_of_botocore() {
    for case in cases(include_str!("data/aws/botocore.json")) {
        let text = |key: &str| case[key].as_str();
        let host = text("host").unwrap_or("bedrock-runtime.us-west-2.amazonaws.com");
        let path = text("path").expect("a path");
        let body = text("body").expect("a body");
        let mut head = bedrock_request(&format!("https://{host}{path}"));
        let mut credentials = Credentials::new(KEY, SECRET);
        if let Some(token) = text("token") {
            credentials = credentials.with_session_token(token.to_owned());
        }
        let service = text("service").unwrap_or("bedrock");
        let signer = SigV4::fixed(credentials, service, "us-west-2");
        sign(&signer, &mut head, body.as_bytes(), at(OF_BOTOCORE)).expect("a signature");
        let expected = text("authorization").expect("an authorization");
        assert_eq!(header(&head, "authorization"), expected, "{path}");
        assert_eq!(head.uri.path_and_query().expect("a path").as_str(), path);
    }
}

fn bedrock_request(uri: &str) -> Parts {
    Request::post(uri)
        .header("content-type", "application/json")
        .header("accept", "application/json")
        .header("x-amzn-bedrock-guardrailidentifier", "gr-1")
        .body(())
        .expect("a valid request")
        .into_parts()
        .0
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string");
        text
    })
}

/// Calculates the signature of a request by the published rules, without the library.
fn calculated(head: &Parts, body: &[u8], day: &str, scope: (&str, &str)) -> String {
    let authorization = header(head, "authorization");
    let (_, rest) = authorization.split_once("SignedHeaders=").expect("headers");
    let (names, _) = rest.split_once(',').expect("a signature");
    let mut headers = BTreeMap::new();
    for name in names.split(';') {
        let host = head.uri.authority().expect("a host").as_str();
        let value = match head.headers.get(name) {
            Some(value) => value.to_str().expect("visible ASCII"),
            None if name == "host" => host,
            None => panic!("{name} is signed but not sent"),
        };
        let words: Vec<_> = value.split(' ').filter(|word| !word.is_empty()).collect();
        headers.insert(name, words.join(" "));
    }
    let path = head
        .uri
        .path()
        .bytes()
        .fold(String::new(), |mut path, byte| {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                    path.push(byte.into());
                }
                other => write!(path, "%{other:02X}").expect("a string"),
            }
            path
        });
    let lines: String = headers
        .iter()
        .map(|(name, value)| format!("{name}:{value}\n"))
        .collect();
    let names: Vec<_> = headers.keys().copied().collect();
    let canonical = format!(
        "{}\n{path}\n{}\n{lines}\n{}\n{}",
        head.method,
        head.uri.query().unwrap_or_default(),
        names.join(";"),
        hex(Hash::hash(body)),
    );
    let (service, region) = scope;
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let date = header(head, "x-amz-date");
    let text = format!(
        "AWS4-HMAC-SHA256\n{date}\n{scope}\n{}",
        hex(Hash::hash(canonical.as_bytes()))
    );
    let key = HMAC::mac(day, format!("AWS4{SECRET}"));
    let key = HMAC::mac(region, key);
    let key = HMAC::mac(service, key);
    let key = HMAC::mac("aws4_request", key);
    let signature = hex(HMAC::mac(text, key));
    format!(
        "AWS4-HMAC-SHA256 Credential={KEY}/{scope}, SignedHeaders={}, Signature={signature}",
        names.join(";"),
    )
}

/// Encodes a model id as one segment of a path, as the official SDKs do.
fn segment(id: &str) -> String {
    id.bytes().fold(String::new(), |mut path, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b';' => {
                path.push(byte.into());
            }
            other => write!(path, "%{other:02X}").expect("a string"),
        }
        path
    })
}

proptest! {
    #[test]
    fn signature_of_any_model_id_and_body_is_the_calculated_one(
        id in "[a-zA-Z0-9:;/%. +@é模😀-]{1,40}",
        body in proptest::collection::vec(any::<u8>(), 0..200),
        value in "[!-~]([ -~]{0,20}[!-~])?",
        token in proptest::option::of("[!-~]{1,60}"),
    ) {
        // A segment of dots is refused before a path is made of it.
        prop_assume!(!matches!(&*id, "." | ".."));
        let uri = format!("https://bedrock-runtime.eu-west-1.amazonaws.com/model/{}/invoke", segment(&id));
        let mut head = bedrock_request(&uri);
        let value = HeaderValue::from_str(&value).expect("visible ASCII");
        head.headers.insert("x-amzn-bedrock-guardrailversion", value);
        let mut credentials = Credentials::new(KEY, SECRET);
        if let Some(token) = token {
            credentials = credentials.with_session_token(token);
        }
        let signer = SigV4::fixed(credentials, "bedrock", "eu-west-1");
        sign(&signer, &mut head, &body, at(OF_BOTOCORE)).expect("a signature");
        let expected = calculated(&head, &body, "20261130", ("bedrock", "eu-west-1"));
        prop_assert_eq!(header(&head, "authorization"), expected);
    }
}

fn signer() -> SigV4 {
    SigV4::fixed(Credentials::new(KEY, SECRET), "bedrock", "us-west-2")
}

const URI: &str = "https://bedrock-runtime.us-west-2.amazonaws.com/model/m/invoke";

fn signed_names(head: &Parts) -> Vec<&str> {
    let (_, rest) = header(head, "authorization")
        .split_once("SignedHeaders=")
        .expect("signed headers");
    let (names, _) = rest.split_once(',').expect("a signature");
    names.split(';').collect()
}

#[test]
fn headers_that_proxies_change_are_sent_but_not_signed() {
    let mut head = bedrock_request(URI);
    let changing = [
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "keep-alive",
        "proxy-connection",
        "te",
        "traceparent",
        "transfer-encoding",
        "user-agent",
        "via",
        "x-amzn-trace-id",
        "x-forwarded-for",
        "x-hop",
    ];
    for name in changing {
        head.headers
            .insert(HeaderName::from_static(name), HeaderValue::from_static("a"));
    }
    head.headers
        .insert("connection", HeaderValue::from_static("close, X-Hop"));
    sign(&signer(), &mut head, b"{}", at(OF_BOTOCORE)).expect("a signature");
    let expected = [
        "accept",
        "content-type",
        "host",
        "x-amz-date",
        "x-amzn-bedrock-guardrailidentifier",
    ];
    assert_eq!(signed_names(&head), expected);
    for name in changing {
        assert!(head.headers.contains_key(name), "{name}");
    }
}

#[test]
fn credentials_of_another_kind_are_replaced() {
    let mut head = bedrock_request(URI);
    for (name, value) in [
        ("authorization", "Bearer secret"),
        ("authorization", "AWS4-HMAC-SHA256 Credential=FOREIGN"),
        ("x-amz-date", "20000101T000000Z"),
        ("x-amz-security-token", "foreign"),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ("x-api-key", "foreign"),
        ("host", "gateway.example"),
        ("host", "second.example"),
    ] {
        let value = HeaderValue::from_static(value);
        head.headers.append(HeaderName::from_static(name), value);
    }
    sign(&signer(), &mut head, b"{}", at(OF_BOTOCORE)).expect("a signature");
    let text = header(&head, "authorization");
    assert!(
        text.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261130/us-west-2/bedrock/")
    );
    assert_eq!(
        header(&head, "host"),
        "bedrock-runtime.us-west-2.amazonaws.com"
    );
    assert_eq!(header(&head, "x-amz-date"), "20261130T120000Z");
    assert!(head.headers["authorization"].is_sensitive());
    for name in ["x-amz-security-token", "x-amz-content-sha256", "x-api-key"] {
        assert!(!head.headers.contains_key(name), "{name}");
    }
    let expected = calculated(&head, b"{}", "20261130", ("bedrock", "us-west-2"));
    assert_eq!(text, expected);
}

#[test]
fn request_signed_twice_has_the_signature_of_the_second_time() {
    let (mut twice, mut once) = (bedrock_request(URI), bedrock_request(URI));
    sign(&signer(), &mut twice, b"{}", at(OF_SUITE)).expect("a signature");
    sign(&signer(), &mut twice, b"{}", at(OF_BOTOCORE)).expect("a signature");
    sign(&signer(), &mut once, b"{}", at(OF_BOTOCORE)).expect("a signature");
    assert_eq!(twice.headers, once.headers);
}

#[test]
fn host_with_a_port_is_signed_with_the_port_unless_it_is_the_default() {
    for (uri, expected) in [
        ("http://127.0.0.1:8080/model/m/invoke", "127.0.0.1:8080"),
        ("http://[::1]:8080/model/m/invoke", "[::1]:8080"),
        ("http://localhost:80/model/m/invoke", "localhost"),
        ("http://localhost:443/model/m/invoke", "localhost:443"),
        (
            "https://user:word@example.org:443/model/m/invoke",
            "example.org",
        ),
        ("https://example.org:80/model/m/invoke", "example.org:80"),
    ] {
        let mut head = bedrock_request(uri);
        head.headers
            .insert(HOST, HeaderValue::from_static("other.example"));
        sign(&signer(), &mut head, b"{}", at(OF_BOTOCORE)).expect("a signature");
        assert_eq!(header(&head, "host"), expected);
        let mut plain = bedrock_request(uri);
        sign(&signer(), &mut plain, b"{}", at(OF_BOTOCORE)).expect("a signature");
        assert_eq!(
            header(&plain, "authorization"),
            header(&head, "authorization")
        );
        assert!(!plain.headers.contains_key(HOST), "the client adds it");
    }
}

#[test]
fn request_or_credentials_that_cannot_be_signed_are_an_error_without_secrets() {
    let good = Credentials::new(KEY, SECRET);
    let bad_token = good.clone().with_session_token("tok\nen".to_owned());
    for (credentials, service, region) in [
        (Credentials::new("", SECRET), "bedrock", "us-west-2"),
        (Credentials::new("AKID\r\n", SECRET), "bedrock", "us-west-2"),
        (
            Credentials::new("schlüssel", SECRET),
            "bedrock",
            "us-west-2",
        ),
        (Credentials::new(KEY, ""), "bedrock", "us-west-2"),
        (bad_token, "bedrock", "us-west-2"),
        (good.clone(), "", "us-west-2"),
        (good.clone(), "bedrock", "us west 2"),
        (good.clone(), "bedrock", "us-west-2\n"),
    ] {
        let signer = SigV4::fixed(credentials, service, region);
        let mut head = bedrock_request(URI);
        let error = sign(&signer, &mut head, b"{}", at(OF_BOTOCORE)).expect_err("no signature");
        assert!(!error.contains(SECRET) && !error.contains("tok") && !error.contains("AKID"));
        assert!(!head.headers.contains_key("authorization"));
    }
    let mut relative = Request::new(()).into_parts().0;
    relative.method = Method::POST;
    let error = sign(&signer(), &mut relative, b"", at(OF_BOTOCORE)).expect_err("no host");
    assert_eq!(error, "the request has no host to be signed for");
    let mut opaque = bedrock_request(URI);
    let value = HeaderValue::from_bytes(b"\xFF").expect("an opaque value");
    opaque
        .headers
        .insert("x-amzn-bedrock-guardrailversion", value.clone());
    let error = sign(&signer(), &mut opaque, b"", at(OF_BOTOCORE)).expect_err("no text");
    assert_eq!(
        error,
        "the header x-amzn-bedrock-guardrailversion is not visible ASCII"
    );
    // Other headers need no signature.
    let mut opaque = bedrock_request(URI);
    opaque.headers.insert("x-own", value);
    sign(&signer(), &mut opaque, b"", at(OF_BOTOCORE)).expect("a signature");
    assert!(!signed_names(&opaque).contains(&"x-own"));
}

#[test]
fn debug_of_credentials_and_signer_shows_no_secret() {
    let credentials = Credentials::new(KEY, SECRET).with_session_token("token-value".to_owned());
    let signer = SigV4::fixed(credentials.clone(), "bedrock", "us-west-2");
    let text = format!("{credentials:?} {credentials:#?} {signer:?}");
    assert!(text.contains(KEY) && !text.contains(SECRET) && !text.contains("token-value"));
}
