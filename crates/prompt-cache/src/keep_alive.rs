//! Requests that renew cached prefixes in a pause, and the driver that sends them.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use tokio::{
    sync::Notify,
    time::{Instant, timeout, timeout_at},
};
use tower_claude_core::{BoxError, Call, Deadline, Priority, RequestBody, toolkit::SavedRequest};
use tower_claude_wire::{CacheTtl, Fields, Usage, json_text};
use tower_service::Service;

use crate::{kept::KeptPrefixes, reuse::PERIOD, shared::Shared};

/// The time after which a renewal is too late: it would write the prefix again.
const LIFETIME: Duration = CacheTtl::FiveMinutes.duration();

/// The longest time that a renewal may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The most bytes of a response that are read. It has no content.
const MAX_RESPONSE: usize = 64 * 1024;

/// Request extension of a renewal, which is no use of its prompt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Renewal;

/// A driver that sends the requests which keep cached prefixes alive in a pause.
///
/// [`PromptCacheLayer::with_keep_alive`](crate::PromptCacheLayer::with_keep_alive) creates it.
/// After it was dropped, nothing is renewed and no request is kept.
#[must_use = "a driver does nothing unless it runs"]
pub struct KeepAliveDriver {
    link: Arc<DriverLink>,
}

/// The connection of a driver to its layer.
#[derive(Debug, Default)]
pub(crate) struct DriverLink {
    /// A setter replaces it.
    shared: Mutex<Weak<Shared>>,
    /// Notified when the next renewal changes, and at the end.
    notify: Arc<Notify>,
    is_dropped: AtomicBool,
}

impl DriverLink {
    /// Connects the driver to this state.
    pub(crate) fn connect(&self, shared: &Arc<Shared>) {
        let mut connected = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *connected, Arc::downgrade(shared));
        drop(connected);
        if let Some(old) = old.upgrade() {
            drop(old.kept(KeptPrefixes::close));
        }
        if self.is_dropped.load(Ordering::Relaxed) {
            drop(shared.kept(KeptPrefixes::close));
        }
        self.notify.notify_one();
    }

    /// Returns the notification of a changed time.
    pub(crate) fn notify(&self) -> Arc<Notify> {
        self.notify.clone()
    }

    fn shared(&self) -> Option<Arc<Shared>> {
        let connected = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        connected.upgrade()
    }
}

impl Drop for KeepAliveDriver {
    fn drop(&mut self) {
        self.link.is_dropped.store(true, Ordering::Relaxed);
        if let Some(shared) = self.link.shared() {
            drop(shared.kept(KeptPrefixes::close));
        }
    }
}

impl KeepAliveDriver {
    pub(crate) const fn new(link: Arc<DriverLink>) -> Self {
        Self { link }
    }

    /// Sends renewals through a service until the layer, its handles and its services are gone. The
    /// service is a clone of the client, or of the stack. A clone of the stack has services of the
    /// layer, so then the driver runs until its task ends.
    ///
    /// A renewal is the last request of a prefix with `max_tokens: 0`, so it produces no output,
    /// and with the priority [`Priority::Batch`]. It is sent every 4.5 minutes, while a return is
    /// likely enough to pay for it. A renewal that fails, or that reads nothing, is the last one.
    /// One that is too late, because others took long, is left out.
    pub async fn run<S, R>(self, mut service: S)
    where
        S: Service<Request<RequestBody>, Response = Response<R>>,
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        loop {
            let Some(shared) = self.link.shared() else {
                return;
            };
            let next = shared.kept(KeptPrefixes::next);
            drop(shared);
            let changed = self.link.notify.notified();
            match next {
                None => changed.await,
                Some(at) => {
                    if timeout_at(at, changed).await.is_ok() {
                        continue;
                    }
                }
            }
            let Some(shared) = self.link.shared() else {
                return;
            };
            let now = Instant::now();
            if let Some((hash, mut kept)) = shared.kept(|kept| kept.take_due(now))
                && now < kept.next + (LIFETIME - PERIOD)
                && let Some(usage) = renew(&kept.request, &mut service).await
            {
                shared.on_renewed(hash, &kept, &usage, now);
                kept.next = now + PERIOD;
                let reads = usage.cache_read_input_tokens.is_some_and(|read| read > 0);
                if reads && kept.next < kept.until {
                    drop(shared.kept(|all| all.insert(hash, kept)));
                }
            }
        }
    }
}

