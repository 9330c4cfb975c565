//! Alerts as signed webhooks. Needs the feature `webhook`.
//!
//! [`Webhook::start`] returns an [`AlertSink`], and a sender that posts its alerts
//! to a URL. The requests follow [Standard Webhooks](https://www.standardwebhooks.com), so that any
//! library for it can verify them.
//!
//! ```
//! use http::{Request, Response, Uri};
//! use tower::service_fn;
//! use tower_claude_core::{
//!     RequestBody,
//!     alert::{AlertObserver, webhook::{Webhook, WebhookSecret}},
//! };
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The HTTP client, for example one of hyper-util or reqwest.
//! let client = service_fn(|_: Request<RequestBody>| async {
//!     Ok::<_, std::convert::Infallible>(Response::new(()))
//! });
//! let secret = WebhookSecret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
//! let url = Uri::from_static("https://hooks.example.com/claude");
//! let (sink, sender) = Webhook::new(url, secret).start(client);
//! let alerts = AlertObserver::new().with_sink(sink);
//! tokio::spawn(sender.run());
//! tokio::spawn(alerts.run());
//! # Ok(())
//! # }
//! ```
//!
//! # Requests
//!
//! | Part | Content |
//! |---|---|
//! | `webhook-id` | The id of the message, the same in all attempts. |
//! | `webhook-timestamp` | The time of the attempt in Unix seconds. |
//! | `webhook-signature` | `v1,` and the HMAC-SHA256 of id, timestamp and body, in base64. |
//! | Body | JSON with `type` (`alert.raised` or `alert.resolved`), `timestamp` and `data`. |
//!
//! `data` has the fields `alert`, `severity`, `subject`, `dimension` (or null), `value`, `since`,
//! `message` and `help` of the [`Alert`]. It has no content of requests and no key.
//!
//! # Delivery
//!
//! - Messages are sent one after the other, in their order. A call never waits for them.
//! - 429, 5xx, a timeout and an error of the client are tried again, after 1 s, 2 s and so on up to
//!   60 s, or the longer `retry-after` of the response. Any other answer than 2xx is final.
//! - An alert that is raised is sent once until it is resolved.
//! - If the queue is full, new alerts are dropped and counted ([`WebhookSink::lost`]), with one
//!   line of the log. Messages that are still queued when the sender is dropped are lost as well.

mod message;
mod secret;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    fmt,
    future::poll_fn,
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use http::{Request, Response, StatusCode, Uri};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, sleep, timeout},
};
use tower_claude_wire::retry_after;
use tower_service::Service;

use self::message::Message;
use super::{Alert, AlertKind, AlertSink};
use crate::{dimension::Dimension, request_body::RequestBody};

pub use self::secret::{InvalidSecret, WebhookSecret};

const TARGET: &str = "tower_claude::alert";

const CAPACITY: NonZeroUsize = NonZeroUsize::new(256).unwrap();
const MAX_ATTEMPTS: NonZeroU32 = NonZeroU32::new(10).unwrap();

/// The longest wait between two attempts, without a `retry-after`.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// The longest `retry-after` that is followed.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// The settings of a webhook.
#[derive(Clone)]
#[must_use = "a webhook sends nothing until it is started"]
pub struct Webhook {
    url: Uri,
    secret: WebhookSecret,
    capacity: NonZeroUsize,
    max_attempts: NonZeroU32,
    timeout: Duration,
}

impl Webhook {
    /// Creates a webhook that posts alerts to this URL.
    pub const fn new(url: Uri, secret: WebhookSecret) -> Self {
        Self {
            url,
            secret,
            capacity: CAPACITY,
            max_attempts: MAX_ATTEMPTS,
            timeout: Duration::from_secs(15),
        }
    }

    /// Sets the most messages that wait. 256 by default. Further ones are dropped.
    pub const fn with_capacity(mut self, messages: NonZeroUsize) -> Self {
        self.capacity = messages;
        self
    }

