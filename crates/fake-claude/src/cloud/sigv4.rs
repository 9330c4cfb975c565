//! Verifier of AWS Signature Version 4, for headers. It shares no code with any signer, so that
//! each checks the other.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac_sha256::{HMAC, Hash};
use http::HeaderMap;
use http::header::AUTHORIZATION;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// The greatest difference between the clocks of client and server.
const SKEW: Duration = Duration::from_secs(300);

/// A request as it was signed.
pub(super) struct SignedRequest<'a> {
    pub(super) method: &'a str,
    /// The path as it was sent, with its percent-encoding.
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) headers: &'a HeaderMap,
    /// The host of a request without a `host` header: that of the URI.
    pub(super) authority: Option<&'a str>,
    pub(super) body: &'a [u8],
}

/// The parts of an `authorization` header.
#[derive(Debug)]
pub(super) struct Signature<'a> {
    pub(super) access_key: &'a str,
    pub(super) day: &'a str,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    signed: Vec<&'a str>,
    signature: &'a str,
}

/// A reason why a signature is not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SignatureError {
    /// The header has no signature of this version.
    Missing,
    /// The header or the date is malformed.
    Incomplete(String),
    /// The signature is another one, for these two texts.
    Mismatch { canonical: String, to_sign: String },
    /// A header must be signed.
    Unsigned(String),
    /// The date is too far from that of the server.
    Expired(String),
    /// The scope of the credential is not that of the server.
    Scope(String),
}

impl<'a> Signature<'a> {
    /// Parses the `authorization` header.
    pub(super) fn parse(headers: &'a HeaderMap) -> Result<Self, SignatureError> {
        let value = headers.get(AUTHORIZATION).ok_or(SignatureError::Missing)?;
        let value = value.to_str().map_err(|_| SignatureError::Missing)?;
        let fields = value
            .strip_prefix(ALGORITHM)
            .and_then(|rest| rest.strip_prefix(' '))
            .ok_or(SignatureError::Missing)?;
        let field = |name: &str| {
            let mut fields = fields.split(',').map(str::trim);
            let found = fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
            found.filter(|value| !value.is_empty()).ok_or_else(|| {
                SignatureError::Incomplete(format!(
                    "Authorization header requires '{name}' parameter."
                ))
            })
        };
        let credential = field("Credential")?;
        let scope: Vec<&str> = credential.rsplitn(5, '/').collect();
        let [end, service, region, day, access_key] = scope[..] else {
            return Err(SignatureError::Incomplete(
                "Credential must have exactly 5 slash-delimited elements.".to_owned(),
            ));
        };
        if end != "aws4_request" {
            return Err(SignatureError::Scope(
                "Credential should be scoped with a valid terminator: 'aws4_request'.".to_owned(),
            ));
        }
        let signed: Vec<&str> = field("SignedHeaders")?.split(';').collect();
        if !signed.windows(2).all(|pair| pair[0] < pair[1])
            || signed
                .iter()
                .any(|name| name.bytes().any(|b| b.is_ascii_uppercase()))
        {
            return Err(SignatureError::Incomplete(
                "SignedHeaders must be lower case, sorted and without duplicates.".to_owned(),
            ));
        }
        Ok(Self {
            access_key,
            day,
            region,
            service,
            signed,
            signature: field("Signature")?,
        })
    }