impl fmt::Debug for KeepAliveDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeepAliveDriver").finish_non_exhaustive()
    }
}

/// Sends a renewal, and returns its usage. `None` if it fails.
async fn renew<S, R>(request: &SavedRequest, service: &mut S) -> Option<Usage>
where
    S: Service<Request<RequestBody>, Response = Response<R>>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    let mut renewal = request.copy();
    let body = renewal_body(request.body().bytes()?)?;
    let headers = renewal.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.remove("idempotency-key");
    *renewal.body_mut() = body.into();
    // The record and the deadline of the call that wrote the prefix are over.
    let extensions = renewal.extensions_mut();
    extensions.remove::<Arc<Call>>();
    extensions.remove::<Deadline>();
    extensions.insert(Renewal);
    extensions.insert(Priority::Batch);
    let answer = async {
        std::future::poll_fn(|cx| service.poll_ready(cx))
            .await
            .ok()?;
        let response = service.call(renewal).await.ok()?;
        let is_success = response.status().is_success();
        let body = Limited::new(response.into_body(), MAX_RESPONSE);
        let body = body.collect().await.ok().filter(|_| is_success)?;
        Usage::from_message(&body.to_bytes())
    };
    timeout(TIMEOUT, answer).await.ok()?
}

/// Returns the body of a renewal: the same prompt without output. `None` if the API would reject
/// it.
pub(crate) fn renewal_body(body: &[u8]) -> Option<Vec<u8>> {
    let mut edits = Vec::new();
    let mut has_max_tokens = false;
    for field in Fields::open(body)? {
        let field = field.ok()?;
        let value = field.value_in(body);
        let kind = |value| {
            let mut fields = Fields::open(value)?.flatten();
            let kind = fields.find(|field| field.name == "type")?;
            json_text(kind.value_in(value)).map(Cow::into_owned)
        };
        match &*field.name {
            "max_tokens" => {
                has_max_tokens = true;
                edits.push((field.value..field.span.end, "0"));
            }
            "stream" => edits.push((field.value..field.span.end, "false")),
            "thinking" if kind(value).as_deref() == Some("enabled") => return None,
            "tool_choice" if matches!(kind(value).as_deref(), Some("any" | "tool")) => {
                return None;
            }
            "output_config" => {
                let mut fields = Fields::open(value)?.flatten();
                if fields.any(|field| field.name == "format") {
                    return None;
                }
            }
            "compaction" | "container" | "fallbacks" | "mcp_servers" | "thread"
                if value != b"null" =>
            {
                return None;
            }
            _ => {}
        }
    }
    let mut renewal = Vec::with_capacity(body.len());
    let mut copied = 0;
    for (range, value) in edits {
        renewal.extend_from_slice(body.get(copied..range.start)?);
        renewal.extend_from_slice(value.as_bytes());
        copied = range.end;
    }
    renewal.extend_from_slice(body.get(copied..)?);
    has_max_tokens.then_some(renewal)
}

#[cfg(test)]
mod tests {
    use super::renewal_body;

    fn of(body: &str) -> Option<String> {
        renewal_body(body.as_bytes()).map(|body| String::from_utf8(body).expect("JSON"))
    }

    #[test]
    fn renewal_differs_in_output_and_stream_only() {
        assert_eq!(
            of(r#"{"max_tokens": 64,"messages":[1] , "stream":true}"#).as_deref(),
            Some(r#"{"max_tokens": 0,"messages":[1] , "stream":false}"#),
        );
    }

    #[test]
    fn body_that_the_api_rejects_without_output_is_not_renewed() {
        for field in [
            r#""thinking":{"type":"enabled","budget_tokens":2048}"#,
            r#""tool_choice":{"type":"any"}"#,
            r#""output_config":{"format":{"type":"json_schema"}}"#,
            r#""thread":{"id":"t"}"#,
        ] {
            assert_eq!(
                of(&format!(r#"{{"max_tokens":1,{field}}}"#)),
                None,
                "{field}"
            );
        }
        assert_eq!(of(r#"{"messages":[]}"#), None);
        assert_eq!(of("no JSON"), None);
    }
}