    /// Sets the most attempts for a message. 10 by default, which takes about four minutes. With 1,
    /// nothing is sent again.
    pub const fn with_max_attempts(mut self, attempts: NonZeroU32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets the longest time of an attempt. 15 s by default. The attempt has then failed.
    pub const fn with_timeout(mut self, time: Duration) -> Self {
        self.timeout = time;
        self
    }

    /// Returns a sink for alerts, and the sender of its messages. `client` is an HTTP client as a
    /// tower service. It must not retry.
    pub fn start<S>(self, client: S) -> (WebhookSink, WebhookSender<S>) {
        let capacity = self.capacity.get().min(Semaphore::MAX_PERMITS);
        let (queue, messages) = mpsc::channel(capacity);
        let lost = Arc::new(AtomicU64::new(0));
        let sink = WebhookSink {
            queue,
            shared: Arc::default(),
            lost: lost.clone(),
        };
        let sender = WebhookSender {
            settings: self,
            client,
            messages,
            lost,
        };
        (sink, sender)
    }
}

impl fmt::Debug for Webhook {
    /// Leaves out the path of the URL, which can be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("host", &self.url.host())
            .field("secret", &self.secret)
            .field("capacity", &self.capacity)
            .field("max_attempts", &self.max_attempts)
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// The subject of an alert of one kind.
type Key = (AlertKind, Arc<str>, Option<Dimension>);

/// The state of a sink and its clones.
#[derive(Debug, Default)]
struct SinkState {
    /// The alerts that were queued as raised, and not yet as resolved.
    raised: Mutex<HashSet<Key>>,
    /// The last alert found the queue full.
    is_full: AtomicBool,
}

/// A sink that queues alerts for a [`WebhookSender`].
///
/// Cheap to clone. Clones share the queue.
#[derive(Clone, Debug)]
pub struct WebhookSink {
    queue: mpsc::Sender<Message>,
    shared: Arc<SinkState>,
    lost: Arc<AtomicU64>,
}

impl WebhookSink {
    /// Returns the number of messages that were not delivered: the queue was full, the receiver did
    /// not accept them, or all attempts failed.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn push(&self, alert: &Alert, now: Instant, at: SystemTime) {
        let key = (alert.kind, alert.subject.clone(), alert.dimension);
        // Held until the message is queued, so that messages are in the order of the states.
        let raised = self.shared.raised.lock();
        let mut raised = raised.unwrap_or_else(PoisonError::into_inner);
        if raised.contains(&key) == alert.raised {
            return;
        }
        let message = Message::of(alert, now, at, fastrand::u128(..));
        if let Err(error) = self.queue.try_send(message) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            if !self.shared.is_full.swap(true, Ordering::Relaxed) {
                tracing::warn!(target: TARGET, %error, "alerts are not sent to the webhook");
            }
            return;
        }
        self.shared.is_full.store(false, Ordering::Relaxed);
        match alert.raised {
            true => raised.insert(key),
            false => raised.remove(&key),
        };
    }
}

impl AlertSink for WebhookSink {
    fn on_alert(&self, alert: &Alert) {
        self.push(alert, Instant::now(), SystemTime::now());
    }
}

/// A sender of the messages of a [`WebhookSink`].
#[must_use = "messages are sent while `run` is polled"]
pub struct WebhookSender<S> {
    settings: Webhook,
    client: S,
    messages: mpsc::Receiver<Message>,
    lost: Arc<AtomicU64>,
}

impl<S> WebhookSender<S> {
    /// Sends messages. Spawn it. It ends when all sinks are dropped and their messages are sent.
    pub async fn run<B>(mut self)
    where
        S: Service<Request<RequestBody>, Response = Response<B>>,
    {
        while let Some(message) = self.messages.recv().await {
            self.deliver(&message).await;
        }
    }

    /// Sends a message until it is accepted or lost.
    async fn deliver<B>(&mut self, message: &Message)
    where
        S: Service<Request<RequestBody>, Response = Response<B>>,
    {
        for attempt in 1.. {
            let (to, secret) = (&self.settings.url, &self.settings.secret);
            let request = message.request(to, secret, SystemTime::now());
            let sending = timeout(self.settings.timeout, send(&mut self.client, request));
            let result = sending.await.unwrap_or(AttemptResult::Failed);
            let max_attempts = self.settings.max_attempts.get();
            match next_step(&result, attempt, max_attempts, fastrand::f64()) {
                Step::Accepted => return,
                Step::Wait(time) => sleep(time).await,
                Step::Lost => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    let status = match result {
                        AttemptResult::Answered { status, .. } => Some(status.as_u16()),
                        AttemptResult::Failed => None,
                    };
                    let id = message.id();
                    tracing::warn!(target: TARGET, id, attempt, status, "webhook not delivered");
                    return;
                }
            }
        }
    }
}

impl<S> fmt::Debug for WebhookSender<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookSender")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The result of one attempt to send a message.
#[derive(Clone, Copy, Debug)]
enum AttemptResult {
    Answered {
        status: StatusCode,
        retry_after: Option<Duration>,
    },
    /// A timeout, or an error of the client.
    Failed,
}

async fn send<S, B>(client: &mut S, request: Request<RequestBody>) -> AttemptResult
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
{
    if poll_fn(|cx| client.poll_ready(cx)).await.is_err() {
        return AttemptResult::Failed;
    }
    match client.call(request).await {
        Ok(response) => AttemptResult::Answered {
            status: response.status(),
            retry_after: retry_after(response.headers(), SystemTime::now()),
        },
        Err(_) => AttemptResult::Failed,
    }
}

/// The step after an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Accepted,
    Wait(Duration),
    Lost,
}

/// Returns the step after attempt number `attempt`, from 1. `jitter` is between 0 and 1.
fn next_step(result: &AttemptResult, attempt: u32, max_attempts: u32, jitter: f64) -> Step {
    let least = match result {
        AttemptResult::Answered { status, .. } if status.is_success() => return Step::Accepted,
        AttemptResult::Answered {
            status,
            retry_after,
        } => {
            if *status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
                return Step::Lost;
            }
            retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER)
        }
        AttemptResult::Failed => Duration::ZERO,
    };
    if attempt >= max_attempts {
        return Step::Lost;
    }
    let doubled = 1u64.checked_shl(attempt - 1).unwrap_or(u64::MAX);
    let backoff = Duration::from_secs(doubled).min(LONGEST_BACKOFF);
    // Several processes notice the same incident, so their attempts are spread.
    Step::Wait(least.max(backoff.mul_f64(1.0 - jitter / 2.0)))
}