    /// Checks the signature of a request, without its time and its scope.
    pub(super) fn verify(
        &self,
        request: &SignedRequest<'_>,
        secret: &str,
    ) -> Result<(), SignatureError> {
        let date = date(request.headers)?;
        if !date.starts_with(self.day) {
            return Err(SignatureError::Scope(format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{}' != '{date}'.",
                self.day
            )));
        }
        if !self.signed.contains(&"host") {
            return Err(SignatureError::Unsigned("Host".to_owned()));
        }
        for name in request.headers.keys().map(http::HeaderName::as_str) {
            if name.starts_with("x-amz-") && !self.signed.contains(&name) {
                return Err(SignatureError::Unsigned(name.to_owned()));
            }
        }
        let canonical = self.canonical(request)?;
        let scope = format!("{}/{}/{}/aws4_request", self.day, self.region, self.service);
        let hash = hex(&Hash::hash(canonical.as_bytes()));
        let to_sign = format!("{ALGORITHM}\n{date}\n{scope}\n{hash}");
        let mut key = HMAC::mac(self.day, format!("AWS4{secret}"));
        for part in [self.region, self.service, "aws4_request"] {
            key = HMAC::mac(part, key);
        }
        if hex(&HMAC::mac(&to_sign, key)) != self.signature {
            return Err(SignatureError::Mismatch { canonical, to_sign });
        }
        Ok(())
    }

    /// Returns the canonical request.
    fn canonical(&self, request: &SignedRequest<'_>) -> Result<String, SignatureError> {
        let mut headers = String::new();
        for name in &self.signed {
            let values: Vec<&[u8]> = request
                .headers
                .get_all(*name)
                .iter()
                .map(http::HeaderValue::as_bytes)
                .collect();
            let host = request.authority.map(str::as_bytes);
            let values = match (values.is_empty(), *name, host) {
                (true, "host", Some(host)) => vec![host],
                (true, ..) => return Err(SignatureError::Unsigned((*name).to_owned())),
                (false, ..) => values,
            };
            let values: Vec<String> = values.iter().map(|value| squeezed(value)).collect();
            headers.push_str(&format!("{name}:{}\n", values.join(",")));
        }
        Ok(format!(
            "{}\n{}\n{}\n{headers}\n{}\n{}",
            request.method,
            canonical_path(request.path),
            canonical_query(request.query),
            self.signed.join(";"),
            hex(&Hash::hash(request.body)),
        ))
    }
}

/// Checks the time of a request.
pub(super) fn check_time(headers: &HeaderMap, now: SystemTime) -> Result<(), SignatureError> {
    let date = date(headers)?;
    let at = seconds(date)
        .ok_or_else(|| SignatureError::Incomplete(format!("'{date}' is not a valid date.")))?;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if at.abs_diff(now) > SKEW.as_secs() {
        let minutes = SKEW.as_secs() / 60;
        let relation = if at < now {
            "expired"
        } else {
            "not yet current"
        };
        return Err(SignatureError::Expired(format!(
            "Signature {relation}: {date} is more than {minutes} min. from the time of the server."
        )));
    }
    Ok(())
}

fn date(headers: &HeaderMap) -> Result<&str, SignatureError> {
    let date = headers
        .get("x-amz-date")
        .and_then(|date| date.to_str().ok());
    date.ok_or_else(|| {
        SignatureError::Incomplete(
            "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
                .to_owned(),
        )
    })
}

/// Returns the seconds since 1970 of a date such as `20150830T123600Z`.
fn seconds(date: &str) -> Option<u64> {
    let time = date.parse::<jiff::Timestamp>().ok()?;
    u64::try_from(time.as_second()).ok()
}

/// Returns the path as AWS signs it for all services but S3: without empty and dot segments, and
/// with the percent-encoding of the sent path encoded once more.
fn canonical_path(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    let mut canonical = String::new();
    for segment in &segments {
        canonical.push('/');
        encode(&mut canonical, segment.as_bytes());
    }
    let is_folder = path.ends_with(['/']) || path.ends_with("/.") || path.ends_with("/..");
    if is_folder || segments.is_empty() {
        canonical.push('/');
    }
    canonical
}

fn canonical_query(query: &str) -> String {
    let mut pairs: BTreeMap<(String, String), usize> = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let encoded = |text: &str| {
            let mut out = String::new();
            encode(&mut out, &percent_decoded(text));
            out
        };
        *pairs.entry((encoded(name), encoded(value))).or_default() += 1;
    }
    let mut parts = Vec::new();
    for ((name, value), count) in pairs {
        parts.extend(std::iter::repeat_n(format!("{name}={value}"), count));
    }
    parts.join("&")
}

