//! Signer of requests to AWS for tests. It can only sign plain paths.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hmac_sha256::{HMAC, Hash};
use http::Request;
use http_body_util::Full;

/// The key, the scope and the time of a signature.
pub(crate) struct Signer<'a> {
    pub(crate) key: (&'a str, &'a str),
    pub(crate) session: Option<&'a str>,
    pub(crate) region: &'a str,
    pub(crate) service: &'a str,
    pub(crate) time: SystemTime,
}

impl Default for Signer<'_> {
    fn default() -> Self {
        Self {
            key: ("AKID", "secret"),
            session: None,
            region: "us-east-1",
            service: "bedrock",
            time: SystemTime::now(),
        }
    }
}

impl Signer<'_> {
    pub(crate) fn post(&self, path: &str, body: &str) -> Request<Full<Bytes>> {
        let date = date(self.time);
        let day = &date[..8];
        let session = self.session.unwrap_or_default();
        let (token, names) = match self.session {
            Some(_) => (
                format!("x-amz-security-token:{session}\n"),
                "host;x-amz-date;x-amz-security-token",
            ),
            None => (String::new(), "host;x-amz-date"),
        };
        let canonical = format!(
            "POST\n{path}\n\nhost:localhost\nx-amz-date:{date}\n{token}\n{names}\n{}",
            hex(&Hash::hash(body.as_bytes()))
        );
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let hash = hex(&Hash::hash(canonical.as_bytes()));
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{hash}");
        let start = format!("AWS4{}", self.key.1).into_bytes();
        let key = [day, self.region, self.service, "aws4_request"]
            .iter()
            .fold(start, |key, part| HMAC::mac(part, key).to_vec());
        let signature = hex(&HMAC::mac(text, key));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.key.0
        );
        let mut request = Request::post(path)
            .header("host", "localhost")
            .header("x-amz-date", date)
            .header("anthropic-version", "2023-06-01")
            .header("authorization", authorization);
        if let Some(session) = self.session {
            request = request.header("x-amz-security-token", session);
        }
        let body = Full::new(Bytes::from(body.to_owned()));
        request.body(body).expect("a request")
    }
}

/// Returns a time such as `20150830T123600Z`.
fn date(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = i64::try_from(since.as_secs()).expect("a time");
    let time = jiff::Timestamp::from_second(seconds).expect("a time");
    time.strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
