//! The client most programs have: an HTTP client with the official SDK's retries around it.

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;
use hyper_util::client::legacy::{Client, connect::HttpConnector};

use crate::answer::{self, Ending};
use crate::sdk;

/// Sends requests as the official SDKs do.
#[derive(Clone)]
pub(crate) struct Plain {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Plain {
    pub(crate) fn new() -> Self {
        Self {
            client: crate::replay::http_client(),
        }
    }

    /// Sends until there is an answer to keep. Retries end with its head: what breaks later stays broken.
    pub(crate) async fn send(&self, request: Request<Bytes>, seed: u64) -> Ending {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (head, body) = request.into_parts();
        let mut taken = 0;
        loop {
            let mut attempt = Request::from_parts(head.clone(), Full::new(body.clone()));
            let count = HeaderValue::from(taken);
            attempt
                .headers_mut()
                .insert("x-stainless-retry-count", count);
            let result = self.client.request(attempt).await;
            let last = taken == sdk::MAX_RETRIES;
            let delay = match result {
                Ok(response) => {
                    let (status, headers) = (response.status(), response.headers());
                    if status.is_success() || last || !sdk::should_retry(status, headers) {
                        return answer::read(response).await;
                    }
                    sdk::delay(Some(headers), taken, rng.f64(), SystemTime::now())
                }
                Err(_) if last => return Ending::NO_ANSWER,
                Err(_) => sdk::delay(None, taken, rng.f64(), SystemTime::now()),
            };
            tokio::time::sleep(delay).await;
            taken += 1;
        }
    }
}