/// Appends bytes with all but the unreserved characters percent-encoded.
fn encode(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(*byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

/// Returns the bytes of a text whose percent-encoding is removed. A `%` without two hex digits
/// stands for itself.
pub(super) fn percent_decoded(text: &str) -> Vec<u8> {
    let mut rest = text.as_bytes();
    let mut out = Vec::with_capacity(rest.len());
    while let Some((byte, tail)) = rest.split_first() {
        let code = tail.get(..2).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)
        });
        match (byte, code) {
            (b'%', Some(code)) => {
                out.push(code);
                rest = &tail[2..];
            }
            _ => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    out
}

/// Returns a header value without spaces at its ends and with single spaces within.
fn squeezed(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    text.split(' ')
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::{
        Signature, SignatureError, SignedRequest, canonical_path, canonical_query, check_time,
        seconds,
    };

    const VECTORS: &str = include_str!("../../tests/data/sigv4_vectors.txt");
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    /// A request of the test suite.
    struct Vector {
        name: &'static str,
        method: &'static str,
        path: &'static str,
        query: &'static str,
        headers: HeaderMap,
        body: &'static str,
    }

    impl Vector {
        fn parse(text: &'static str) -> Self {
            let (name, text) = text.split_once('\n').expect("a name");
            let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
            let mut lines = head.lines();
            let line = lines.next().expect("a request line");
            let (method, line) = line.split_once(' ').expect("a method");
            let target = line.strip_suffix(" HTTP/1.1").unwrap_or(line);
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let headers = lines.map(|line| {
                let (name, value) = line.split_once(':').expect("a header");
                let name: HeaderName = name.trim().parse().expect("a name");
                let value = HeaderValue::from_bytes(value.trim().as_bytes()).expect("a value");
                (name, value)
            });
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(name, value);
            }
            Self {
                name,
                method,
                path,
                query,
                headers: map,
                body: body.trim_end_matches('\n'),
            }
        }

        fn all() -> Vec<Self> {
            let texts = VECTORS.split("=== ").skip(1);
            texts.map(Self::parse).collect()
        }

        fn request(&self) -> SignedRequest<'_> {
            SignedRequest {
                method: self.method,
                path: self.path,
                query: self.query,
                headers: &self.headers,
                authority: None,
                body: self.body.as_bytes(),
            }
        }

        fn verify(&self, secret: &str) -> Result<(), SignatureError> {
            Signature::parse(&self.headers)?.verify(&self.request(), secret)
        }
    }

    #[test]
    fn signed_requests_of_the_test_suite_are_accepted() {
        let vectors = Vector::all();
        assert_eq!(vectors.len(), 20);
        for vector in vectors {
            assert_eq!(vector.verify(SECRET), Ok(()), "{}", vector.name);
        }
    }

    #[test]
    fn changed_requests_of_the_test_suite_are_rejected() {
        let is_mismatch = |result| matches!(result, Err(SignatureError::Mismatch { .. }));
        for vector in Vector::all() {
            assert!(is_mismatch(vector.verify("another")), "{}", vector.name);
            let signature = Signature::parse(&vector.headers).expect("a signature");
            let other = SignedRequest {
                method: "PUT",
                ..vector.request()
            };
            assert!(
                is_mismatch(signature.verify(&other, SECRET)),
                "{}",
                vector.name
            );
            let other = SignedRequest {
                path: "/other",
                ..vector.request()
            };
            assert!(
                is_mismatch(signature.verify(&other, SECRET)),
                "{}",
                vector.name
            );
            let other = SignedRequest {
                query: "a=b",
                ..vector.request()
            };
            assert!(
                is_mismatch(signature.verify(&other, SECRET)),
                "{}",
                vector.name
            );
            let other = SignedRequest {
                body: b"other",
                ..vector.request()
            };
            assert!(
                is_mismatch(signature.verify(&other, SECRET)),
                "{}",
                vector.name
            );
            let mut headers = vector.headers.clone();
            headers.insert("host", HeaderValue::from_static("example.com"));
            let other = SignedRequest {
                headers: &headers,
                ..vector.request()
            };
            assert!(
                is_mismatch(signature.verify(&other, SECRET)),
                "{}",
                vector.name
            );
        }
    }

    #[test]
    fn header_of_aws_that_is_not_signed_is_rejected() {
        let mut vector = Vector::all().remove(0);
        let token = HeaderValue::from_static("token");
        vector.headers.insert("x-amz-security-token", token);
        let unsigned = SignatureError::Unsigned("x-amz-security-token".to_owned());
        assert_eq!(vector.verify(SECRET), Err(unsigned));
    }

    #[test]
    fn date_of_another_day_than_the_scope_is_rejected() {
        let mut vector = Vector::all().remove(0);
        let date = HeaderValue::from_static("20210512T154045Z");
        vector.headers.insert("x-amz-date", date);
        assert!(matches!(
            vector.verify(SECRET),
            Err(SignatureError::Scope(_))
        ));
    }

    #[test]
    fn signed_headers_that_are_unsorted_or_repeated_are_rejected() {
        for signed in ["x-amz-date;host", "host;host;x-amz-date", "Host;x-amz-date"] {
            let mut headers = HeaderMap::new();
            let value = format!(
                "AWS4-HMAC-SHA256 Credential=A/20150830/us-east-1/bedrock/aws4_request, SignedHeaders={signed}, Signature=00"
            );
            headers.insert(
                "authorization",
                HeaderValue::try_from(value).expect("a value"),
            );
            let error = Signature::parse(&headers).expect_err("it is malformed");
            assert!(
                matches!(error, SignatureError::Incomplete(_)),
                "{signed}: {error:?}"
            );
        }
    }

    #[test]
    fn path_is_encoded_once_more() {
        // The second is the canonical path of `double-encode-path` of the test suite.
        let cases = [
            (
                "/model/us.anthropic.claude-v1:0/invoke",
                "/model/us.anthropic.claude-v1%3A0/invoke",
            ),
            (
                "/test/@connections/JBDvjfGEIAMCERw%3D",
                "/test/%40connections/JBDvjfGEIAMCERw%253D",
            ),
            ("/model/a%2Fb/invoke", "/model/a%252Fb/invoke"),
            ("", "/"),
            ("/a/..", "/"),
            ("/a/", "/a/"),
        ];
        for (path, canonical) in cases {
            assert_eq!(canonical_path(path), canonical);
        }
    }

    #[test]
    fn query_is_sorted_by_its_encoded_pairs() {
        assert_eq!(
            canonical_query("b=1&a=%7e&a&c=a%2Fb&a="),
            "a=&a=&a=~&b=1&c=a%2Fb"
        );
    }

    #[test]
    fn time_beyond_five_minutes_is_rejected() {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-date", HeaderValue::from_static("20150830T123600Z"));
        let at = Duration::from_secs(seconds("20150830T123600Z").expect("a date"));
        for (offset, is_near) in [(0, true), (300, true), (301, false)] {
            let offset = Duration::from_secs(offset);
            for now in [UNIX_EPOCH + at + offset, UNIX_EPOCH + at - offset] {
                assert_eq!(check_time(&headers, now).is_ok(), is_near, "{offset:?}");
            }
        }
        headers.insert("x-amz-date", HeaderValue::from_static("yesterday"));
        let result = check_time(&headers, UNIX_EPOCH);
        assert!(matches!(result, Err(SignatureError::Incomplete(_))));
    }
}
