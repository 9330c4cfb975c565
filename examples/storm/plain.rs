//! The client most programs have: an HTTP client with the official SDK's retries around it.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Full;
use hyper_util::client::legacy::{Client, connect::HttpConnector};

use tokio::sync::Semaphore;

use crate::answer::{self, Ending};
use crate::load::CONNECTIONS;
use crate::replay::Pauses;
use crate::sdk;

/// Sends requests as the official SDKs do.
#[derive(Clone)]
pub(crate) struct Plain {
    client: Client<HttpConnector, Full<Bytes>>,
    connections: Arc<Semaphore>,
}

impl Plain {
    pub(crate) fn new() -> Self {
        Self {
            client: crate::replay::http_client(),
            connections: Arc::new(Semaphore::new(CONNECTIONS as usize)),
        }
    }

    /// Sends until there is an answer to keep. Retries end with its head: what breaks later stays
    /// broken.
    pub(crate) async fn send(&self, request: Request<Bytes>, pauses: &Pauses) -> Ending {
        let (head, body) = request.into_parts();
        let mut taken = 0;
        loop {
            let mut attempt = Request::from_parts(head.clone(), Full::new(body.clone()));
            let count = HeaderValue::from(taken);
            attempt
                .headers_mut()
                .insert("x-stainless-retry-count", count);
            // Held to the end of the answer, like the connection.
            let connection = self.connections.acquire().await;
            let result = self.client.request(attempt).await;
            let last = taken == sdk::MAX_RETRIES;
            let delay = match result {
                Ok(response) => {
                    let (status, headers) = (response.status(), response.headers());
                    if status.is_success() || last || !sdk::should_retry(status, headers) {
                        return answer::read(response).await;
                    }
                    let delay =
                        sdk::delay(Some(headers), taken, fastrand::f64(), SystemTime::now());
                    if status != StatusCode::TOO_MANY_REQUESTS {
                        pauses.note(delay);
                    }
                    delay
                }
                Err(_) if last => return Ending::NO_ANSWER,
                Err(_) => {
                    let delay = sdk::delay(None, taken, fastrand::f64(), SystemTime::now());
                    pauses.note(delay);
                    delay
                }
            };
            drop(connection);
            tokio::time::sleep(delay).await;
            taken += 1;
        }
    }
}
